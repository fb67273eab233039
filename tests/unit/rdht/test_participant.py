import pickle
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rdht import parts
from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.limits import (
    MAX_QUEUE,
    MAX_VALUE_BYTES,
    MAX_WINDOW,
    PREPARED_TIMEOUT_S,
    RESOLVE_RETRY_S,
    RESUME_TIMEOUT_S,
)
from rdht.messages import Flag, Message, Name, Operation, Reason, Status
from rdht.participant import TRANSITIONS, Event, Outgoing, Participant, State, Transaction
from rdht.parts import Result
from rdht.replica import ABSENT, Copy, Entry, Mode, pack_pages
from rdht.ring import Replicas

# This is server a: it shares range 0 with b and range 2 with c, and has no part in range 1.
LAYOUT = (Replicas("a", "b"), Replicas("b", "c"), Replicas("c", "a"))
KEY, OTHER_KEY, FAR_KEY = b"key", b"other key", b"far key"  # the last one lies in range 2
T1, T2, T3 = Name(1, 1, 1), Name(2, 1, 1), Name(3, 1, 1)
NOW_S = 1000.0
LATER_S = NOW_S + PREPARED_TIMEOUT_S
MUCH_LATER_S = NOW_S + RESUME_TIMEOUT_S
Happening = Callable[[Participant], Outgoing]


def serving(*, durable: bool = False) -> Participant:
    participant = Participant("a", LAYOUT, durable=durable)
    for replica in participant.replicas.values():
        replica.install(Message(Status.JOINED, epoch=1), Copy())
        replica.mode = Mode.SERVING
    for client in (1, 2, 3):
        assert participant.connect(client, NOW_S, resume=False) == []
    return participant


def request(
    name: Name,
    operation: Operation = Operation.PUT,
    key: bytes = KEY,
    value: bytes = b"",
    **changed: Any,
) -> Message:
    value = value or b"%d" % name[0]
    message = Message(Status.REQUEST, name, operation, epoch=1, key=key, value=value)
    return message._replace(**{"range": 2 if key == FAR_KEY else 0, **changed})


def spanning(
    name: Name, asked: Iterable[Message] = (), ranges: tuple[int, ...] = (0, 2), flags: int = 0
) -> Message:
    """Return a request of several keys; unless told otherwise, it puts one of each range."""
    wanted = list(asked) or [request(name), request(name, key=FAR_KEY)]
    value = parts.pack([(number, 1) for number in ranges], wanted)
    return Message(Status.REQUEST, name, Operation.MANY, flags=flags, value=value)


def decide(status: Status, message: Message, **changed: Any) -> Message:
    """Return the proceed, abort or question that belongs to a request."""
    if message.operation is Operation.MANY:
        message = message._replace(value=parts.pack(parts.unpack(message.value, T1)[0], ()))
    else:
        message = message._replace(value=b"", version=0)
    return message._replace(status=status, flags=0)._replace(**changed)


def proceed(name: Name, **changed: Any) -> Message:
    return decide(Status.PROCEED, request(name), **changed)


def abort(name: Name, **changed: Any) -> Message:
    return decide(Status.ABORT, request(name), **changed)


def ask(message: Message, **changed: Any) -> Message:
    return decide(Status.RESOLVE, message, **changed)


def answer(status: Status, name: Name = T1, reason: Reason = Reason.NONE, **more: Any) -> Message:
    return Message(status, name, Operation.PUT, reason, **more)


def read(name: Name, key: bytes = KEY, **changed: Any) -> Message:
    return request(name, Operation.GET, key, status=Status.READ, **changed)


def act(*messages: Message) -> Happening:
    def happen(participant: Participant) -> Outgoing:
        return [sent for one in messages for sent in participant.handle(one, NOW_S)]

    return happen


def hear(server: str, message: Message) -> Happening:
    return lambda participant: participant.handle_peer(server, message, NOW_S)


def leave(client: int) -> Happening:
    return lambda participant: participant.disconnect(client, NOW_S)


def told(out: Outgoing) -> list[tuple[int | str, Status, Reason]]:
    return [(to, message.status, message.reason) for to, message in out]


def statuses(out: Outgoing, to: int | str) -> list[Status]:
    return [message.status for receiver, message in out if receiver == to]


def after(*happenings: Happening, durable: bool = False) -> Participant:
    participant = serving(durable=durable)
    for happen in happenings:
        happen(participant)
    return participant


def state_of(participant: Participant, name: Name = T1) -> State:
    tx = participant.transactions.get(name)
    return State.IDLE if tx is None else tx.state


def table(participant: Participant, number: int = 0) -> dict[bytes, Entry]:
    return participant.replicas[number].table


# The table of transitions.

BUSY = act(request(T2))
WAITING = act(request(T2), request(T1, flags=Flag.QUEUE))
ADD_WAITING = act(request(T2), request(T1, Operation.ADD, flags=Flag.QUEUE))
PREPARED = act(request(T1))
SPANNING = act(spanning(T1))
PROCEED_SPANNING = act(decide(Status.PROCEED, spanning(T1)))
COMMITTED = act(spanning(T1), decide(Status.PROCEED, spanning(T1)))
ABORTED = hear("b", ask(request(T1)))


def learned(participant: Participant) -> Outgoing:
    """Come to the commit of a single key by the other replica's vote."""
    participant.handle(request(T1), NOW_S)
    return participant.handle_peer("b", answer(Status.YES), NOW_S)


def nothing(_: Participant) -> Outgoing:
    return []


