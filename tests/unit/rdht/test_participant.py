import copy
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.limits import PREPARED_TIMEOUT_S
from rdht.messages import Message, Name, Operation, Reason, Status
from rdht.participant import ABSENT, TRANSITIONS, Entry, Event, Participant, State

KEY, OTHER_KEY = b"key", b"other key"
T1, T2 = Name(1, 1, 1), Name(2, 1, 1)
NOW_S = 1000.0


def request(
    name: Name,
    operation: Operation = Operation.PUT,
    key: bytes = KEY,
    value: bytes = b"",
    version: int = 0,
) -> Message:
    return Message(
        Status.REQUEST, name, operation, version=version, key=key, value=value or b"%d" % name[0]
    )


def proceed(name: Name) -> Message:
    return Message(Status.PROCEED, name, Operation.PUT, key=KEY)


def abort(name: Name) -> Message:
    return Message(Status.ABORT, name, Operation.PUT, key=KEY)


def held(participant: Participant) -> object:
    """Return a copy of everything that a participant holds."""
    return copy.deepcopy((participant.table, participant.locks, participant.prepared))


def prepared(participant: Participant) -> Participant:
    assert participant.handle(request(T1), NOW_S).status is Status.YES
    return participant


def busy(participant: Participant) -> Participant:
    assert participant.handle(request(T2), NOW_S).status is Status.YES
    return participant


def stopping(participant: Participant) -> Participant:
    participant.stopping = True
    return participant


def state_of(participant: Participant, name: Name) -> State:
    return State.PREPARED if name in participant.prepared else State.IDLE


def act(message: Message) -> Callable[[Participant], Message | None]:
    return lambda participant: participant.handle(message, NOW_S)


def abandon(participant: Participant) -> None:
    assert participant.abandon(T1.client) == [T1]


def expire(participant: Participant) -> None:
    assert participant.expire(NOW_S + PREPARED_TIMEOUT_S) == [T1]


def untouched(participant: Participant) -> Participant:
    return participant


# How each row of the table is reached from outside, and what is answered.
Case = tuple[
    State,
    Event,
    Callable[[Participant], Participant],
    Callable[[Participant], Message | None],
    Status | None,
]
LEGAL: list[Case] = [
    (State.IDLE, Event.REQUEST_GRANTED, untouched, act(request(T1)), Status.YES),
    (State.IDLE, Event.REQUEST_REFUSED, busy, act(request(T1)), Status.NO),
    (State.IDLE, Event.REQUEST_REFUSED, stopping, act(request(T1)), Status.NO),
    (State.IDLE, Event.PROCEED, untouched, act(proceed(T1)), Status.ABORTED),
    (State.IDLE, Event.ABORT, untouched, act(abort(T1)), Status.ABORTED),
    (State.PREPARED, Event.REQUEST_AGAIN, prepared, act(request(T1)), Status.YES),
    (State.PREPARED, Event.PROCEED, prepared, act(proceed(T1)), Status.DONE),
    (State.PREPARED, Event.ABORT, prepared, act(abort(T1)), Status.ABORTED),
    (State.PREPARED, Event.ABANDONED, prepared, abandon, None),
    (State.PREPARED, Event.ABANDONED, prepared, expire, None),
]
ILLEGAL = sorted(set(product(State, Event)) - set(TRANSITIONS))


