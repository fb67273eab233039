import pickle
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht import parts
from rdht.coordinator import (
    TRANSITIONS,
    Action,
    Command,
    Coordinator,
    Event,
    Outgoing,
    Plan,
    State,
    plan,
    plan_read,
)
from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.messages import Flag, Message, Name, Operation, Reason, Status
from rdht.parts import Result
from rdht.ring import Replicas, Ring
from rdht.roster import Roster, ServerAddress

NAME = Name(7, 1, 1)
SERVERS = tuple(ServerAddress(name, name, "127.0.0.1", 1) for name in "abc")
RING = Ring(Roster(SERVERS), 3)  # ranges: a and b, b and c, c and a
KEYS = {RING.range_of(b"%d" % number): b"%d" % number for number in range(20)}
EPOCHS = {0: 5, 1: 6}
PUT = Command(Operation.PUT, KEYS[0], b"value")
FAR_PUT = Command(Operation.PUT, KEYS[1], b"far value")
REQUEST = Message(Status.REQUEST, NAME, Operation.PUT, epoch=5, key=KEYS[0], value=b"value")
PROCEED = REQUEST._replace(status=Status.PROCEED, value=b"")
SILENT = PROCEED._replace(flags=int(Flag.SILENT))
ABORT = REQUEST._replace(status=Status.ABORT, value=b"")
LAST_ABORT = ABORT._replace(reason=Reason.VETOED)


def answer(status: Status, reason: Reason = Reason.NONE, version: int = 1, **more: Any) -> Message:
    return Message(status, NAME, Operation.PUT, reason, version=version, **more)


YES, NO = answer(Status.YES), answer(Status.NO, Reason.BUSY)
DONE, NOTHING = answer(Status.DONE), answer(Status.DONE_NOTHING)
ABORTED = answer(Status.ABORTED)
LOST, UNREACHED = "lost", "unreached"  # in place of an answer: what became of the connection
Happening = tuple[str, Message | str]


def single(*, ordered: bool = False, await_done: bool = True) -> Coordinator:
    """Ask a and b, the replicas of one range."""
    coordinator = Coordinator(
        plan(NAME, [PUT], RING, EPOCHS, 0), ordered=ordered, await_done=await_done
    )
    coordinator.start()
    return coordinator


def unwaited() -> Coordinator:
    return single(await_done=False)


def ordered() -> Coordinator:
    return single(ordered=True)


def spanning() -> Coordinator:
    """Ask a, b and c, of which a and b, and b and c, share a range."""
    coordinator = Coordinator(plan(NAME, [PUT, FAR_PUT], RING, EPOCHS, 0))
    coordinator.start()
    return coordinator


def wide() -> Coordinator:
    """Ask four servers of two ranges that share none."""
    ranges = (Replicas("a", "b"), Replicas("c", "d"))
    coordinator = Coordinator(Plan(dict.fromkeys("abcd", REQUEST), ranges))
    coordinator.start()
    return coordinator


def reading() -> Coordinator:
    get = Command(Operation.GET, KEYS[0])
    coordinator = Coordinator(plan_read(NAME, get, RING, EPOCHS, 1))
    coordinator.start()
    return coordinator


def tell(coordinator: Coordinator, *happenings: Happening) -> Outgoing:
    """Let things happen in order; return what the last one made the coordinator send."""
    sends: Outgoing = []
    for server, what in happenings:
        if isinstance(what, Message):
            sends = coordinator.receive(server, what)
        else:
            sends = coordinator.lost(server, reached=what == LOST)
    return sends


def after(start: Callable[[], Coordinator], *happenings: Happening) -> Coordinator:
    coordinator = start()
    tell(coordinator, *happenings)
    return coordinator


def is_in(coordinator: Coordinator, state: State) -> bool:
    return coordinator.state is state


def to(message: Message, *servers: str) -> Outgoing:
    return [(server, message) for server in servers]


# What is asked of whom.


def test_one_key_is_asked_for_at_both_replicas_in_the_order_of_the_roster() -> None:
    cas = Command(Operation.CAS, KEYS[2], b"new", 9)
    asked = plan(NAME, [cas], RING, {2: 4}, Flag.LATE)
    message = Message(
        *(Status.REQUEST, NAME, Operation.CAS, Reason.NONE, Flag.LATE, 2, 4, 9, KEYS[2], b"new")
    )
    assert RING.ranges[2] == Replicas("c", "a")
    assert list(asked.requests.items()) == [("a", message), ("c", message)]
    assert asked.ranges == (Replicas("c", "a"),)


