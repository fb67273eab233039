"""The states of a transaction at a participant, and what leads from one to another."""

from enum import StrEnum


class State(StrEnum):
    """Where a transaction stands at this participant."""

    IDLE = "idle"  # nothing is held for it: not seen yet, refused, or over
    WAITING = "waiting"  # in the queue of a lock, not voted yet
    PREPARED = "prepared"  # voted yes: holds its locks and its staged effect
    COMMITTED = "committed"  # over, and remembered for others that may ask
    ABORTED = "aborted"  # the same


class Event(StrEnum):
    """What can happen to a transaction."""

    REQUEST_GRANTED = "request, all locks free"
    REQUEST_QUEUED = "request, may wait for a lock"
    REQUEST_REFUSED = "request, not to be granted"
    REQUEST_AGAIN = "request, known already"
    TURN_GRANTED = "all locks were handed over"
    TURN_REFUSED = "waited in vain"
    PROCEED = "proceed"
    PROCEED_SPANNING = "proceed, several keys"
    ABORT = "abort"
    ASKED = "another participant asks"
    LEFT = "client gone"
    LEARNED_COMMIT = "the others' votes commit it"
    LEARNED_ABORT = "the others' votes abort it"


class Action(StrEnum):
    """What the participant does on a transition."""

    PREPARE = "take the locks, stage the effect, vote yes"
    ENQUEUE = "wait for the lock"
    REFUSE = "vote no"
    REPEAT_VOTE = "vote yes again"
    REPEAT_RESULT = "answer done"
    REPEAT_REFUSAL = "vote no again"
    NOTHING = "nothing"
    COMMIT = "apply, unlock, answer done"
    APPLY = "apply, unlock, remember"
    RELEASE = "unlock, drop the effect, answer aborted"
    ROLL_BACK = "unlock, drop the effect, remember"
    ACKNOWLEDGE_ABORT = "answer aborted"
    VETO = "remember the no, tell it"
    LEAVE_AND_VETO = "leave the queue, vote no, remember it, tell it"
    LEAVE = "leave the queue"
    LEAVE_AND_REFUSE = "leave the queue, vote no"
    LEAVE_AND_ACKNOWLEDGE = "leave the queue, answer aborted"
    SAY_YES = "tell the yes"
    SAY_COMMITTED = "tell the commit"
    SAY_NO = "tell the no"


TRANSITIONS: dict[tuple[State, Event], tuple[State, Action]] = {
    (State.IDLE, Event.REQUEST_GRANTED): (State.PREPARED, Action.PREPARE),
    (State.IDLE, Event.REQUEST_QUEUED): (State.WAITING, Action.ENQUEUE),
    (State.IDLE, Event.REQUEST_REFUSED): (State.IDLE, Action.REFUSE),
    (State.IDLE, Event.PROCEED): (State.IDLE, Action.REPEAT_RESULT),
    (State.IDLE, Event.PROCEED_SPANNING): (State.IDLE, Action.REPEAT_RESULT),
    (State.IDLE, Event.ABORT): (State.IDLE, Action.ACKNOWLEDGE_ABORT),
    (State.IDLE, Event.ASKED): (State.ABORTED, Action.VETO),
    (State.WAITING, Event.REQUEST_AGAIN): (State.WAITING, Action.NOTHING),
    (State.WAITING, Event.TURN_GRANTED): (State.PREPARED, Action.PREPARE),
    (State.WAITING, Event.TURN_REFUSED): (State.IDLE, Action.LEAVE_AND_REFUSE),
    (State.WAITING, Event.ABORT): (State.IDLE, Action.LEAVE_AND_ACKNOWLEDGE),
    (State.WAITING, Event.ASKED): (State.ABORTED, Action.LEAVE_AND_VETO),
    (State.WAITING, Event.LEFT): (State.IDLE, Action.LEAVE),
    (State.PREPARED, Event.REQUEST_AGAIN): (State.PREPARED, Action.REPEAT_VOTE),
    (State.PREPARED, Event.PROCEED): (State.IDLE, Action.COMMIT),
    (State.PREPARED, Event.PROCEED_SPANNING): (State.COMMITTED, Action.COMMIT),
    (State.PREPARED, Event.ABORT): (State.IDLE, Action.RELEASE),
    (State.PREPARED, Event.ASKED): (State.PREPARED, Action.SAY_YES),
    (State.PREPARED, Event.LEARNED_COMMIT): (State.COMMITTED, Action.APPLY),
    (State.PREPARED, Event.LEARNED_ABORT): (State.ABORTED, Action.ROLL_BACK),
    (State.COMMITTED, Event.REQUEST_AGAIN): (State.COMMITTED, Action.REPEAT_RESULT),
    (State.COMMITTED, Event.PROCEED): (State.COMMITTED, Action.REPEAT_RESULT),
    (State.COMMITTED, Event.PROCEED_SPANNING): (State.COMMITTED, Action.REPEAT_RESULT),
    (State.COMMITTED, Event.ABORT): (State.COMMITTED, Action.REPEAT_RESULT),
    (State.COMMITTED, Event.ASKED): (State.COMMITTED, Action.SAY_COMMITTED),
    (State.ABORTED, Event.REQUEST_AGAIN): (State.ABORTED, Action.REPEAT_REFUSAL),
    (State.ABORTED, Event.ABORT): (State.ABORTED, Action.ACKNOWLEDGE_ABORT),
    (State.ABORTED, Event.ASKED): (State.ABORTED, Action.SAY_NO),
}