@pytest.mark.parametrize("case", LEGAL, ids=lambda case: f"{case[0]}-{case[1]}")
def test_a_transition_ends_in_the_state_that_the_table_says(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, event, prepare, happen, answer = case
    participant = prepare(Participant())
    assert state_of(participant, T1) is state
    events: list[Event] = []
    step = participant._step

    def spy(event: Event, message: Message, now_s: float) -> Message:
        events.append(event)
        return step(event, message, now_s)

    monkeypatch.setattr(participant, "_step", spy)
    message = happen(participant)
    assert events == [event]
    assert state_of(participant, T1) is TRANSITIONS[state, event][0]
    assert (message and message.status) == answer
    assert message is None or message.name == T1


def test_every_row_of_the_table_is_reached_from_outside() -> None:
    assert {(state, event) for state, event, *_ in LEGAL} == set(TRANSITIONS)


@pytest.mark.parametrize(("state", "event"), ILLEGAL)
def test_an_event_that_the_table_does_not_have_raises_and_changes_nothing(
    state: State, event: Event
) -> None:
    participant = Participant()
    if state is State.PREPARED:
        prepared(participant)
    before = held(participant)
    with pytest.raises(LocalProtocolError, match=f"that is {state} has no event {event}"):
        participant._step(event, request(T1), NOW_S)
    assert held(participant) == before


@pytest.mark.parametrize("prepare", [untouched, prepared])
@pytest.mark.parametrize(
    "status", sorted(set(Status) - {Status.REQUEST, Status.PROCEED, Status.ABORT})
)
def test_a_message_that_is_no_clients_raises_and_changes_nothing(
    status: Status, prepare: Callable[[Participant], Participant]
) -> None:
    participant = prepare(Participant())
    before = held(participant)
    with pytest.raises(RemoteProtocolError, match=f"takes no {status.name} of operation PUT"):
        participant.handle(Message(status, T1, Operation.PUT, key=KEY), NOW_S)
    assert held(participant) == before


def test_a_request_without_an_operation_raises_and_changes_nothing() -> None:
    participant = Participant()
    with pytest.raises(RemoteProtocolError, match="takes no REQUEST of operation NONE"):
        participant.handle(request(T1, Operation.NONE), NOW_S)
    assert held(participant) == ({}, {}, {})


def run(participant: Participant, message: Message) -> Message:
    assert participant.handle(message, NOW_S).status is Status.YES
    return participant.handle(Message(Status.PROCEED, message.name), NOW_S)


def with_entry(entry: Entry | None) -> Participant:
    participant = Participant()
    if entry is not None:
        participant.table[KEY] = entry
    return participant


THERE, DELETED = Entry(b"old", 3), Entry(None, 4)
Effect = tuple[Operation, int, Entry | None, Status, Entry | None, int, bytes]
EFFECTS: list[Effect] = [
    # operation, version asked for, entry before, result's status, entry after, its version, value
    (Operation.GET, 0, None, Status.DONE_NOTHING, None, 0, b""),
    (Operation.GET, 0, THERE, Status.DONE, THERE, 3, b"old"),
    (Operation.GET, 0, DELETED, Status.DONE_NOTHING, DELETED, 4, b""),
    (Operation.PUT, 0, None, Status.DONE, Entry(b"new", 1), 1, b""),
    (Operation.PUT, 0, THERE, Status.DONE, Entry(b"new", 4), 4, b""),
    (Operation.PUT, 0, DELETED, Status.DONE, Entry(b"new", 5), 5, b""),
    (Operation.ADD, 0, None, Status.DONE, Entry(b"new", 1), 1, b""),
    (Operation.ADD, 0, THERE, Status.DONE_NOTHING, THERE, 3, b""),
    (Operation.ADD, 0, DELETED, Status.DONE, Entry(b"new", 5), 5, b""),
    (Operation.DELETE, 0, None, Status.DONE_NOTHING, None, 0, b""),
    (Operation.DELETE, 0, THERE, Status.DONE, DELETED, 4, b""),
    (Operation.DELETE, 0, DELETED, Status.DONE_NOTHING, DELETED, 4, b""),
    (Operation.CAS, 0, None, Status.DONE, Entry(b"new", 1), 1, b""),
    (Operation.CAS, 1, None, Status.DONE_NOTHING, None, 0, b""),
    (Operation.CAS, 3, THERE, Status.DONE, Entry(b"new", 4), 4, b""),
    (Operation.CAS, 2, THERE, Status.DONE_NOTHING, THERE, 3, b""),
    (Operation.CAS, 4, DELETED, Status.DONE, Entry(b"new", 5), 5, b""),
    (Operation.CAS, 3, DELETED, Status.DONE_NOTHING, DELETED, 4, b""),
]


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_command_does_what_its_operation_says(effect: Effect) -> None:
    operation, asked, before, status, after, version, value = effect
    participant = with_entry(before)
    result = run(participant, request(T1, operation, value=b"new", version=asked))
    assert result == Message(status, T1, operation, Reason.NONE, version, b"", value)
    assert participant.table.get(KEY) == after
    assert not participant.locks
    assert not participant.prepared


def test_every_operation_has_its_effect_tested() -> None:
    assert {row[0] for row in EFFECTS} == set(Operation) - {Operation.NONE}


def test_an_empty_value_is_a_value() -> None:
    participant = with_entry(Entry(b"", 1))
    result = run(participant, request(T1, Operation.GET))
    assert (result.status, result.value) == (Status.DONE, b"")


@pytest.mark.parametrize(("entry", "version"), [(None, 0), (THERE, 3), (DELETED, 4)])
def test_a_yes_carries_the_keys_current_version(entry: Entry | None, version: int) -> None:
    vote = with_entry(entry).handle(request(T1), NOW_S)
    assert vote == Message(Status.YES, T1, Operation.PUT, version=version)


def test_nothing_is_applied_before_the_decision() -> None:
    participant = prepared(Participant())
    assert participant.table == {}
    assert participant.locks == {KEY: T1}
    assert list(participant.prepared) == [T1]


@pytest.mark.parametrize("happen", [act(abort(T1)), abandon, expire])
def test_what_was_aborted_leaves_no_trace(
    happen: Callable[[Participant], Message | None],
) -> None:
    participant = with_entry(THERE)
    happen(prepared(participant))
    assert held(participant) == ({KEY: THERE}, {}, {})


def test_a_no_says_whether_the_lock_was_taken_or_the_server_is_stopping() -> None:
    participant = busy(Participant())
    assert participant.handle(request(T1), NOW_S).reason is Reason.BUSY
    stopping(participant)
    assert participant.handle(request(T1), NOW_S).reason is Reason.STOPPING
    assert participant.handle(request(T1, key=OTHER_KEY), NOW_S).reason is Reason.STOPPING


def test_a_stopping_server_still_carries_out_what_it_voted_yes_to() -> None:
    participant = stopping(prepared(Participant()))
    assert participant.handle(request(T1), NOW_S).status is Status.YES
    assert participant.handle(proceed(T1), NOW_S).status is Status.DONE
    assert participant.table == {KEY: Entry(b"1", 1)}


def test_a_lock_is_of_one_key_only() -> None:
    participant = busy(Participant())
    assert participant.handle(request(T1, key=OTHER_KEY), NOW_S).status is Status.YES
    assert participant.locks == {KEY: T2, OTHER_KEY: T1}


def test_a_refused_transaction_can_neither_commit_nor_free_the_others_lock() -> None:
    participant = busy(Participant())
    assert participant.handle(request(T1), NOW_S).status is Status.NO
    before = held(participant)
    assert participant.handle(proceed(T1), NOW_S).status is Status.ABORTED
    assert participant.handle(abort(T1), NOW_S).status is Status.ABORTED
    assert held(participant) == before


def test_a_get_takes_the_lock_as_a_put_does() -> None:
    participant = Participant()
    assert participant.handle(request(T1, Operation.GET), NOW_S).status is Status.YES
    assert participant.handle(request(T2, Operation.GET), NOW_S).reason is Reason.BUSY


def test_a_repeated_request_changes_nothing() -> None:
    participant = prepared(Participant())
    before = held(participant)
    assert participant.handle(request(T1), NOW_S + 5).status is Status.YES
    assert held(participant) == before


def test_another_request_under_a_prepared_name_gets_no_yes() -> None:
    # That yes would promise what is neither locked nor staged.
    participant = prepared(Participant())
    before = held(participant)
    with pytest.raises(RemoteProtocolError):
        participant.handle(request(T1, key=OTHER_KEY), NOW_S)
    assert held(participant) == before


def test_a_vote_expires_at_its_deadline_and_not_before() -> None:
    participant = prepared(Participant())
    assert participant.expire(NOW_S + PREPARED_TIMEOUT_S - 0.001) == []
    assert participant.locks == {KEY: T1}
    assert participant.expire(NOW_S + PREPARED_TIMEOUT_S) == [T1]
    assert participant.locks == {}
    assert participant.expire(NOW_S + PREPARED_TIMEOUT_S) == []


def test_only_the_lost_clients_transactions_are_abandoned() -> None:
    participant = prepared(Participant())
    second = Name(T1.client, 2, 1)
    participant.handle(request(second, key=b"second"), NOW_S)
    participant.handle(request(T2, key=OTHER_KEY), NOW_S)
    assert participant.abandon(T1.client) == [T1, second]
    assert participant.locks == {OTHER_KEY: T2}
    assert participant.abandon(3) == []


NAMES = st.builds(Name, st.integers(1, 3), st.integers(1, 2), st.integers(1, 2))
KEYS = st.sampled_from([b"a", b"b", b"c"])
OPERATIONS = st.sampled_from([member for member in Operation if member is not Operation.NONE])
COMMANDS = st.builds(
    request, NAMES, OPERATIONS, KEYS, st.binary(min_size=1, max_size=2), st.integers(0, 3)
)
STEPS = st.one_of(
    st.builds(act, COMMANDS),
    st.builds(lambda name: act(proceed(name)), NAMES),
    st.builds(lambda name: act(abort(name)), NAMES),
    st.builds(lambda client: lambda it: it.abandon(client), st.integers(1, 3)),
    st.builds(lambda late_s: lambda it: it.expire(NOW_S + late_s), st.sampled_from([0, 100])),
)


@given(st.lists(STEPS, max_size=12))
def test_every_lock_belongs_to_one_prepared_transaction_whatever_happens(
    steps: list[Callable[[Participant], object]],
) -> None:
    participant = Participant()
    for step in steps:
        table = dict(participant.table)
        try:
            step(participant)
        except RemoteProtocolError:  # a name used for two commands
            assert participant.table == table
        locks = {staged.key: name for name, staged in participant.prepared.items()}
        assert participant.locks == locks
        assert len(participant.locks) == len(participant.prepared)
        for key, entry in participant.table.items():
            assert entry.version - table.get(key, ABSENT).version in {0, 1}
            assert (entry == table.get(key)) == (entry.version == table.get(key, ABSENT).version)


@given(st.lists(COMMANDS, max_size=12))
def test_commands_one_after_another_do_what_a_dictionary_does(commands: list[Message]) -> None:
    participant = Participant()
    model: dict[bytes, bytes] = {}
    versions = dict.fromkeys([b"a", b"b", b"c"], 0)
    for command in commands:
        _, _, operation, _, version, key, value = command
        was = model.get(key)
        succeeds = {
            Operation.GET: was is not None,
            Operation.PUT: True,
            Operation.ADD: was is None,
            Operation.DELETE: was is not None,
            Operation.CAS: versions[key] == version,
        }[operation]
        result = run(participant, command)
        if succeeds and operation is Operation.DELETE:
            del model[key]
        elif succeeds and operation is not Operation.GET:
            model[key] = value
        versions[key] += succeeds and operation is not Operation.GET
        assert (result.status is Status.DONE) == succeeds
        assert result.version == versions[key]
        assert result.value == (was or b"" if operation is Operation.GET else b"")
    table = participant.table
    assert {key: entry.value for key, entry in table.items() if entry.value is not None} == model