def test_an_epoch_that_is_not_known_is_the_first() -> None:
    assert plan(NAME, [PUT], RING, {}, 0).requests["a"].epoch == 0
    asked = plan(NAME, [PUT, FAR_PUT], RING, {}, 0)
    assert parts.unpack(asked.requests["a"].value, NAME)[0] == ((0, 0), (1, 0))


def test_several_keys_are_asked_for_where_they_are_with_all_ranges_named() -> None:
    asked = plan(NAME, [FAR_PUT, PUT], RING, EPOCHS, Flag.QUEUE)
    assert list(asked.requests) == ["a", "b", "c"]
    assert asked.ranges == (Replicas("a", "b"), Replicas("b", "c"))
    keys = {}
    for server, message in asked.requests.items():
        assert message[:5] == (Status.REQUEST, NAME, Operation.MANY, Reason.NONE, Flag.QUEUE)
        pairs, wanted = parts.unpack(message.value, NAME)
        assert pairs == ((0, 5), (1, 6))
        keys[server] = {part.key for part in wanted}
    assert keys == {"a": {KEYS[0]}, "b": {KEYS[0], KEYS[1]}, "c": {KEYS[1]}}


def test_a_server_that_holds_none_of_the_keys_is_not_asked() -> None:
    others = [b"%d" % number for number in range(20, 99)]
    other = next(key for key in others if RING.range_of(key) == 0)
    asked = plan(NAME, [PUT, Command(Operation.GET, other)], RING, EPOCHS, 0)
    assert list(asked.requests) == ["a", "b"]


@pytest.mark.parametrize(("choice", "server"), [(0, "a"), (1, "b")])
def test_a_read_asks_one_replica(choice: int, server: str) -> None:
    get = Command(Operation.GET, KEYS[0])
    asked = plan_read(NAME, get, RING, EPOCHS, choice)
    message = Message(Status.READ, NAME, Operation.GET, epoch=5, key=KEYS[0])
    assert asked == Plan({server: message}, (Replicas("a", "b"),))


def test_all_are_asked_at_once_or_one_after_the_other() -> None:
    assert Coordinator(plan(NAME, [PUT], RING, EPOCHS, 0)).start() == to(REQUEST, "a", "b")
    one_by_one = Coordinator(plan(NAME, [PUT], RING, EPOCHS, 0), ordered=True)
    assert one_by_one.start() == to(REQUEST, "a")
    assert tell(one_by_one, ("a", YES)) == to(REQUEST, "b")
    assert tell(one_by_one, ("b", YES)) == to(PROCEED, "a", "b")


# The table of transitions.

