import copy
from itertools import product

import pytest

from rdht.coordinator import TRANSITIONS, Action, Command, Coordinator, Event, State
from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.messages import Message, Name, Operation, Reason, Status

NAME = Name(7, 1, 1)
PUT = Command(Operation.PUT, b"key", b"value")
REPLICAS = ("a", "b")
LOST = None  # in a list of answers: the server is lost instead
Answer = Message | None


def answer(status: Status, reason: Reason = Reason.NONE, version: int = 1) -> Message:
    return Message(status, NAME, PUT.operation, reason, version)


YES, NO = answer(Status.YES), answer(Status.NO, Reason.BUSY)
DONE, NOTHING = answer(Status.DONE), answer(Status.DONE_NOTHING)
ABORTED = answer(Status.ABORTED)
PROCEED = Message(Status.PROCEED, NAME, Operation.PUT, key=b"key")
ABORT = Message(Status.ABORT, NAME, Operation.PUT, key=b"key")
Sends = list[tuple[str, Message]]


def start() -> Coordinator:
    return Coordinator(NAME, PUT, REPLICAS)


def tell(coordinator: Coordinator, *answers: tuple[str, Answer]) -> Sends:
    """Give the answers in order; return what the last one made the coordinator send."""
    sends: Sends = []
    for server, message in answers:
        assert not sends, "a round ended early"
        sends = (
            coordinator.lost(server) if message is LOST else coordinator.receive(server, message)
        )
    return sends


def committing() -> Coordinator:
    coordinator = start()
    tell(coordinator, ("a", YES), ("b", YES))
    return coordinator


def aborting(other: Answer = NO) -> Coordinator:
    coordinator = start()
    tell(coordinator, ("a", YES), ("b", other))
    return coordinator


def committed() -> Coordinator:
    coordinator = committing()
    tell(coordinator, ("a", DONE), ("b", DONE))
    return coordinator


def aborted() -> Coordinator:
    coordinator = aborting()
    tell(coordinator, ("a", ABORTED))
    return coordinator


def unknown() -> Coordinator:
    coordinator = committing()
    tell(coordinator, ("a", LOST), ("b", LOST))
    return coordinator


IN_STATE = {
    State.VOTING: start,
    State.COMMITTING: committing,
    State.ABORTING: aborting,
    State.COMMITTED: committed,
    State.ABORTED: aborted,
    State.UNKNOWN: unknown,
}
ENDED = (State.COMMITTED, State.ABORTED, State.UNKNOWN)


def held(coordinator: Coordinator) -> object:
    return copy.deepcopy(vars(coordinator))


def test_a_request_goes_to_each_replica_in_their_order() -> None:
    request = Message(Status.REQUEST, NAME, Operation.CAS, Reason.NONE, 5, b"key", b"value")
    coordinator = Coordinator(NAME, Command(Operation.CAS, b"key", b"value", 5), ("b", "a"))
    assert coordinator.start() == [("b", request), ("a", request)]
    assert coordinator.state is State.VOTING