Case = tuple[State, Event, Happening, Happening, list[tuple[int | str, Status]]]
YES, NO, DONE = Status.YES, Status.NO, Status.DONE
LEGAL: list[Case] = [
    # the state, the event, how both come about, and what is sent then
    (State.IDLE, Event.REQUEST_GRANTED, nothing, PREPARED, [(1, YES)]),
    (State.IDLE, Event.REQUEST_QUEUED, BUSY, act(request(T1, flags=Flag.QUEUE)), []),
    (State.IDLE, Event.REQUEST_REFUSED, BUSY, act(request(T1)), [(1, NO)]),
    (State.IDLE, Event.PROCEED, nothing, act(proceed(T1)), [(1, DONE)]),
    (State.IDLE, Event.PROCEED_SPANNING, nothing, PROCEED_SPANNING, [(1, DONE)]),
    (State.IDLE, Event.ABORT, nothing, act(abort(T1)), [(1, Status.ABORTED)]),
    (State.IDLE, Event.ASKED, nothing, ABORTED, [("b", NO)]),
    (State.WAITING, Event.REQUEST_AGAIN, WAITING, act(request(T1, flags=Flag.QUEUE)), []),
    (State.WAITING, Event.TURN_GRANTED, WAITING, act(proceed(T2)), [(2, DONE), (1, YES)]),
    (State.WAITING, Event.TURN_REFUSED, ADD_WAITING, act(proceed(T2)), [(2, DONE), (1, NO)]),
    (State.WAITING, Event.ABORT, WAITING, act(abort(T1)), [(1, Status.ABORTED)]),
    (State.WAITING, Event.ASKED, WAITING, ABORTED, [(1, NO), ("b", NO)]),
    (State.WAITING, Event.LEFT, WAITING, leave(1), []),
    (State.PREPARED, Event.REQUEST_AGAIN, PREPARED, PREPARED, [(1, YES)]),
    (State.PREPARED, Event.PROCEED, PREPARED, act(proceed(T1)), [(1, DONE)]),
    (State.PREPARED, Event.PROCEED_SPANNING, SPANNING, PROCEED_SPANNING, [(1, DONE)]),
    (State.PREPARED, Event.ABORT, PREPARED, act(abort(T1)), [(1, Status.ABORTED)]),
    (State.PREPARED, Event.ASKED, PREPARED, ABORTED, [("b", YES)]),
    (State.PREPARED, Event.LEARNED_COMMIT, PREPARED, hear("b", answer(YES)), []),
    (State.PREPARED, Event.LEARNED_ABORT, PREPARED, hear("b", answer(NO)), []),
    (State.COMMITTED, Event.REQUEST_AGAIN, COMMITTED, SPANNING, [(1, DONE)]),
    (State.COMMITTED, Event.PROCEED, learned, act(proceed(T1)), [(1, DONE)]),
    (State.COMMITTED, Event.PROCEED_SPANNING, COMMITTED, PROCEED_SPANNING, [(1, DONE)]),
    (State.COMMITTED, Event.ABORT, COMMITTED, act(abort(T1)), [(1, DONE)]),
    (State.COMMITTED, Event.ASKED, COMMITTED, ABORTED, [("b", DONE)]),
    (State.ABORTED, Event.REQUEST_AGAIN, ABORTED, PREPARED, [(1, NO)]),
    (State.ABORTED, Event.ABORT, ABORTED, act(abort(T1)), [(1, Status.ABORTED)]),
    (State.ABORTED, Event.ASKED, ABORTED, ABORTED, [("b", NO)]),
]
ILLEGAL = sorted(set(product(State, Event)) - set(TRANSITIONS))
TO_STATE = {
    State.IDLE: nothing,
    State.WAITING: WAITING,
    State.PREPARED: PREPARED,
    State.COMMITTED: COMMITTED,
    State.ABORTED: ABORTED,
}