Case = tuple[State, Event, Coordinator, Happening | None, Outgoing]
SHARED = [("a", YES), ("b", NO)]  # makes the one replica take its yes back
ELSEWHERE: list[Happening] = [("a", YES), ("b", YES), ("c", NO), ("d", NO)]
LEGAL: list[Case] = [
    # the state, the event, who is in it, what happens, and what is sent then
    (State.VOTING, Event.YES_SO_FAR, ordered(), ("a", YES), to(REQUEST, "b")),
    (State.VOTING, Event.ALL_YES, after(single, ("b", YES)), ("a", YES), to(PROCEED, "a", "b")),
    (
        *(State.VOTING, Event.ALL_YES_UNWAITED, after(unwaited, ("a", YES)), ("b", YES)),
        to(SILENT, "a", "b"),
    ),
    (State.VOTING, Event.NO_SHARED, after(single, ("a", YES)), ("b", NO), to(ABORT, "a")),
    (
        *(State.VOTING, Event.NO_ELSEWHERE, after(wide, *ELSEWHERE[:3]), ("d", NO)),
        to(LAST_ABORT, "a", "b"),
    ),
    (State.VOTING, Event.NO_ALONE, after(single, ("a", NO)), ("b", NO), []),
    (State.VOTING, Event.ALREADY, single(), ("a", DONE), to(SILENT, "a", "b")),
    (State.VOTING, Event.ANSWERED, reading(), ("b", DONE), []),
    (State.VOTING, Event.GIVEN_UP, single(), None, []),
    (
        *(State.COMMITTING, Event.ALL_DONE, after(single, ("a", YES), ("b", YES), ("a", DONE))),
        *(("b", DONE), []),
    ),
    (State.COMMITTING, Event.GIVEN_UP, after(single, ("a", YES), ("b", YES)), None, []),
    (
        *(
            State.REVOKING,
            Event.REVOKED,
            after(wide, ("a", YES), ("b", YES), ("c", YES), ("d", NO)),
        ),
        *(("c", ABORTED), to(LAST_ABORT, "a", "b")),
    ),
    (State.REVOKING, Event.REVOKED_LAST, after(single, *SHARED), ("a", ABORTED), []),
    (State.REVOKING, Event.ALREADY, after(single, *SHARED), ("a", DONE), to(SILENT, "a", "b")),
    (State.REVOKING, Event.GIVEN_UP, after(single, *SHARED), None, []),
    (
        *(State.RELEASING, Event.RELEASED, after(wide, *ELSEWHERE, ("a", ABORTED))),
        *(("b", ABORTED), []),
    ),
    (State.RELEASING, Event.GIVEN_UP, after(wide, *ELSEWHERE), None, []),
]
IN_STATE: dict[State, Callable[[], Coordinator]] = {
    State.VOTING: single,
    State.COMMITTING: lambda: after(single, ("a", YES), ("b", YES)),
    State.REVOKING: lambda: after(single, *SHARED),
    State.RELEASING: lambda: after(wide, *ELSEWHERE),
    State.COMMITTED: lambda: after(unwaited, ("a", YES), ("b", YES)),
    State.ABORTED: lambda: after(single, ("a", NO), ("b", NO)),
    State.UNKNOWN: lambda: given_up(single()),
}
ENDED = (State.COMMITTED, State.ABORTED, State.UNKNOWN)


def given_up(coordinator: Coordinator) -> Coordinator:
    assert coordinator.give_up() == []
    return coordinator


@pytest.mark.parametrize("case", LEGAL, ids=lambda case: f"{case[0]}-{case[1]}")
def test_a_transition_ends_in_the_state_that_the_table_says(case: Case) -> None:
    state, event, begun, happening, sends = case
    coordinator: Coordinator = pickle.loads(pickle.dumps(begun))
    assert coordinator.state is state
    sent = coordinator.give_up() if happening is None else tell(coordinator, happening)
    expected, action = TRANSITIONS[state, event]
    assert coordinator.state is expected
    assert coordinator.is_over == (expected in ENDED)
    assert sent == sends
    assert {message.status for _, message in sent} == {
        Action.SEND_REQUEST: {Status.REQUEST},
        Action.SEND_PROCEED: {Status.PROCEED},
        Action.SEND_REVOKE: {Status.ABORT},
        Action.SEND_ABORT: {Status.ABORT},
        Action.NOTHING: set(),
    }[action]


def test_every_row_of_the_table_is_tested() -> None:
    assert {(state, event) for state, event, *_ in LEGAL} == set(TRANSITIONS)


@pytest.mark.parametrize(("state", "event"), sorted(set(product(State, Event)) - set(TRANSITIONS)))
def test_an_event_that_the_table_does_not_have_raises_and_changes_nothing(
    state: State, event: Event
) -> None:
    coordinator = IN_STATE[state]()
    assert coordinator.state is state
    before = pickle.dumps(coordinator)
    with pytest.raises(LocalProtocolError, match=f"that is {state} has no event: {event}"):
        coordinator._step(event)
    assert pickle.dumps(coordinator) == before


ASKED_FOR = {
    State.VOTING: {Status.YES, Status.NO, Status.DONE, Status.DONE_NOTHING},
    State.COMMITTING: {Status.DONE, Status.DONE_NOTHING},
    State.REVOKING: {
        *(Status.YES, Status.NO, Status.ABORTED, Status.DONE, Status.DONE_NOTHING),
    },
    State.RELEASING: {Status.YES, Status.NO, Status.ABORTED},
}


