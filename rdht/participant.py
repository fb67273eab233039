"""A server's half of two-phase commit: votes, locks, staged values, the table.

Sans-IO: `handle` takes a message and the time and returns the answer. It owns no socket, thread,
clock or randomness, and is not thread-safe: its owner calls it under one lock.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.limits import PREPARED_TIMEOUT_S
from rdht.messages import Message, Name, Operation, Reason, Status


class State(StrEnum):
    """Where a transaction stands at this participant."""

    IDLE = "idle"  # nothing is held for it: not seen yet, refused, committed or aborted
    PREPARED = "prepared"  # voted yes: holds the key's lock and the staged effect


class Event(StrEnum):
    """What can happen to a transaction."""

    REQUEST_GRANTED = "request, lock free"
    REQUEST_REFUSED = "request, lock not to be had"
    REQUEST_AGAIN = "request, voted yes already"
    PROCEED = "proceed"
    ABORT = "abort"
    ABANDONED = "client lost or silent for too long"


class Action(StrEnum):
    """What the participant does on a transition."""

    PREPARE = "take the lock, stage the effect, vote yes"
    VOTE_AGAIN = "vote yes"
    REFUSE = "vote no"
    COMMIT = "apply, unlock, answer done"
    RELEASE = "unlock, drop the effect, answer aborted"
    ACKNOWLEDGE_ABORT = "answer aborted"


TRANSITIONS: dict[tuple[State, Event], tuple[State, Action]] = {
    (State.IDLE, Event.REQUEST_GRANTED): (State.PREPARED, Action.PREPARE),
    (State.IDLE, Event.REQUEST_REFUSED): (State.IDLE, Action.REFUSE),
    (State.IDLE, Event.PROCEED): (State.IDLE, Action.ACKNOWLEDGE_ABORT),
    (State.IDLE, Event.ABORT): (State.IDLE, Action.ACKNOWLEDGE_ABORT),
    (State.PREPARED, Event.REQUEST_AGAIN): (State.PREPARED, Action.VOTE_AGAIN),
    (State.PREPARED, Event.PROCEED): (State.IDLE, Action.COMMIT),
    (State.PREPARED, Event.ABORT): (State.IDLE, Action.RELEASE),
    (State.PREPARED, Event.ABANDONED): (State.IDLE, Action.RELEASE),
}


class Entry(NamedTuple):
    """What the table holds for a key.

    A deleted key keeps its version, so that a version never stands for two values.
    """

    value: bytes | None
    version: int


ABSENT = Entry(None, 0)


class Staged(NamedTuple):
    """What a transaction will do and answer once it commits."""

    key: bytes
    entry: Entry | None  # None: the table stays as it is
    result: Message
    deadline_s: float


# Looking a member up in its enum costs 0.2 us in Python 3.11, a name of the module a tenth.
_REQUEST, _PROCEED, _ABORT = Status.REQUEST, Status.PROCEED, Status.ABORT
_YES, _DONE, _DONE_NOTHING = Status.YES, Status.DONE, Status.DONE_NOTHING
_message = Message._make  # half the cost of naming each field
_PREPARED, _IDLE, _NO_REASON = State.PREPARED, State.IDLE, Reason.NONE


class Participant:
    """The keys of one server and the transactions that hold them."""

    def __init__(self) -> None:
        """Start with an empty table."""
        self.table: dict[bytes, Entry] = {}
        self.locks: dict[bytes, Name] = {}
        self.prepared: dict[Name, Staged] = {}
        self.stopping = False
        self._actions: dict[Action, Callable[[Message, float], Message]] = {
            Action.PREPARE: self._prepare,
            Action.VOTE_AGAIN: self._vote_yes,
            Action.REFUSE: self._refuse,
            Action.COMMIT: self._commit,
            Action.RELEASE: self._release,
            Action.ACKNOWLEDGE_ABORT: self._acknowledge_abort,
        }

    def handle(self, message: Message, now_s: float) -> Message:
        """Return the answer to a request, proceed or abort.

        Raises RemoteProtocolError for any other message; nothing is changed then.
        """
        return self._step(self._event(message), message, now_s)

    def abandon(self, client: int) -> list[Name]:
        """Abort whatever that client has prepared; return what was aborted.

        Until participants can ask each other (see the changelog), a client that dies between its
        two proceeds leaves the replicas apart; the replica check after a run finds that.
        """
        return self._abandon([name for name in self.prepared if name.client == client])

    def expire(self, now_s: float) -> list[Name]:
        """Abort the transactions whose client was silent for too long; return their names."""
        return self._abandon(
            [name for name, staged in self.prepared.items() if staged.deadline_s <= now_s]
        )

    def _abandon(self, names: list[Name]) -> list[Name]:
        for name in names:
            self._step(Event.ABANDONED, Message(Status.ABORT, name), 0.0)
        return names

    def _event(self, message: Message) -> Event:
        status = message.status
        if status is _PROCEED:
            return Event.PROCEED
        if status is _ABORT:
            return Event.ABORT
        if status is not _REQUEST or message.operation is Operation.NONE:
            why = f"a participant takes no {status.name} of operation {message.operation.name}"
            raise RemoteProtocolError(why)
        if message.name in self.prepared:
            if message.key != self.prepared[message.name].key:
                why = "a transaction asks for a second key"
                raise RemoteProtocolError(why)
            return Event.REQUEST_AGAIN
        if self.stopping or message.key in self.locks:
            return Event.REQUEST_REFUSED
        return Event.REQUEST_GRANTED

    def _step(self, event: Event, message: Message, now_s: float) -> Message:
        state = _PREPARED if message.name in self.prepared else _IDLE
        transition = TRANSITIONS.get((state, event))
        if transition is None:
            why = f"a transaction that is {state} has no event {event}"
            raise LocalProtocolError(why)
        return self._actions[transition[1]](message, now_s)

    def _prepare(self, message: Message, now_s: float) -> Message:
        current = self.table.get(message.key, ABSENT)
        entry, result = _stage(message, current)
        self.locks[message.key] = message.name
        self.prepared[message.name] = Staged(message.key, entry, result, now_s + PREPARED_TIMEOUT_S)
        return self._vote_yes(message, now_s)

    def _vote_yes(self, message: Message, _now_s: float) -> Message:
        version = self.table.get(message.key, ABSENT).version
        return _message((_YES, message.name, message.operation, _NO_REASON, version, b"", b""))

    def _refuse(self, message: Message, _now_s: float) -> Message:
        reason = Reason.STOPPING if self.stopping else Reason.BUSY
        return Message(Status.NO, message.name, message.operation, reason)

    def _commit(self, message: Message, _now_s: float) -> Message:
        staged = self.prepared.pop(message.name)
        if staged.entry is not None:
            self.table[staged.key] = staged.entry  # BEFORE the lock is released
        del self.locks[staged.key]
        return staged.result

    def _release(self, message: Message, now_s: float) -> Message:
        del self.locks[self.prepared.pop(message.name).key]
        return self._acknowledge_abort(message, now_s)

    def _acknowledge_abort(self, message: Message, _now_s: float) -> Message:
        return Message(Status.ABORTED, message.name, message.operation)


def _stage(message: Message, current: Entry) -> tuple[Entry | None, Message]:
    """Return the entry that the command writes, or None, and its result."""
    operation = message.operation
    succeeds, writes = _EFFECTS[operation](message, current)
    entry = None
    if succeeds and writes:
        value = None if operation is Operation.DELETE else message.value
        entry = Entry(value, current.version + 1)
    status = _DONE if succeeds else _DONE_NOTHING
    version = current.version if entry is None else entry.version
    read = b"" if writes or current.value is None else current.value
    result = _message((status, message.name, operation, _NO_REASON, version, b"", read))
    return entry, result


_EFFECTS: dict[Operation, Callable[[Message, Entry], tuple[bool, bool]]] = {
    # whether the command succeeds on what is there, and whether it writes if it does
    Operation.GET: lambda _, current: (current.value is not None, False),
    Operation.PUT: lambda _, __: (True, True),
    Operation.ADD: lambda _, current: (current.value is None, True),
    Operation.DELETE: lambda _, current: (current.value is not None, True),
    Operation.CAS: lambda message, current: (message.version == current.version, True),
}