VOTES: list[tuple[Answer, Answer, Event, Sends]] = [
    (YES, YES, Event.ALL_YES, [("a", PROCEED), ("b", PROCEED)]),
    (YES, NO, Event.SOME_YES, [("a", ABORT)]),
    (NO, YES, Event.SOME_YES, [("b", ABORT)]),
    (YES, LOST, Event.SOME_YES, [("a", ABORT)]),
    (LOST, YES, Event.SOME_YES, [("b", ABORT)]),
    (NO, NO, Event.NO_YES, []),
    (NO, LOST, Event.NO_YES, []),
    (LOST, NO, Event.NO_YES, []),
    (LOST, LOST, Event.NO_VOTE, []),
]
COMMITS: list[tuple[Answer, Answer, Event]] = [
    (DONE, DONE, Event.DONE),
    (NOTHING, NOTHING, Event.DONE),
    (DONE, LOST, Event.DONE),
    (LOST, DONE, Event.DONE),
    (NOTHING, LOST, Event.DONE),
    (ABORTED, DONE, Event.NOT_DONE),
    (DONE, ABORTED, Event.NOT_DONE),
    (NOTHING, ABORTED, Event.NOT_DONE),
    (ABORTED, ABORTED, Event.NOT_DONE),
    (ABORTED, LOST, Event.NOT_DONE),
    (LOST, ABORTED, Event.NOT_DONE),
    (LOST, LOST, Event.NOT_DONE),
]
ABORTS: list[tuple[Answer, Answer, Event]] = [
    # the other's vote, and what the one that voted yes answers to the abort
    (NO, ABORTED, Event.UNDONE),
    (NO, LOST, Event.UNDONE),
    (LOST, ABORTED, Event.UNDONE),
    (LOST, LOST, Event.NOT_UNDONE),
]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize(("of_a", "of_b", "event", "sends"), VOTES)
def test_votes_end_in_the_state_that_the_table_says(
    of_a: Answer, of_b: Answer, event: Event, sends: Sends, order: tuple[str, str]
) -> None:
    coordinator = start()
    answers = {"a": of_a, "b": of_b}
    sent = tell(coordinator, *[(server, answers[server]) for server in order])
    state, action = TRANSITIONS[State.VOTING, event]
    assert coordinator.state is state
    assert sorted(sent) == sends
    assert {message.status for _, message in sent} == {
        Action.SEND_PROCEED: {Status.PROCEED},
        Action.SEND_ABORT: {Status.ABORT},
        Action.NOTHING: set(),
    }[action]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize(("of_a", "of_b", "event"), COMMITS)
def test_answers_to_proceed_end_in_the_state_that_the_table_says(
    of_a: Answer, of_b: Answer, event: Event, order: tuple[str, str]
) -> None:
    coordinator = committing()
    answers = {"a": of_a, "b": of_b}
    assert tell(coordinator, *[(server, answers[server]) for server in order]) == []
    assert coordinator.state is TRANSITIONS[State.COMMITTING, event][0]


@pytest.mark.parametrize(("vote", "acknowledgement", "event"), ABORTS)
def test_answers_to_abort_end_in_the_state_that_the_table_says(
    vote: Answer, acknowledgement: Answer, event: Event
) -> None:
    coordinator = aborting(vote)
    assert tell(coordinator, ("a", acknowledgement)) == []
    assert coordinator.state is TRANSITIONS[State.ABORTING, event][0]


def test_every_row_of_the_table_is_reached_and_no_answers_lead_outside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached: set[tuple[State, Event]] = set()
    event_of = Coordinator._event

    def spy(self: Coordinator) -> Event:
        event = event_of(self)
        reached.add((self.state, event))
        return event

    monkeypatch.setattr(Coordinator, "_event", spy)
    for replicas in (("a",), ("a", "b"), ("a", "b", "c")):
        for votes in product((YES, NO, LOST), repeat=len(replicas)):
            voters = [server for server, vote in zip(replicas, votes, strict=True) if vote == YES]
            decided = (DONE, ABORTED, LOST) if len(voters) == len(replicas) else (ABORTED, LOST)
            for answers in product(decided, repeat=len(voters)):
                coordinator = Coordinator(NAME, PUT, replicas)
                sends = tell(coordinator, *zip(replicas, votes, strict=True))
                assert [server for server, _ in sends] == voters
                if voters:
                    assert tell(coordinator, *zip(voters, answers, strict=True)) == []
                assert coordinator.state in ENDED
    assert reached == set(TRANSITIONS)


ASKED_FOR = {
    State.VOTING: {Status.YES, Status.NO},
    State.COMMITTING: {Status.DONE, Status.DONE_NOTHING, Status.ABORTED},
    State.ABORTING: {Status.ABORTED},
}


@pytest.mark.parametrize(
    ("state", "status"),
    [pair for pair in product(State, Status) if pair[1] not in ASKED_FOR.get(pair[0], set())],
)
def test_an_answer_that_was_not_asked_for_raises_and_changes_nothing(
    state: State, status: Status
) -> None:
    coordinator = IN_STATE[state]()
    assert coordinator.state is state
    before = held(coordinator)
    with pytest.raises(RemoteProtocolError, match=f"a sent {status.name} to a .* is {state.value}"):
        coordinator.receive("a", answer(status))
    assert held(coordinator) == before