@pytest.mark.parametrize(
    ("state", "status"),
    [pair for pair in product(State, Status) if pair[1] not in ASKED_FOR.get(pair[0], set())],
)
def test_an_answer_that_was_not_asked_for_raises_and_changes_nothing(
    state: State, status: Status
) -> None:
    coordinator = IN_STATE[state]()
    before = pickle.dumps(coordinator)
    with pytest.raises(RemoteProtocolError, match=f"a sent {status.name} to a .* is {state.value}"):
        coordinator.receive("a", answer(status))
    assert pickle.dumps(coordinator) == before


@pytest.mark.parametrize("server", ["b", "x"])
def test_an_answer_of_a_server_that_owes_none_raises_and_changes_nothing(server: str) -> None:
    coordinator = after(single, *SHARED)
    before = pickle.dumps(coordinator)
    with pytest.raises(RemoteProtocolError, match=f"{server} sent ABORTED"):
        coordinator.receive(server, ABORTED)
    assert pickle.dumps(coordinator) == before


def test_a_second_vote_raises_and_changes_nothing() -> None:
    coordinator = after(single, ("a", YES))
    before = pickle.dumps(coordinator)
    with pytest.raises(RemoteProtocolError, match="a sent NO"):
        coordinator.receive("a", NO)
    assert pickle.dumps(coordinator) == before


@pytest.mark.parametrize(
    "other",
    [
        answer(Status.YES, version=2),
        answer(Status.YES, Reason.NOTHING),
        answer(Status.YES, value=b"x"),
    ],
)
def test_replicas_that_vote_differently_raise_and_change_nothing(other: Message) -> None:
    coordinator = after(single, ("a", YES))
    before = pickle.dumps(coordinator)
    with pytest.raises(
        RemoteProtocolError, match=f"a and b hold different copies of key {KEYS[0]!r}"
    ):
        coordinator.receive("b", other)
    assert pickle.dumps(coordinator) == before


# What comes of the answers.


def test_nobody_is_told_to_abort_before_all_have_voted() -> None:
    coordinator = single()
    assert tell(coordinator, ("a", NO)) == []
    assert is_in(coordinator, State.VOTING)
    assert coordinator.refusals == {"a": NO}


def test_who_was_not_asked_is_not_told_to_abort() -> None:
    coordinator = ordered()
    assert tell(coordinator, ("a", NO)) == []
    assert is_in(coordinator, State.ABORTED)


def test_who_was_not_asked_is_not_told_to_proceed() -> None:
    coordinator = ordered()
    assert tell(coordinator, ("a", DONE)) == to(SILENT, "a")


def test_of_two_ranges_the_one_that_refused_whole_lets_the_other_go() -> None:
    # c refuses for range 1, b for both: range 0 has one yes, range 1 none.
    coordinator = spanning()
    refusal = Message(Status.NO, NAME, Operation.MANY, Reason.BUSY)
    vote = Message(Status.YES, NAME, Operation.MANY)
    sends = tell(coordinator, ("b", refusal), ("a", vote), ("c", refusal))
    assert is_in(coordinator, State.RELEASING)
    ((server, abort),) = sends
    assert (server, abort.reason) == ("a", Reason.VETOED)


def test_the_decision_on_several_keys_names_their_ranges_only() -> None:
    coordinator = spanning()
    vote = Message(Status.YES, NAME, Operation.MANY, value=parts.pack_results([Result(True, 1)]))
    sends = tell(coordinator, ("a", vote), ("b", vote), ("c", vote))
    message = Message(Status.PROCEED, NAME, Operation.MANY, value=parts.pack([(0, 5), (1, 6)], ()))
    assert sends == to(message, "a", "b", "c")


@pytest.mark.parametrize("vote", [YES, NO])
@pytest.mark.parametrize("state", [State.REVOKING, State.RELEASING])
def test_a_vote_that_an_abort_has_overtaken_changes_nothing(state: State, vote: Message) -> None:
    coordinator = IN_STATE[state]()
    before = pickle.dumps(coordinator)
    assert coordinator.receive("a", vote) == []
    assert pickle.dumps(coordinator) == before


# Lost connections.


@pytest.mark.parametrize("state", State)
def test_the_loss_of_a_server_that_owes_nothing_changes_nothing(state: State) -> None:
    coordinator = IN_STATE[state]()
    before = pickle.dumps(coordinator)
    assert coordinator.lost("x") == coordinator.resend("x") == []
    assert pickle.dumps(coordinator) == before


