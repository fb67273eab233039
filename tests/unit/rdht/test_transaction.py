import pickle

import pytest

from rdht import parts
from rdht.errors import RemoteProtocolError
from rdht.limits import MAX_VALUE_BYTES, MAX_WINDOW
from rdht.messages import Flag, Message, Name, Operation, Reason, Status
from rdht.parts import Result
from rdht.table import Entry
from tests.unit.rdht.lone import (
    ABORTED,
    DELETED,
    DONE,
    DONE_NOTHING,
    FAR_KEY,
    KEY,
    NO,
    NOW_S,
    OTHER_KEY,
    PREPARED,
    T1,
    THERE,
    YES,
    after,
    decide,
    proceed,
    read,
    request,
    spanning,
    table,
    told,
    with_entry,
)

MALFORMED = {
    "no operation": (request(T1, Operation.NONE), "asks for nothing"),
    "no keys": (Message(Status.REQUEST, T1, Operation.MANY, value=bytes(4)), "asks for nothing"),
    "cut": (Message(Status.REQUEST, T1, Operation.MANY, value=b"\0"), "malformed"),
    "a value over its limit": (request(T1, value=b"v" * (MAX_VALUE_BYTES + 1)), "a value of"),
    "a range that is not there": (spanning(T1, ranges=(0, 2, 3)), "no range 3, only 3 of them"),
}


@pytest.mark.parametrize(("message", "why"), MALFORMED.values(), ids=MALFORMED)
def test_a_request_that_no_client_sends_raises_and_changes_nothing(
    message: Message, why: str
) -> None:
    participant = after(ABORTED)
    message = message._replace(name=Name(1, MAX_WINDOW + 1, 1))  # which else forgets the first
    before = pickle.dumps(participant)
    with pytest.raises(RemoteProtocolError, match=why):
        participant.handle(message, NOW_S)
    assert pickle.dumps(participant) == before


Effect = tuple[Operation, int, Entry | None, Status, Entry | None, int, bytes]
EFFECTS: list[Effect] = [
    # operation, version asked for, entry before, result's status, entry after, version, value
    (Operation.GET, 0, None, DONE_NOTHING, None, 0, b""),
    (Operation.GET, 0, THERE, DONE, THERE, 3, b"old"),
    (Operation.GET, 0, DELETED, DONE_NOTHING, DELETED, 4, b""),
    (Operation.PUT, 0, None, DONE, Entry(b"new", 1), 0, b""),
    (Operation.PUT, 0, THERE, DONE, Entry(b"new", 4), 3, b""),
    (Operation.PUT, 0, DELETED, DONE, Entry(b"new", 5), 4, b""),
    (Operation.ADD, 0, None, DONE, Entry(b"new", 1), 0, b""),
    (Operation.ADD, 0, THERE, DONE_NOTHING, THERE, 3, b""),
    (Operation.ADD, 0, DELETED, DONE, Entry(b"new", 5), 4, b""),
    (Operation.DELETE, 0, None, DONE_NOTHING, None, 0, b""),
    (Operation.DELETE, 0, THERE, DONE, DELETED, 3, b""),
    (Operation.DELETE, 0, DELETED, DONE_NOTHING, DELETED, 4, b""),
    (Operation.CAS, 0, None, DONE, Entry(b"new", 1), 0, b""),
    (Operation.CAS, 1, None, DONE_NOTHING, None, 0, b""),
    (Operation.CAS, 3, THERE, DONE, Entry(b"new", 4), 3, b""),
    (Operation.CAS, 2, THERE, DONE_NOTHING, THERE, 3, b""),
    (Operation.CAS, 4, DELETED, DONE, Entry(b"new", 5), 4, b""),
    (Operation.CAS, 3, DELETED, DONE_NOTHING, DELETED, 4, b""),
]


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_late_command_votes_yes_and_tells_in_the_end_whether_it_found_what_it_asks(
    effect: Effect,
) -> None:
    operation, asked, before, status, entry, version, value = effect
    participant = with_entry(before)
    message = request(T1, operation, value=b"new", version=asked, flags=Flag.LATE)
    ((_, vote),) = participant.handle(message, NOW_S)
    reason = Reason.NONE if status is DONE else Reason.NOTHING
    assert vote == Message(YES, T1, operation, reason, epoch=1, version=version, value=value)
    assert table(participant).get(KEY) == before
    ((_, result),) = participant.handle(proceed(T1), NOW_S)
    assert result == vote._replace(status=status, reason=Reason.NONE)
    assert table(participant).get(KEY) == entry
    assert not participant.locks.holders
    assert not participant.transactions


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_command_whose_condition_fails_is_refused_at_once_and_a_get_never_is(
    effect: Effect,
) -> None:
    operation, asked, before, status, _, version, _ = effect
    participant = with_entry(before)
    ((_, vote),) = participant.handle(request(T1, operation, version=asked), NOW_S)
    refused = status is DONE_NOTHING and operation is not Operation.GET
    assert vote.status is (NO if refused else YES)
    assert vote.version == version
    assert (vote.reason is Reason.NOTHING) == (status is DONE_NOTHING)
    assert bool(participant.locks.holders) != refused