@pytest.mark.parametrize("case", LEGAL, ids=lambda case: f"{case[0]}-{case[1]}")
def test_a_transition_ends_in_the_state_that_the_table_says(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, event, prepare, happen, sent = case
    participant = after(prepare)
    assert state_of(participant) is state
    steps: list[tuple[State, Event]] = []
    step = participant._step

    def spy(tx: Transaction, event: Event, *rest: Any) -> None:
        if tx.name == T1:
            steps.append((tx.state, event))
        step(tx, event, *rest)

    monkeypatch.setattr(participant, "_step", spy)
    out = happen(participant)
    assert steps == [(state, event)]
    assert state_of(participant) is TRANSITIONS[state, event][0]
    assert [(to, message.status) for to, message in out] == sent


def test_every_row_of_the_table_is_reached_from_outside() -> None:
    assert {(state, event) for state, event, *_ in LEGAL} == set(TRANSITIONS)


def test_every_action_of_the_table_is_known() -> None:
    assert {action for _, action in TRANSITIONS.values()} == set(serving()._actions)


@pytest.mark.parametrize(("state", "event"), ILLEGAL)
def test_an_event_that_the_table_does_not_have_raises_and_changes_nothing(
    state: State, event: Event
) -> None:
    participant = after(TO_STATE[state])
    tx = participant.transactions.get(T1) or Transaction(request(T1))
    before, out = pickle.dumps((participant, tx)), Outgoing()
    with pytest.raises(RemoteProtocolError, match=f"that is {state} has no event: {event}"):
        participant._step(tx, event, request(T1), NOW_S, out)
    assert pickle.dumps((participant, tx)) == before
    assert out == []


@pytest.mark.parametrize("prepare", [nothing, PREPARED, COMMITTED])
@pytest.mark.parametrize(
    "status",
    sorted(set(Status) - {Status.REQUEST, Status.PROCEED, Status.ABORT, Status.READ}),
)
def test_a_message_that_is_no_clients_raises_and_changes_nothing(
    status: Status, prepare: Happening
) -> None:
    participant = after(prepare)
    before = pickle.dumps(participant)
    with pytest.raises(RemoteProtocolError, match=f"takes no {status.name} from a client"):
        participant.handle(request(T1, status=status), NOW_S)
    assert pickle.dumps(participant) == before


OF_SERVERS = {Status.RESOLVE, Status.PROCEED, YES, NO, DONE, Status.DONE_NOTHING}


@pytest.mark.parametrize("status", sorted(set(Status) - OF_SERVERS))
def test_a_message_that_is_no_servers_raises_and_changes_nothing(status: Status) -> None:
    participant = after(PREPARED)
    before = pickle.dumps(participant)
    with pytest.raises(RemoteProtocolError, match=f"takes no {status.name} from a server"):
        participant.handle_peer("b", request(T1, status=status), NOW_S)
    assert pickle.dumps(participant) == before


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


def test_a_proceed_for_what_waits_raises_and_changes_nothing() -> None:
    participant = after(WAITING)
    before = pickle.dumps(participant)
    with pytest.raises(RemoteProtocolError, match="that is waiting has no event: proceed"):
        participant.handle(proceed(T1), NOW_S)
    assert pickle.dumps(participant) == before


# What the operations do.

THERE, DELETED = Entry(b"old", 3), Entry(None, 4)
Effect = tuple[Operation, int, Entry | None, Status, Entry | None, int, bytes]
DONE_NOTHING = Status.DONE_NOTHING
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


def with_entry(entry: Entry | None) -> Participant:
    participant = serving()
    if entry is not None:
        table(participant)[KEY] = entry
    return participant


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
    assert not participant.locks
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
    assert bool(participant.locks) != refused


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
    assert {key: tx.name for key, tx in participant.locks.items()} == {KEY: T1}


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
    assert participant.locks.keys() == {KEY, FAR_KEY, OTHER_KEY}
    ((_, result),) = participant.handle(decide(Status.PROCEED, message), NOW_S)
    assert result == vote._replace(status=DONE)
    assert table(participant) == {KEY: THERE}
    assert table(participant, 2) == {FAR_KEY: Entry(b"1", 1)}
    assert participant.locks == {}


def test_one_condition_of_several_that_fails_refuses_them_all() -> None:
    participant = with_entry(THERE)
    message = spanning(T1, [request(T1, key=FAR_KEY), request(T1, Operation.ADD)])
    ((_, vote),) = participant.handle(message, NOW_S)
    assert (vote.status, vote.reason, vote.version) == (NO, Reason.NOTHING, 3)
    assert participant.locks == {}
    assert participant.transactions == {}


def test_what_does_not_fit_into_one_message_is_refused() -> None:
    participant = with_entry(Entry(b"v" * MAX_VALUE_BYTES, 1))
    table(participant)[OTHER_KEY] = Entry(b"v" * MAX_VALUE_BYTES, 1)
    asked = [request(T1, Operation.GET), request(T1, Operation.GET, OTHER_KEY)]
    out = participant.handle(spanning(T1, asked, (0,)), NOW_S)
    assert told(out) == [(1, NO, Reason.TOO_LONG)]
    assert participant.locks == {}


# Refusals.


def mode(number: int, mode: Mode) -> Happening:
    def happen(participant: Participant) -> Outgoing:
        participant.replicas[number].mode = mode
        return []

    return happen


def attribute(name: str) -> Happening:
    def happen(participant: Participant) -> Outgoing:
        setattr(participant, name, True)
        return []

    return happen


REFUSALS: list[tuple[Happening, Message, Reason, int]] = [
    # what came before, the request, and why it is refused, with the epoch to know
    (BUSY, request(T1), Reason.BUSY, 0),
    (BUSY, spanning(T1), Reason.BUSY, 0),
    (attribute("stopping"), request(T1), Reason.STOPPING, 0),
    (attribute("unsafe"), request(T1), Reason.UNSAFE, 0),
    (nothing, request(T1, epoch=0), Reason.STALE_EPOCH, 1),
    (nothing, request(T1, epoch=2), Reason.STALE_EPOCH, 1),
    (nothing, request(T1, range=1), Reason.ELSEWHERE, 0),
    (mode(0, Mode.JOINING), request(T1), Reason.SYNCING, 1),
    (mode(0, Mode.GIVING), request(T1), Reason.SYNCING, 1),
    (mode(0, Mode.LOST), request(T1), Reason.LOST, 1),
    (mode(2, Mode.LOST), spanning(T1), Reason.LOST, 1),
    (
        nothing,
        spanning(T1, [request(T1), request(T1, key=b"x", range=1)], (0, 1)),
        Reason.ELSEWHERE,
        0,
    ),
]


@pytest.mark.parametrize(("prepare", "message", "reason", "epoch"), REFUSALS)
def test_a_refusal_says_why_and_leaves_no_trace(
    prepare: Happening, message: Message, reason: Reason, epoch: int
) -> None:
    participant = after(prepare)
    before = pickle.dumps(participant)
    ((to, vote),) = participant.handle(message, NOW_S)
    assert (to, vote.status, vote.reason, vote.epoch) == (1, NO, reason, epoch)
    assert vote.name == T1
    assert pickle.dumps(participant) == before


def test_a_request_may_wait_for_a_lock_but_for_nothing_else() -> None:
    participant = after(attribute("stopping"))
    out = participant.handle(request(T1, flags=Flag.QUEUE), NOW_S)
    assert told(out) == [(1, NO, Reason.STOPPING)]


def test_a_stopping_or_unsafe_server_still_carries_out_what_it_voted_yes_to() -> None:
    for name in ("stopping", "unsafe"):
        participant = after(PREPARED, attribute(name))
        assert statuses(participant.handle(request(T1), NOW_S), 1) == [YES]
        assert statuses(participant.handle(proceed(T1), NOW_S), 1) == [DONE]
        assert table(participant) == {KEY: Entry(b"1", 1)}


def test_a_refused_transaction_cannot_free_the_others_lock() -> None:
    participant = after(BUSY, PREPARED)
    before = pickle.dumps(participant)
    assert statuses(participant.handle(abort(T1), NOW_S), 1) == [Status.ABORTED]
    assert pickle.dumps(participant) == before


def test_a_lock_is_of_one_key_only() -> None:
    participant = after(BUSY, act(request(T1, key=OTHER_KEY)))
    assert {key: tx.name for key, tx in participant.locks.items()} == {KEY: T2, OTHER_KEY: T1}


def test_a_silent_proceed_is_not_answered() -> None:
    participant = after(PREPARED)
    assert participant.handle(proceed(T1, flags=Flag.SILENT), NOW_S) == []
    assert table(participant) == {KEY: Entry(b"1", 1)}
    assert participant.handle(proceed(T1, flags=Flag.SILENT), NOW_S) == []


# Queues.


def test_a_lock_is_handed_on_in_the_order_in_which_it_was_asked_for() -> None:
    participant = after(
        act(request(T2), request(T1, flags=Flag.QUEUE), request(T3, flags=Flag.QUEUE), read(T2))
    )
    assert told(participant.handle(proceed(T2), NOW_S)) == [
        (2, DONE, Reason.NONE),
        (1, YES, Reason.NONE),
    ]
    out = participant.handle(abort(T1), NOW_S)
    assert [(to, one.status, one.version) for to, one in out] == [
        (1, Status.ABORTED, 0),
        (3, YES, 1),
    ]
    out = participant.handle(proceed(T3), NOW_S)
    assert [(to, one.status, one.version) for to, one in out] == [(3, DONE, 1), (2, DONE, 2)]
    assert participant._queues == {}


def test_a_waiter_whose_condition_fails_lets_the_next_one_come() -> None:
    participant = after(ADD_WAITING, act(request(T3, flags=Flag.QUEUE)))
    assert told(participant.handle(proceed(T2), NOW_S)) == [
        (2, DONE, Reason.NONE),
        (1, NO, Reason.NOTHING),
        (3, YES, Reason.NONE),
    ]
    assert participant._queues == {}


def test_a_waiter_that_leaves_is_passed_over() -> None:
    participant = after(WAITING, act(request(T3, flags=Flag.QUEUE)), leave(1))
    assert statuses(participant.handle(proceed(T2), NOW_S), 3) == [YES]


def test_who_waits_for_several_locks_holds_those_before_in_order_of_the_keys() -> None:
    whole = spanning(T1, [request(T1, key=key) for key in (b"c", b"a", b"b")], (0,), Flag.QUEUE)
    participant = after(act(request(T2, key=b"b"), whole))
    assert {key: tx.name for key, tx in participant.locks.items()} == {b"a": T1, b"b": T2}
    assert told(participant.handle(request(T3, key=b"a"), NOW_S)) == [(3, NO, Reason.BUSY)]
    assert statuses(participant.handle(request(T3, key=b"c"), NOW_S), 3) == [YES]
    assert participant.handle(proceed(T2, key=b"b", flags=Flag.SILENT), NOW_S) == []
    assert state_of(participant) is State.WAITING
    out = participant.handle(proceed(T3, key=b"c", flags=Flag.SILENT), NOW_S)
    assert statuses(out, 1) == [YES]
    assert participant.locks.keys() == {b"a", b"b", b"c"}


def test_a_waiter_that_leaves_gives_up_the_locks_that_it_holds() -> None:
    whole = spanning(T1, [request(T1, key=key) for key in (b"a", b"b")], (0,), Flag.QUEUE)
    waits = request(T3, key=b"a", flags=Flag.QUEUE)
    participant = after(act(request(T2, key=b"b"), whole, waits))
    assert told(participant.disconnect(1, NOW_S)) == [(3, YES, Reason.NONE)]
    assert {key: tx.name for key, tx in participant.locks.items()} == {b"a": T3, b"b": T2}


def test_a_queue_that_is_full_takes_no_more() -> None:
    participant = after(BUSY)
    for number in range(MAX_QUEUE):
        name = Name(3, number, 1)
        message = read(name) if number % 2 else request(name, flags=Flag.QUEUE)
        assert participant.handle(message, NOW_S) == []
    refused = [(1, NO, Reason.OVERLOADED)]
    assert told(participant.handle(request(T1, flags=Flag.QUEUE), NOW_S)) == refused
    assert told(participant.handle(read(T1), NOW_S)) == refused


# Reads.


def test_a_read_needs_no_lock_and_tells_value_and_version() -> None:
    participant = with_entry(THERE)
    before = pickle.dumps(participant)
    ((to, found),) = participant.handle(read(T1), NOW_S)
    assert (to, found) == (1, Message(DONE, T1, Operation.GET, version=3, value=b"old"))
    assert pickle.dumps(participant) == before


@pytest.mark.parametrize(("entry", "version"), [(None, 0), (DELETED, 4)])
def test_a_read_that_finds_nothing_tells_the_version(entry: Entry | None, version: int) -> None:
    ((_, found),) = with_entry(entry).handle(read(T1), NOW_S)
    assert found == Message(DONE_NOTHING, T1, Operation.GET, version=version)


@pytest.mark.parametrize("decision", [proceed(T2), abort(T2)])
def test_a_read_of_a_locked_key_waits_for_the_decision(decision: Message) -> None:
    participant = after(BUSY)
    assert participant.handle(read(T1), NOW_S) == []
    out = participant.handle(decision, NOW_S)
    expected = b"2" if decision.status is Status.PROCEED else b""
    assert [message.value for to, message in out if to == 1] == [expected]
    assert participant._queues == {}


def test_a_read_of_a_client_that_is_gone_is_forgotten_and_no_other() -> None:
    participant = after(BUSY, act(read(T1), read(T3)), leave(1))
    out = participant.handle(proceed(T2), NOW_S)
    assert [to for to, _ in out] == [2, 3]


@pytest.mark.parametrize(
    ("prepare", "message", "reason"),
    [
        (nothing, read(T1, epoch=0), Reason.STALE_EPOCH),
        (nothing, read(T1, range=1), Reason.ELSEWHERE),
        (mode(0, Mode.JOINING), read(T1), Reason.SYNCING),
        (mode(0, Mode.LOST), read(T1), Reason.LOST),
        (mode(0, Mode.GIVING), read(T1, epoch=2), Reason.STALE_EPOCH),
    ],
)
def test_a_read_is_refused_where_the_value_may_be_of_the_past(
    prepare: Happening, message: Message, reason: Reason
) -> None:
    assert told(after(prepare).handle(message, NOW_S)) == [(1, NO, reason)]


def test_a_replica_that_gives_its_copy_can_still_be_read() -> None:
    assert told(after(mode(0, Mode.GIVING)).handle(read(T1), NOW_S)) == [
        (1, DONE_NOTHING, Reason.NONE)
    ]


# What the participants ask each other.


def test_the_end_of_a_clients_connection_asks_the_other_replica() -> None:
    participant = after(PREPARED, act(request(T2, key=OTHER_KEY)))
    out = participant.disconnect(1, NOW_S)
    assert out == [("b", ask(request(T1)))]
    assert state_of(participant) is State.PREPARED
    assert participant.disconnect(3, NOW_S) == []


def test_a_question_tells_the_version_that_was_there_before() -> None:
    participant = with_entry(THERE)
    participant.handle(request(T1), NOW_S)
    ((_, question),) = participant.disconnect(1, NOW_S)
    assert (question.operation, question.version) == (Operation.PUT, 3)


def test_a_yes_waits_for_its_client_and_then_asks_again_and_again() -> None:
    participant = after(PREPARED)
    assert participant.tick(LATER_S - 0.001) == []
    question = [("b", ask(request(T1)))]
    assert participant.tick(LATER_S) == question
    assert participant.tick(LATER_S + RESOLVE_RETRY_S - 0.001) == []
    assert participant.tick(LATER_S + RESOLVE_RETRY_S) == question


def test_a_command_of_several_ranges_asks_all_their_servers() -> None:
    participant = after(act(spanning(T1, [request(T1)], (0, 1))))
    out = participant.disconnect(1, NOW_S)
    assert [to for to, _ in out] == ["b", "c"]
    assert {message for _, message in out} == {ask(spanning(T1, [request(T1)], (0, 1)))}


ALONE_0 = answer(YES, reason=Reason.ALONE, value=b"\0\0")
ALONE_1 = answer(YES, reason=Reason.ALONE, value=b"\0\1")
# T1 has touched the ranges 0 (a and b) and 1 (b and c); a has voted yes.
ANSWERS: list[tuple[list[tuple[str, Message]], State]] = [
    ([], State.PREPARED),
    ([("b", answer(YES))], State.PREPARED),
    ([("b", answer(YES)), ("c", answer(YES))], State.COMMITTED),
    ([("c", answer(DONE))], State.COMMITTED),
    ([("b", answer(NO))], State.ABORTED),
    ([("c", answer(NO))], State.PREPARED),
    ([("b", answer(YES)), ("c", answer(NO))], State.PREPARED),
    ([("c", answer(NO)), ("b", answer(NO))], State.ABORTED),
    ([("b", answer(YES)), ("c", ALONE_1)], State.COMMITTED),
    ([("b", ALONE_1)], State.COMMITTED),
    ([("b", ALONE_0)], State.PREPARED),
    ([("b", answer(NO, reason=Reason.SYNCING)), ("c", answer(NO))], State.ABORTED),
    ([("b", answer(NO, reason=Reason.SYNCING)), ("c", answer(YES))], State.PREPARED),
    ([("b", answer(YES)), ("b", answer(NO, reason=Reason.SYNCING)), ("c", answer(YES))],
     State.PREPARED),
    ([("b", answer(NO, value=b"\0\0")), ("c", answer(YES))], State.PREPARED),
]  # fmt: skip


@pytest.mark.parametrize(("answers", "state"), ANSWERS)
def test_the_votes_that_are_known_decide(answers: list[tuple[str, Message]], state: State) -> None:
    participant = after(act(spanning(T1, [request(T1)], (0, 1))))
    for server, message in answers:
        assert participant.handle_peer(server, message, NOW_S) == []
    assert state_of(participant) is state
    assert (KEY in table(participant)) == (state is State.COMMITTED)
    assert (KEY in participant.locks) == (state is State.PREPARED)


def test_both_replicas_of_another_range_have_to_say_no_before_a_yes_is_undone() -> None:
    participant = after(act(spanning(T1, [request(T1, key=FAR_KEY)], (1, 2))))
    participant.handle_peer("b", answer(NO), NOW_S)
    assert state_of(participant) is State.PREPARED
    participant.handle_peer("c", answer(NO), NOW_S)
    assert state_of(participant) is State.ABORTED


def test_an_answer_about_what_is_over_changes_nothing() -> None:
    participant = serving()
    before = pickle.dumps(participant)
    assert participant.handle_peer("b", answer(YES), NOW_S) == []
    assert pickle.dumps(participant) == before


def test_what_is_learned_is_not_asked_for_again() -> None:
    participant = after(PREPARED, hear("b", answer(DONE)))
    assert participant.tick(LATER_S) == []
    assert participant.disconnect(1, LATER_S) == []
    assert table(participant) == {KEY: Entry(b"1", 1)}


def test_who_has_applied_and_forgotten_says_so_by_the_keys_version() -> None:
    participant = after(PREPARED, act(proceed(T1)))
    assert participant.transactions == {}
    out = participant.handle_peer("b", ask(request(T1)), NOW_S)
    assert told(out) == [("b", DONE, Reason.NONE)]
    assert participant.transactions == {}


def test_who_has_not_applied_it_vetoes() -> None:
    participant = with_entry(THERE)
    out = participant.handle_peer("b", ask(request(T1), version=3), NOW_S)
    assert told(out) == [("b", NO, Reason.VETOED)]
    assert told(participant.handle(request(T1), NOW_S)) == [(1, NO, Reason.VETOED)]


@pytest.mark.parametrize("operation", [Operation.GET, Operation.MANY])
def test_a_version_says_nothing_of_what_does_not_write_or_is_remembered(
    operation: Operation,
) -> None:
    message = spanning(T1) if operation is Operation.MANY else request(T1, operation)
    out = with_entry(THERE).handle_peer("b", ask(message, key=KEY), NOW_S)
    assert told(out) == [("b", NO, Reason.VETOED)]


def test_what_writes_nothing_is_asked_for_as_a_get() -> None:
    participant = with_entry(THERE)
    participant.handle(request(T1, Operation.ADD, flags=Flag.LATE), NOW_S)
    ((_, question),) = participant.disconnect(1, NOW_S)
    assert question.operation is Operation.GET
    assert participant.handle_peer("b", answer(NO), NOW_S) == []
    assert participant.transactions == {}  # its proceed may still come: no veto
    assert participant.locks == {}


def test_a_question_about_a_range_of_others_is_vetoed() -> None:
    out = serving().handle_peer("b", ask(request(T1, range=1)), NOW_S)
    assert told(out) == [("b", NO, Reason.VETOED)]


def test_a_server_that_has_not_come_back_cannot_say() -> None:
    participant = after(mode(0, Mode.JOINING))
    out = participant.handle_peer("b", ask(request(T1)), NOW_S)
    assert told(out) == [("b", NO, Reason.SYNCING)]
    assert participant.transactions == {}


def test_a_server_that_has_come_back_in_one_range_speaks_for_that_one_only() -> None:
    participant = after(mode(0, Mode.JOINING))
    ((_, said),) = participant.handle_peer("c", ask(spanning(T1)), NOW_S)
    assert (said.status, said.reason, said.value) == (NO, Reason.VETOED, b"\0\0")


def test_an_abort_that_cannot_be_answered_yet_is_answered_later() -> None:
    participant = after(mode(0, Mode.JOINING), act(abort(T1), abort(T2)))
    assert participant.tick(NOW_S) == []
    participant.disconnect(2, NOW_S)
    mode(0, Mode.SERVING)(participant)
    assert told(participant.tick(NOW_S)) == [(1, Status.ABORTED, Reason.NONE)]
    assert participant.tick(NOW_S) == []


def test_a_proceed_of_another_server_is_answered_to_that_server() -> None:
    participant = after(SPANNING)
    news = Message(Status.PROCEED, T1, Operation.MANY, value=parts.pack([(0, 1), (2, 1)], ()))
    for _ in range(2):
        out = participant.handle_peer("c", news, NOW_S)
        assert told(out) == [("c", DONE, Reason.NONE)]
    assert table(participant, 2) == {FAR_KEY: Entry(b"1", 1)}


def test_a_lock_that_another_server_frees_is_handed_on() -> None:
    participant = after(WAITING)
    out = participant.handle_peer("b", answer(DONE, T2), NOW_S)
    assert told(out) == [(1, YES, Reason.NONE)]


def test_a_commit_of_several_keys_is_spread_once_its_client_is_gone() -> None:
    participant = after(COMMITTED)
    assert participant.tick(LATER_S) == []
    assert participant.disconnect(1, LATER_S) == []
    news = Message(Status.PROCEED, T1, Operation.MANY, value=parts.pack([(0, 1), (2, 1)], ()))
    assert participant.tick(LATER_S) == [("b", news), ("c", news)]
    assert participant.tick(LATER_S) == []
    participant.handle_peer("b", answer(DONE), LATER_S)
    assert participant.tick(LATER_S + RESOLVE_RETRY_S) == [("c", news)]
    assert participant.tick(LATER_S + RESUME_TIMEOUT_S) == [("c", news)]
    assert state_of(participant) is State.COMMITTED
    participant.handle_peer("c", answer(DONE), LATER_S)
    assert participant.tick(LATER_S + RESUME_TIMEOUT_S) == []
    assert (participant.transactions, participant._remembered) == ({}, {})
    assert 1 not in participant.clients


def test_a_commit_of_one_key_is_not_spread_but_forgotten_with_its_client() -> None:
    participant = after(learned, leave(1))
    assert participant.tick(MUCH_LATER_S - 0.001) == []
    assert state_of(participant) is State.COMMITTED
    assert participant.tick(MUCH_LATER_S) == []
    assert participant.transactions == {}
    assert 1 not in participant.clients


# What is remembered, and for how long.


def test_a_client_that_comes_back_in_time_is_known_and_one_that_does_not_is_refused() -> None:
    participant = serving()
    participant.disconnect(1, NOW_S)
    participant.disconnect(2, NOW_S)
    participant.tick(MUCH_LATER_S - 0.001)
    assert participant.connect(1, NOW_S, resume=True) == []
    participant.tick(MUCH_LATER_S)
    assert participant.connect(1, NOW_S, resume=True) == []
    assert participant.connect(2, NOW_S, resume=True) is None
    assert participant.clients == {1: None, 3: None}
    assert participant.connect(2, NOW_S, resume=False) == []


def test_a_client_that_was_never_here_is_forgotten_too() -> None:
    stranger = Name(9, 1, 1)
    participant = after(hear("b", ask(request(stranger))))
    for now_s in (NOW_S, MUCH_LATER_S - 0.001):
        participant.tick(now_s)
        assert state_of(participant, stranger) is State.ABORTED
    participant.tick(MUCH_LATER_S)
    assert (participant.transactions, participant._remembered) == ({}, {})
    participant.tick(MUCH_LATER_S)
    assert participant._strangers == {}


def test_what_a_client_cannot_ask_about_any_more_is_forgotten() -> None:
    participant = after(*(hear("b", ask(request(Name(1, one, 1)))) for one in (1, 2)))
    participant.handle(request(Name(1, MAX_WINDOW, 1), key=OTHER_KEY), NOW_S)
    assert len(participant._remembered[1]) == 2
    participant.handle(request(Name(1, MAX_WINDOW + 1, 1)), NOW_S)
    assert participant._remembered == {1: {Name(1, 2, 1)}}
    participant.handle(request(Name(1, MAX_WINDOW + 2, 1)), NOW_S)
    assert participant._remembered == {}


# Giving the range to its other replica.


def test_a_range_that_is_frozen_rolls_forward_what_it_alone_decides() -> None:
    participant = after(PREPARED, act(request(T2, key=FAR_KEY)))
    assert not participant.is_quiet(0)
    assert participant.freeze(0, NOW_S) == []
    assert participant.replicas[0].mode is Mode.GIVING
    assert table(participant) == {KEY: Entry(b"1", 1)}
    assert state_of(participant) is State.COMMITTED
    assert state_of(participant, T2) is State.PREPARED
    assert participant.is_quiet(0)
    assert not participant.is_quiet(2)
    assert participant.in_doubt == 1


def test_a_range_that_is_frozen_asks_about_commands_of_other_ranges_as_well() -> None:
    participant = after(SPANNING)
    out = participant.freeze(0, NOW_S)
    assert told(out) == [(one, Status.RESOLVE, Reason.NONE) for one in ("b", "c")]
    assert state_of(participant) is State.PREPARED
    participant.handle_peer("c", answer(YES), NOW_S)
    assert state_of(participant) is State.COMMITTED


def test_a_range_that_is_frozen_sends_the_waiting_away_and_answers_its_readers() -> None:
    far = spanning(T3, [request(T3, key=FAR_KEY), request(T3)], flags=Flag.QUEUE)
    participant = after(WAITING, act(far, read(T1)))
    assert told(participant.freeze(0, NOW_S)) == [
        (1, NO, Reason.SYNCING),
        (3, NO, Reason.SYNCING),
        (1, DONE, Reason.NONE),
    ]
    assert (participant.locks, participant._queues) == ({}, {})


def test_a_vote_of_a_replica_that_decides_alone_says_so_and_is_a_pledge() -> None:
    participant = after(SPANNING)
    participant.freeze(0, NOW_S)
    ((_, said),) = participant.handle_peer("c", ask(spanning(T1)), NOW_S)
    assert (said.status, said.reason, said.value) == (YES, Reason.ALONE, b"\0\0")
    asked = participant.handle(decide(Status.ABORT, spanning(T1)), NOW_S)
    assert {message.status for _, message in asked} == {Status.RESOLVE}
    assert participant.tick(NOW_S) == []
    assert state_of(participant) is State.PREPARED
    certain = decide(Status.ABORT, spanning(T1), reason=Reason.VETOED)
    assert statuses(participant.handle(certain, NOW_S), 1) == [Status.ABORTED]
    assert told(participant.tick(NOW_S)) == [(1, Status.ABORTED, Reason.NONE)]


def test_a_range_that_has_advanced_serves_at_its_new_epoch_only() -> None:
    participant = serving()
    participant.freeze(0, NOW_S)
    participant.advance(0, 2)
    assert participant.journal == []
    assert told(participant.handle(request(T1), NOW_S)) == [(1, NO, Reason.STALE_EPOCH)]
    assert statuses(participant.handle(request(T1, epoch=2), NOW_S), 1) == [YES]


def test_memories_of_commits_are_told_of_one_range_or_of_all() -> None:
    participant = after(COMMITTED, act(request(T2)), hear("b", answer(DONE, T2)))
    whole = Message(DONE, T1, Operation.MANY, value=parts.pack([(0, 1), (2, 1)], ()))
    single = Message(DONE, T2, Operation.PUT, epoch=1, version=1)
    assert participant.memories() == [whole, single]
    assert participant.memories(2) == [whole]
    assert participant.memories(1) == []


def test_what_was_remembered_elsewhere_is_answered_as_if_it_had_been_here() -> None:
    participant = serving()
    memories = after(COMMITTED, act(request(T2)), hear("b", answer(DONE, T2))).memories()
    participant.check(memories)
    for _ in range(2):
        participant.recall(memories, NOW_S)
    assert participant.memories() == memories
    assert statuses(participant.handle(spanning(T1), NOW_S), 1) == [DONE]
    ((_, result),) = participant.handle(request(T2), NOW_S)
    assert (result.status, result.version) == (DONE, 1)


@pytest.mark.parametrize("number", [3, 9])
def test_a_memory_of_a_range_that_is_not_there_is_refused(number: int) -> None:
    memory = Message(DONE, T1, Operation.MANY, value=parts.pack([(number, 1)], ()))
    with pytest.raises(RemoteProtocolError, match=f"there is no range {number}"):
        serving().check([memory])


def test_a_copy_replaces_what_was_there_and_the_prepared_with_it() -> None:
    far = spanning(T3, [request(T3, key=b"far, too", range=2)], (2,))
    participant = after(act(spanning(T1), request(T2, key=OTHER_KEY), far))
    memory = Message(DONE, Name(5, 1, 1), Operation.PUT, epoch=1)
    mode(0, Mode.JOINING)(participant)
    copy = Copy(*pack_pages(0, [(KEY, THERE)]))
    copy.memories.append(memory)
    participant.install(Message(Status.JOINED, epoch=4, version=9), copy, NOW_S)
    replica = participant.replicas[0]
    assert (replica.epoch, replica.founded, replica.table) == (4, 9, {KEY: THERE})
    replica.mode = Mode.SERVING
    assert participant.transactions.keys() == {T1, T3, Name(5, 1, 1)}
    assert participant.locks.keys() == {FAR_KEY, b"far, too"}
    assert participant.clients[5] == NOW_S
    assert participant.journal == []
    participant.handle(decide(Status.PROCEED, spanning(T1)), NOW_S)
    assert table(participant) == {KEY: THERE}
    assert table(participant, 2) == {FAR_KEY: Entry(b"1", 1)}


# What outlives a crash.


def sync(happen: Happening, prepare: Happening) -> tuple[list[Status], bool]:
    """Return what a happening puts on the journal, and whether it must be on disk."""
    participant = after(prepare, durable=True)
    participant.journal, participant.must_sync = [], False
    happen(participant)
    return [message.status for message in participant.journal], participant.must_sync


@pytest.mark.parametrize(
    ("prepare", "happen", "records", "must_sync"),
    [
        (nothing, PREPARED, [Status.REQUEST], True),
        (PREPARED, PREPARED, [], True),
        (WAITING, act(proceed(T2)), [Status.PROCEED, Status.REQUEST], True),
        (PREPARED, act(proceed(T1)), [Status.PROCEED], False),
        (PREPARED, act(abort(T1)), [Status.ABORT], True),
        (PREPARED, hear("b", answer(YES)), [DONE], False),
        (PREPARED, hear("b", answer(NO)), [Status.ABORT], True),
        (PREPARED, hear("b", ask(request(T1))), [], True),
        (learned, act(proceed(T1)), [], True),
        (nothing, act(read(T1)), [], False),
        (nothing, lambda participant: participant.freeze(0, NOW_S), [Status.JOINED], True),
        (BUSY, act(request(T1)), [], False),
        (BUSY, act(request(T1, flags=Flag.QUEUE)), [], False),
    ],
)
def test_what_must_outlive_a_crash_is_on_disk_before_anybody_hears_of_it(
    prepare: Happening, happen: Happening, records: list[Status], *, must_sync: bool
) -> None:
    assert sync(happen, prepare) == (records, must_sync)


def test_a_server_in_memory_keeps_no_journal() -> None:
    participant = after(PREPARED, PREPARED, act(proceed(T1)), learned)
    assert (participant.journal, participant.must_sync) == ([], False)


def test_an_advance_is_on_disk_before_anybody_hears_of_it() -> None:
    participant = serving(durable=True)
    participant.advance(0, 5)
    assert participant.journal == [Message(Status.JOINED, range=0, epoch=5)]
    assert participant.must_sync


def pages(number: int, *entries: tuple[bytes, Entry]) -> list[Message]:
    """Return a page for each entry."""
    return [
        page._replace(version=version)
        for version, entry in enumerate(entries)
        for page in pack_pages(number, [entry])
    ]


def test_a_copy_is_on_disk_before_anybody_hears_of_it_and_replaces_what_was_there() -> None:
    participant = after(act(request(T1), proceed(T1), request(T2)), durable=True)
    mode(0, Mode.JOINING)(participant)
    participant.must_sync = False
    copied = pages(0, (OTHER_KEY, THERE), (b"third", THERE))
    participant.install(Message(Status.JOINED, epoch=4, version=9), Copy(*copied), NOW_S)
    assert participant.must_sync
    end = Message(Status.JOINED, flags=Flag.INTACT, epoch=4, version=9)
    assert participant.journal[-3:] == [*copied, end]
    again = recovered(participant.journal)
    assert table(again) == {OTHER_KEY: THERE, b"third": THERE}
    assert (again.replicas[0].epoch, again.replicas[0].founded) == (4, 9)
    assert again.locks == {}
    again.handle_peer("b", request(T2)._replace(status=Status.RESOLVE), NOW_S)


def test_a_copy_that_a_crash_has_cut_off_is_no_part_of_the_next_one() -> None:
    cut, whole = pages(0, (KEY, THERE), (OTHER_KEY, THERE))[:1], pages(0, (b"third", THERE))
    end = Message(Status.JOINED, flags=Flag.INTACT, epoch=4)
    assert table(recovered(cut)) == {}
    assert table(recovered([*cut, *whole, end])) == {b"third": THERE}


def test_an_epoch_alone_leaves_the_table_as_it_is() -> None:
    end = Message(Status.JOINED, flags=Flag.INTACT, epoch=4)
    again = recovered([*pages(0, (KEY, THERE)), end, Message(Status.JOINED, epoch=5, version=9)])
    assert (table(again), again.replicas[0].epoch) == ({KEY: THERE}, 5)


def test_a_yes_that_did_not_reach_the_disk_is_taken_back() -> None:
    participant = after(PREPARED)
    participant.withdraw(T1, NOW_S)
    participant.withdraw(T1, NOW_S)
    participant.withdraw(T2, NOW_S)
    assert participant.locks == {}
    assert told(participant.handle(request(T1), NOW_S)) == [(1, NO, Reason.VETOED)]


def recovered(records: Iterable[Message]) -> Participant:
    participant = Participant("a", LAYOUT, durable=True)
    participant.replay(records, NOW_S)
    assert participant.journal == []
    return participant


def test_a_recovered_yes_asks_nobody_until_its_range_has_come_back() -> None:
    participant = recovered([request(T1)])
    assert participant.tick(NOW_S + 100) == []
    assert state_of(participant) is State.PREPARED
    participant.replicas[0].mode = Mode.SERVING
    assert told(participant.tick(NOW_S + 200)) == [("b", Status.RESOLVE, Reason.NONE)]


@pytest.mark.parametrize("asked", [request(T1), spanning(T1)])
def test_a_recovered_commit_is_applied_again(asked: Message) -> None:
    participant = recovered([asked, Message(Status.PROCEED, T1)])
    assert [entry.version for entry in table(participant).values()] == [1]
    assert participant.locks == {}


def essence(participant: Participant) -> object:
    """Return what a crash must not take."""
    locks = {key: tx.name for key, tx in participant.locks.items() if tx.state is State.PREPARED}
    results = {
        tx.name: (tx.result, len(tx.staged))
        for tx in participant.transactions.values()
        if tx.state is State.PREPARED
    }
    replicas = [(one.table, one.epoch, one.intact) for one in participant.replicas.values()]
    return replicas, locks, results, {memory.name for memory in participant.memories()}


def test_a_snapshot_has_all_that_a_crash_must_not_take() -> None:
    participant = after(COMMITTED, act(request(T2), request(T3, flags=Flag.QUEUE)), durable=True)
    participant.handle(request(Name(3, 2, 1), Operation.GET, OTHER_KEY), NOW_S)
    participant.replicas[2].intact = False
    participant.replicas[2].table.clear()
    entries = pack_pages(0, participant.replicas[0].table.items())
    again = recovered([*entries, *participant.snapshot()])
    assert [one.epoch for one in again.replicas.values()] == [1, 0]
    again.replicas[2].epoch = 1
    assert essence(again) == essence(participant)
    assert all(one.mode is Mode.JOINING for one in again.replicas.values())
    assert again.clients == {1: NOW_S, 2: NOW_S, 3: NOW_S}
    assert again.transactions[T2].deadline_s == NOW_S  # its client may be gone: ask at once
    assert again._durable


def test_a_journal_that_ends_what_it_does_not_begin_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="which it does not begin"):
        serving(durable=True).replay([Message(Status.PROCEED, T1)], NOW_S)


