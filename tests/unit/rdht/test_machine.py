import pickle
from itertools import product
from typing import Any

import pytest

from rdht.errors import RemoteProtocolError
from rdht.machine import Machine
from rdht.messages import Flag, Outgoing, Status
from rdht.transaction import Transaction
from rdht.transitions import TRANSITIONS, Event, State
from tests.unit.rdht.lone import (
    ABORTED,
    ADD_WAITING,
    BUSY,
    COMMITTED,
    DONE,
    NO,
    NOW_S,
    PREPARED,
    PROCEED_SPANNING,
    SPANNING,
    T1,
    T2,
    WAITING,
    YES,
    Happening,
    abort,
    act,
    after,
    answer,
    hear,
    learned,
    leave,
    nothing,
    proceed,
    request,
    state_of,
)

Case = tuple[State, Event, Happening, Happening, list[tuple[int | str, Status]]]
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
    step = participant._machine.step

    def spy(tx: Transaction, event: Event, *rest: Any) -> None:
        if tx.name == T1:
            steps.append((tx.state, event))
        step(tx, event, *rest)

    monkeypatch.setattr(participant._machine, "step", spy)
    out = happen(participant)
    assert steps == [(state, event)]
    assert state_of(participant) is TRANSITIONS[state, event][0]
    assert [(to, message.status) for to, message in out] == sent


def test_every_row_of_the_table_is_reached_from_outside() -> None:
    assert {(state, event) for state, event, *_ in LEGAL} == set(TRANSITIONS)


def test_every_action_of_the_table_is_known() -> None:
    assert {action for _, action in TRANSITIONS.values()} == set(Machine.ACTIONS)


@pytest.mark.parametrize(("state", "event"), ILLEGAL)
def test_an_event_that_the_table_does_not_have_raises_and_changes_nothing(
    state: State, event: Event
) -> None:
    participant = after(TO_STATE[state])
    tx = participant.transactions.get(T1) or Transaction(request(T1))
    before, out = pickle.dumps((participant, tx)), Outgoing()
    with pytest.raises(RemoteProtocolError, match=f"that is {state} has no event: {event}"):
        participant._machine.step(tx, event, request(T1), NOW_S, out)
    assert pickle.dumps((participant, tx)) == before
    assert out == []


def test_a_proceed_for_what_waits_raises_and_changes_nothing() -> None:
    participant = after(WAITING)
    before = pickle.dumps(participant)
    with pytest.raises(RemoteProtocolError, match="that is waiting has no event: proceed"):
        participant.handle(proceed(T1), NOW_S)
    assert pickle.dumps(participant) == before