def test_every_operation_has_its_effect_tested() -> None:
    assert {row[0] for row in EFFECTS} == set(Operation) - {Operation.NONE, Operation.MANY}


def test_an_empty_value_is_a_value() -> None:
    participant = with_entry(Entry(b"", 1))
    assert told(participant.handle(read(T1), NOW_S)) == [(1, DONE, Reason.NONE)]
    participant.handle(request(T1, Operation.GET), NOW_S)
    assert told(participant.handle(proceed(T1), NOW_S)) == [(1, DONE, Reason.NONE)]


def test_nothing_is_applied_before_the_decision() -> None:
    participant = after(PREPARED)
    assert table(participant) == {}
    assert {key: tx.name for key, tx in participant.locks.holders.items()} == {KEY: T1}


def test_several_keys_take_effect_together() -> None:
    participant = with_entry(THERE)
    message = spanning(
        T1,
        [
            request(T1, Operation.GET),
            request(T1, Operation.PUT, FAR_KEY),
            request(T1, Operation.DELETE, OTHER_KEY),
        ],
        flags=Flag.LATE,
    )
    ((_, vote),) = participant.handle(message, NOW_S)
    assert parts.unpack_results(vote.value) == [  # in order of the keys
        Result(found=True, version=0),
        Result(found=True, version=3, value=b"old"),
        Result(found=False, version=0),
    ]
    assert participant.locks.holders.keys() == {KEY, FAR_KEY, OTHER_KEY}
    ((_, result),) = participant.handle(decide(Status.PROCEED, message), NOW_S)
    assert result == vote._replace(status=DONE)
    assert table(participant) == {KEY: THERE}
    assert table(participant, 2) == {FAR_KEY: Entry(b"1", 1)}
    assert participant.locks.holders == {}


def test_one_condition_of_several_that_fails_refuses_them_all() -> None:
    participant = with_entry(THERE)
    message = spanning(T1, [request(T1, key=FAR_KEY), request(T1, Operation.ADD)])
    ((_, vote),) = participant.handle(message, NOW_S)
    assert (vote.status, vote.reason, vote.version) == (NO, Reason.NOTHING, 3)
    assert participant.locks.holders == {}
    assert participant.transactions == {}


def test_what_does_not_fit_into_one_message_is_refused() -> None:
    participant = with_entry(Entry(b"v" * MAX_VALUE_BYTES, 1))
    table(participant)[OTHER_KEY] = Entry(b"v" * MAX_VALUE_BYTES, 1)
    asked = [request(T1, Operation.GET), request(T1, Operation.GET, OTHER_KEY)]
    out = participant.handle(spanning(T1, asked, (0,)), NOW_S)
    assert told(out) == [(1, NO, Reason.TOO_LONG)]
    assert participant.locks.holders == {}