# Whatever happens.

CLIENTS, NUMBERS = st.sampled_from([1, 2, 3]), st.sampled_from([1, 2])
NAMES = st.builds(Name, CLIENTS, NUMBERS, NUMBERS)
KEYS = st.sampled_from([KEY, OTHER_KEY, FAR_KEY])
OPERATIONS = st.sampled_from(
    [one for one in Operation if one not in {Operation.NONE, Operation.MANY}]
)
FLAGS = st.integers(0, 7)
SINGLE = st.builds(
    request, NAMES, OPERATIONS, KEYS, st.just(b"v"), version=st.integers(0, 2), flags=FLAGS
)


@st.composite
def several(draw: st.DrawFn) -> Message:
    name = draw(NAMES)
    keys = draw(st.sets(KEYS, min_size=1))
    asked = [request(name, draw(OPERATIONS), key) for key in sorted(keys)]
    numbers = {one.range for one in asked} | draw(st.sets(st.integers(0, 2), max_size=1))
    return spanning(name, asked, tuple(sorted(numbers)), draw(FLAGS))


REQUESTS = SINGLE | several()


@given(st.lists(SINGLE, max_size=12))
def test_commands_one_after_another_do_what_a_dictionary_does(commands: list[Message]) -> None:
    participant = serving()
    model: dict[bytes, bytes] = {}
    versions = dict.fromkeys([KEY, OTHER_KEY, FAR_KEY], 0)
    for number, command in enumerate(commands):
        message = command._replace(name=Name(1, number, 1), flags=Flag.LATE)
        key, operation = message.key, message.operation
        was = model.get(key)
        succeeds = {
            Operation.GET: was is not None,
            Operation.PUT: True,
            Operation.ADD: was is None,
            Operation.DELETE: was is not None,
            Operation.CAS: versions[key] == message.version,
        }[operation]
        assert statuses(participant.handle(message, NOW_S), 1) == [YES]
        ((_, result),) = participant.handle(decide(Status.PROCEED, message), NOW_S)
        assert (result.status is DONE) == succeeds
        assert result.version == versions[key]
        assert result.value == (was or b"" if operation is Operation.GET else b"")
        if succeeds and operation is Operation.DELETE:
            del model[key]
        elif succeeds and operation is not Operation.GET:
            model[key] = message.value
        versions[key] += succeeds and operation is not Operation.GET
    held = {**table(participant), **table(participant, 2)}
    assert {key: one.value for key, one in held.items() if one.value is not None} == model