@pytest.mark.parametrize("state", [State.COMMITTED, State.UNKNOWN])
def test_a_loss_after_the_end_changes_nothing(state: State) -> None:
    coordinator = IN_STATE[state]()
    before = pickle.dumps(coordinator)
    assert coordinator.lost("a") == []
    assert pickle.dumps(coordinator) == before


def test_a_vote_that_was_lost_is_asked_for_again() -> None:
    coordinator = after(single, ("a", YES), ("b", LOST))
    assert is_in(coordinator, State.VOTING)
    assert coordinator.resend("b") == to(REQUEST, "b")
    assert tell(coordinator, ("b", YES)) == to(PROCEED, "a", "b")


def test_a_lost_server_may_hold_a_yes_that_is_to_be_taken_back() -> None:
    coordinator = after(single, ("b", LOST))
    assert tell(coordinator, ("a", NO)) == to(ABORT, "b")
    assert coordinator.lost("b") == []
    assert is_in(coordinator, State.REVOKING)
    assert coordinator.resend("b") == to(ABORT, "b")
    tell(coordinator, ("b", ABORTED))
    assert is_in(coordinator, State.ABORTED)


def test_a_no_after_the_connection_came_back_is_waited_for() -> None:
    coordinator = after(single, ("b", LOST))
    coordinator.resend("b")
    assert tell(coordinator, ("a", NO)) == []
    assert is_in(coordinator, State.VOTING)
    tell(coordinator, ("b", NO))
    assert is_in(coordinator, State.ABORTED)


def test_a_request_that_reached_nobody_is_as_good_as_a_no() -> None:
    coordinator = after(single, ("a", UNREACHED), ("b", UNREACHED))
    assert is_in(coordinator, State.ABORTED)
    assert coordinator.refusals.keys() == {"a", "b"}
    assert tell(single(), ("a", YES), ("b", UNREACHED)) == to(ABORT, "a")


def test_a_server_that_was_asked_again_and_is_coming_back_may_hold_a_yes() -> None:
    # It may have voted before it crashed, and its disk may still know.
    syncing = answer(Status.NO, Reason.SYNCING)
    coordinator = after(single, ("a", NO), ("b", LOST))
    assert is_in(coordinator, State.REVOKING)
    coordinator = after(single, ("b", LOST))
    coordinator.resend("b")
    assert tell(coordinator, ("b", syncing), ("a", NO)) == to(ABORT, "b")
    assert tell(single(), ("b", syncing), ("a", NO)) == []


def test_a_commit_does_not_wait_for_a_server_that_is_lost() -> None:
    coordinator = after(single, ("a", YES), ("b", YES), ("a", LOST))
    assert is_in(coordinator, State.COMMITTING)
    assert coordinator.resend("a") == []
    tell(coordinator, ("b", DONE))
    assert is_in(coordinator, State.COMMITTED)
    assert coordinator.is_unsettled


def test_a_release_does_not_wait_for_a_server_that_is_lost() -> None:
    coordinator = after(wide, *ELSEWHERE, ("a", LOST), ("b", LOST))
    assert is_in(coordinator, State.ABORTED)


def test_a_decision_is_repeated_on_a_new_connection() -> None:
    assert IN_STATE[State.COMMITTING]().resend("b") == to(PROCEED, "b")
    assert IN_STATE[State.RELEASING]().resend("b") == to(LAST_ABORT, "b")


def test_a_read_that_is_lost_is_over() -> None:
    assert after(reading, ("b", LOST)).state is State.ABORTED


@pytest.mark.parametrize(
    ("coordinator", "unsettled"),
    [
        (after(single, ("a", YES), ("b", YES), ("a", DONE), ("b", DONE)), False),
        (given_up(IN_STATE[State.COMMITTING]()), True),
        (after(single, ("a", DONE)), True),
        (given_up(IN_STATE[State.VOTING]()), False),
        (after(reading, ("b", DONE)), False),
    ],
)
def test_a_commit_of_which_a_participant_may_not_know_is_unsettled(
    coordinator: Coordinator, *, unsettled: bool
) -> None:
    assert coordinator.is_unsettled == unsettled


# Results.