@pytest.mark.parametrize(
    ("state", "status"),
    [(state, status) for state in ASKED_FOR for status in sorted(ASKED_FOR[state])],
)
def test_an_answer_to_another_transaction_raises_and_changes_nothing(
    state: State, status: Status
) -> None:
    coordinator = IN_STATE[state]()
    before = held(coordinator)
    with pytest.raises(RemoteProtocolError, match=f"a sent {status.name}"):
        coordinator.receive("a", answer(status)._replace(name=NAME._replace(attempt=2)))
    assert held(coordinator) == before


def test_a_second_vote_raises_and_changes_nothing() -> None:
    coordinator = start()
    coordinator.receive("a", YES)
    before = held(coordinator)
    with pytest.raises(RemoteProtocolError, match="a sent NO"):
        coordinator.receive("a", NO)
    assert held(coordinator) == before


def test_an_answer_of_a_server_that_was_not_asked_raises_and_changes_nothing() -> None:
    coordinator = aborting()
    before = held(coordinator)
    with pytest.raises(RemoteProtocolError, match="b sent ABORTED"):
        coordinator.receive("b", ABORTED)
    with pytest.raises(RemoteProtocolError, match="c sent ABORTED"):
        coordinator.receive("c", ABORTED)
    assert held(coordinator) == before


@pytest.mark.parametrize("state", State)
def test_the_loss_of_a_server_that_owes_nothing_changes_nothing(state: State) -> None:
    coordinator = IN_STATE[state]()
    before = held(coordinator)
    assert coordinator.lost("c") == []
    if state in ENDED:
        assert coordinator.lost("a") == coordinator.lost("b") == []
    assert held(coordinator) == before


@pytest.mark.parametrize("other", [NOTHING, answer(Status.DONE, version=2)])
def test_replicas_that_answer_differently_raise_and_change_nothing(other: Message) -> None:
    coordinator = committing()
    coordinator.receive("a", DONE)
    before = held(coordinator)
    with pytest.raises(RemoteProtocolError, match="a and b hold different copies of key b'key'"):
        coordinator.receive("b", other)
    assert held(coordinator) == before


def test_the_result_of_a_commit_is_what_the_replicas_answered() -> None:
    coordinator = committing()
    result = answer(Status.DONE, version=9)
    tell(coordinator, ("b", result), ("a", result))
    assert coordinator.result == result


@pytest.mark.parametrize("lost", ["a", "b"])
def test_one_replicas_answer_is_the_result_where_the_other_is_lost(lost: str) -> None:
    coordinator = committing()
    (left,) = set(REPLICAS) - {lost}
    tell(coordinator, (lost, LOST), (left, DONE))
    assert coordinator.result == DONE


@pytest.mark.parametrize("state", sorted(set(State) - {State.COMMITTED}))
def test_what_is_not_committed_has_no_result(state: State) -> None:
    coordinator = IN_STATE[state]()
    with pytest.raises(LocalProtocolError, match=f"an attempt that is {state.value} has no result"):
        _ = coordinator.result


STOPPING = answer(Status.NO, Reason.STOPPING)


@pytest.mark.parametrize(
    ("of_a", "of_b", "refusal"),
    [
        (YES, YES, Reason.NONE),
        (YES, NO, Reason.BUSY),
        (NO, LOST, Reason.BUSY),
        (NO, STOPPING, Reason.STOPPING),
        (STOPPING, NO, Reason.STOPPING),
        (LOST, LOST, Reason.NONE),
    ],
)
def test_a_stopping_server_weighs_more_than_a_busy_key(
    of_a: Answer, of_b: Answer, refusal: Reason
) -> None:
    coordinator = start()
    tell(coordinator, ("a", of_a), ("b", of_b))
    assert coordinator.refusal is refusal