class Clients(RuleBasedStateMachine):
    """Several clients and servers at one participant, none of which keeps to any order."""

    def __init__(self) -> None:
        super().__init__()
        self.participant = serving(durable=True)
        self.now_s = NOW_S
        self.asked: dict[Name, Message] = {}
        self.reads = 0  # that wait for an answer
        self.journal: list[Message] = []
        self.versions: dict[bytes, int] = {}

    def do(self, happen: Callable[[Participant], Outgoing]) -> Outgoing:
        before = pickle.dumps(self.participant)
        try:
            out = happen(self.participant)
        except RemoteProtocolError:
            assert pickle.dumps(self.participant) == before
            return []
        self.reads -= sum(to in {1, 2, 3} and one.name.attempt == 9 for to, one in out)
        self.journal += self.participant.journal
        self.participant.journal = []
        return out

    @rule(message=REQUESTS)
    def request(self, message: Message) -> None:
        message = self.asked.setdefault(message.name, message)
        number = {replica.epoch for replica in self.participant.replicas.values()}
        if message.operation is not Operation.MANY and len(number) == 1:
            message = message._replace(epoch=number.pop())
        out = self.do(act(message))
        if statuses(out, message.name.client) == [YES]:
            assert state_of(self.participant, message.name) is State.PREPARED

    @rule(name=NAMES, flags=FLAGS)
    def proceed(self, name: Name, flags: int) -> None:
        if name in self.asked:
            self.do(act(decide(Status.PROCEED, self.asked[name], flags=flags)))

    @rule(name=NAMES, reason=st.sampled_from([Reason.NONE, Reason.VETOED]))
    def abort(self, name: Name, reason: Reason) -> None:
        self.do(act(decide(Status.ABORT, self.asked.get(name, request(name)), reason=reason)))

    @rule(client=CLIENTS, key=KEYS)
    def read(self, client: int, key: bytes) -> None:
        if self.participant.clients.get(client, 0.0) is None:
            self.reads += 1
            number = 2 if key == FAR_KEY else 0
            epoch = self.participant.replicas[number].epoch
            self.do(act(read(Name(client, 1, 9), key, epoch=epoch)))

    @rule(client=CLIENTS)
    def disconnect(self, client: int) -> None:
        self._drop_reads(client)
        self.do(lambda participant: participant.disconnect(client, self.now_s))
        assert not any(
            one.name.client == client
            for queue in self.participant._queues.values()
            for one in queue
        )

    @rule(client=CLIENTS)
    def connect(self, client: int) -> None:
        self._drop_reads(client)
        self.do(lambda one: one.connect(client, self.now_s, resume=False) or [])

    def _drop_reads(self, client: int) -> None:
        queued = self.participant._queues.values()
        self.reads -= sum(
            isinstance(one, Message) and one.name.client == client
            for queue in queued
            for one in queue
        )

    @rule(later_s=st.sampled_from([0.0, 1.0, PREPARED_TIMEOUT_S, RESUME_TIMEOUT_S]))
    def tick(self, later_s: float) -> None:
        self.now_s += later_s
        self.do(lambda participant: participant.tick(self.now_s))

    @rule(
        server=st.sampled_from("bc"),
        name=NAMES,
        status=st.sampled_from(sorted({Status.RESOLVE, YES, NO, DONE, Status.PROCEED})),
        reason=st.sampled_from([Reason.NONE, Reason.SYNCING]),
    )
    def hear(self, server: str, name: Name, status: Status, reason: Reason) -> None:
        if name in self.asked:
            self.do(hear(server, decide(status, self.asked[name], reason=reason)))

    @rule(number=st.sampled_from([0, 2]))
    def freeze(self, number: int) -> None:
        self.do(lambda participant: participant.freeze(number, self.now_s))

    @rule(number=st.sampled_from([0, 2]))
    def advance(self, number: int) -> None:
        replica = self.participant.replicas[number]
        if replica.mode is Mode.GIVING and self.participant.is_quiet(number):
            self.participant.advance(number, replica.epoch + 1)
            self.do(nothing)

    @invariant()
    def a_key_is_locked_by_who_is_prepared_or_waits_for_more(self) -> None:
        expected: dict[bytes, Name] = {}
        for tx in self.participant.transactions.values():
            if tx.state is State.PREPARED:
                assert tx.held == len(tx.parts)
            elif tx.state is State.WAITING:
                assert tx.held < len(tx.parts)
            else:
                assert tx.held == 0
            expected |= {part.key: tx.name for part in tx.parts[: tx.held]}
        assert {key: tx.name for key, tx in self.participant.locks.items()} == expected
        assert self.participant.in_doubt == sum(
            state_of(self.participant, name) is State.PREPARED for name in self.asked
        )

    @invariant()
    def every_waiter_is_in_the_queue_of_one_locked_key_and_nobody_else_is(self) -> None:
        participant = self.participant
        assert participant._freed == []
        assert participant._queues.keys() <= participant.locks.keys()
        queued = [(key, one) for key, queue in participant._queues.items() for one in queue]
        waiters = [(key, one.name) for key, one in queued if isinstance(one, Transaction)]
        assert sorted(waiters) == sorted(
            (tx.parts[tx.held].key, tx.name)
            for tx in participant.transactions.values()
            if tx.state is State.WAITING
        )
        assert len(queued) - len(waiters) == self.reads

    @invariant()
    def what_is_over_and_remembered_can_be_forgotten(self) -> None:
        over = [
            tx.name
            for tx in self.participant.transactions.values()
            if tx.state in {State.COMMITTED, State.ABORTED}
        ]
        remembered = set().union(*self.participant._remembered.values())
        assert remembered == set(over)

    @invariant()
    def versions_only_rise(self) -> None:
        for number in (0, 2):
            for key, entry in table(self.participant, number).items():
                assert entry.version >= self.versions.get(key, ABSENT.version)
                self.versions[key] = entry.version

    def teardown(self) -> None:
        again = serving(durable=True)
        again.replay(self.journal, NOW_S)
        now, then = essence(self.participant), essence(again)
        assert then[:3] == now[:3]  # type: ignore[index]
        for name, message in self.asked.items():
            if state_of(self.participant, name) in {State.PREPARED, State.WAITING}:
                self.do(act(decide(Status.ABORT, message, reason=Reason.VETOED)))
        assert (self.participant.locks, self.participant._queues) == ({}, {})
        assert self.reads == 0
        assert self.participant.in_doubt == 0