@pytest.mark.parametrize(
    ("vote", "result"),
    [
        (answer(Status.YES, version=9), Result(found=True, version=9)),
        (answer(Status.YES, Reason.NOTHING, 9), Result(found=False, version=9)),
        (answer(Status.YES, version=9, value=b"v"), Result(found=True, version=9, value=b"v")),
    ],
)
def test_the_result_is_what_the_votes_say(vote: Message, result: Result) -> None:
    coordinator = after(single, ("a", vote), ("b", vote))
    assert coordinator.results() == [result]
    tell(coordinator, ("a", DONE), ("b", DONE))
    assert coordinator.results() == [result]


@pytest.mark.parametrize(("told", "found"), [(DONE, True), (NOTHING, False)])
def test_a_read_or_what_is_committed_already_has_the_answers_result(
    told: Message, *, found: bool
) -> None:
    assert after(reading, ("b", told)).results() == [Result(found, 1)]
    assert after(single, ("a", YES), ("b", told)).results() == [Result(found, 1)]


def test_the_results_of_several_keys_come_in_their_order() -> None:
    def vote(*numbers: int) -> Message:
        rows = [Result(found=True, version=10 + number) for number in numbers]
        return Message(Status.YES, NAME, Operation.MANY, value=parts.pack_results(rows))

    first, second = sorted((0, 1), key=lambda number: KEYS[number])
    coordinator = after(spanning, ("a", vote(0)), ("b", vote(first, second)), ("c", vote(1)))
    assert [result.version for result in coordinator.results()] == [10 + first, 10 + second]


def test_what_is_only_known_to_be_committed_has_no_results() -> None:
    assert after(spanning, ("a", Message(Status.DONE, NAME, Operation.MANY))).results() == []


@pytest.mark.parametrize("state", sorted(set(State) - {State.COMMITTING, State.COMMITTED}))
def test_what_is_not_committed_has_no_results(state: State) -> None:
    with pytest.raises(LocalProtocolError, match=f"an attempt that is {state.value} has no result"):
        IN_STATE[state]().results()


# Whatever happens.

STARTS = [single, unwaited, ordered, spanning, wide, reading]
STATUSES = [Status.YES, Status.NO, Status.DONE, Status.DONE_NOTHING, Status.ABORTED, Status.STATS]
HAPPENINGS = st.tuples(
    st.sampled_from("abcd"),
    st.builds(answer, st.sampled_from(STATUSES), st.sampled_from(Reason), st.integers(0, 1))
    | st.sampled_from([LOST, UNREACHED, "resend"]),
)


@given(st.sampled_from(STARTS), st.lists(HAPPENINGS, max_size=15))
def test_no_answers_lead_outside_the_table_and_time_ends_every_attempt(
    start: Callable[[], Coordinator], happenings: list[Happening]
) -> None:
    coordinator = start()
    for server, what in happenings:
        before, state = pickle.dumps(coordinator), coordinator.state
        try:
            if what == "resend":
                sends = coordinator.resend(server)
                assert {to for to, _ in sends} <= {server}
            else:
                sends = tell(coordinator, (server, what))
        except RemoteProtocolError:
            assert pickle.dumps(coordinator) == before
        assert state not in ENDED or coordinator.state is state
    if not coordinator.is_over:
        assert coordinator.give_up() == []
    assert coordinator.is_over
    assert coordinator.state is not State.COMMITTED or len(coordinator.results()) <= 2


@given(st.lists(st.sampled_from([YES, NO, "lost", "unreached"]), min_size=4, max_size=4))
def test_who_may_hold_a_yes_is_told_to_let_it_go_before_an_attempt_is_aborted(
    votes: list[Message | str],
) -> None:
    coordinator = wide()
    answers = dict(zip("abcd", votes, strict=True))
    todo = [send for server, vote in answers.items() for send in tell(coordinator, (server, vote))]
    released = set()
    while todo and coordinator.state in {State.REVOKING, State.RELEASING}:
        server, message = todo.pop()
        assert message.status is Status.ABORT
        released.add(server)
        todo += tell(coordinator, (server, ABORTED))
    if coordinator.state is State.ABORTED:
        assert released == {server for server, vote in answers.items() if vote in {YES, "lost"}}
    else:
        assert NO not in votes
        assert "unreached" not in votes