TestClients = Clients.TestCase


GARBAGE = st.builds(
    Message,
    status=st.sampled_from(Status),
    name=NAMES,
    operation=st.sampled_from(Operation),
    reason=st.sampled_from(Reason),
    flags=st.integers(0, 255),
    range=st.integers(0, 4),
    epoch=st.integers(0, 2),
    version=st.integers(0, 3) | st.just(2**64 - 1),
    key=KEYS | st.binary(max_size=3),
    value=st.binary(max_size=8)
    | several().map(lambda one: one.value)
    | st.builds(
        lambda ranges: parts.pack(ranges, ()),
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=2),
    ),
)
HAPPENINGS = st.one_of(
    st.builds(act, GARBAGE | REQUESTS),
    st.builds(hear, st.sampled_from("bcx"), GARBAGE),
    st.builds(leave, CLIENTS),
    st.builds(
        lambda later_s: lambda participant: participant.tick(NOW_S + later_s),
        st.sampled_from([0.0, PREPARED_TIMEOUT_S, RESUME_TIMEOUT_S]),
    ),
    st.builds(mode, st.sampled_from([0, 2]), st.sampled_from([Mode.JOINING, Mode.SERVING])),
    st.builds(
        lambda number: lambda participant: participant.freeze(number, NOW_S),
        st.sampled_from([0, 2]),
    ),
)


@given(st.lists(HAPPENINGS, max_size=15))
def test_any_message_is_taken_or_raises_a_remote_protocol_error_and_changes_nothing(
    happenings: list[Happening],
) -> None:
    participant = serving(durable=True)
    for happen in happenings:
        before = pickle.dumps(participant)
        try:
            happen(participant)
        except RemoteProtocolError:
            assert pickle.dumps(participant) == before
