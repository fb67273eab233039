"""The client's half of two-phase commit: votes in, one decision out.

Sans-IO: one `Coordinator` carries one attempt at one command. `start`, `receive` and `lost` return
the messages to send; the attempt has ended once `state` is one of the last three.
"""

from enum import StrEnum
from typing import NamedTuple

from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.messages import Message, Name, Operation, Reason, Status


class State(StrEnum):
    """Where an attempt stands."""

    VOTING = "voting"
    COMMITTING = "committing"
    ABORTING = "aborting"
    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class Event(StrEnum):
    """How a round of answers ended, once every participant answered or was lost."""

    ALL_YES = "every vote is yes"
    SOME_YES = "some votes are yes, not all"
    NO_YES = "no vote is yes, and one is no or cannot have been given"
    NO_VOTE = "no vote came"
    DONE = "all that answered are done"
    NOT_DONE = "nobody answered, or one had given up"
    UNDONE = "one vote was no or not given, or one abort is acknowledged"
    NOT_UNDONE = "each vote may have been yes, and no abort is acknowledged"


class Action(StrEnum):
    """What the coordinator sends on a transition."""

    SEND_PROCEED = "proceed to all"
    SEND_ABORT = "abort to those who voted yes"
    NOTHING = "nothing"


TRANSITIONS: dict[tuple[State, Event], tuple[State, Action]] = {
    (State.VOTING, Event.ALL_YES): (State.COMMITTING, Action.SEND_PROCEED),
    (State.VOTING, Event.SOME_YES): (State.ABORTING, Action.SEND_ABORT),
    (State.VOTING, Event.NO_YES): (State.ABORTED, Action.NOTHING),
    (State.VOTING, Event.NO_VOTE): (State.UNKNOWN, Action.NOTHING),
    (State.COMMITTING, Event.DONE): (State.COMMITTED, Action.NOTHING),
    (State.COMMITTING, Event.NOT_DONE): (State.UNKNOWN, Action.NOTHING),
    (State.ABORTING, Event.UNDONE): (State.ABORTED, Action.NOTHING),
    (State.ABORTING, Event.NOT_UNDONE): (State.UNKNOWN, Action.NOTHING),
}

_EXPECTED = {
    State.VOTING: frozenset({Status.YES, Status.NO}),
    State.COMMITTING: frozenset({Status.DONE, Status.DONE_NOTHING, Status.ABORTED}),
    State.ABORTING: frozenset({Status.ABORTED}),
}
_STATUS_SENT = {
    Action.SEND_PROCEED: Status.PROCEED,
    Action.SEND_ABORT: Status.ABORT,
}


# Looking a member up in its enum costs 0.2 us in Python 3.11, a name of the module a tenth.
_REQUEST, _YES, _NO, _ABORTED = Status.REQUEST, Status.YES, Status.NO, Status.ABORTED
_VOTING, _COMMITTING = State.VOTING, State.COMMITTING
_NOTHING, _NO_REASON = Action.NOTHING, Reason.NONE


class Command(NamedTuple):
    """What a caller wants done; `version` is the one that a cas expects."""

    operation: Operation
    key: bytes
    value: bytes = b""
    version: int = 0


class Coordinator:
    """One attempt at one command."""

    def __init__(self, name: Name, command: Command, replicas: tuple[str, ...]) -> None:
        """Coordinate `command` under the transaction `name` between the servers `replicas`."""
        self.name = name
        self.command = command
        self.replicas = replicas
        self.state = _VOTING
        self.refusal = _NO_REASON
        self._waiting = set(replicas)
        self._voted_yes: list[str] = []
        self._answers: list[Message] = []  # of this round
        self._refused = False

    @property
    def result(self) -> Message:
        """What the replicas answered to a committed command."""
        if self.state is not State.COMMITTED:
            why = f"an attempt that is {self.state.value} has no result"
            raise LocalProtocolError(why)
        return self._answers[0]

    def start(self) -> list[tuple[str, Message]]:
        """Return the requests to send, one a replica."""
        operation, key, value, version = self.command
        request = Message._make((_REQUEST, self.name, operation, _NO_REASON, version, key, value))
        return [(server, request) for server in self.replicas]

    def receive(self, server: str, message: Message) -> list[tuple[str, Message]]:
        """Take a server's answer; return what to send because of it.

        Raises RemoteProtocolError for an answer that was not asked for, and where the replicas'
        results differ; nothing is changed then.
        """
        status = message.status
        if (
            server not in self._waiting
            or message.name != self.name
            or status not in _EXPECTED[self.state]
        ):
            why = f"{server} sent {status.name} to a transaction that is {self.state.value}"
            raise RemoteProtocolError(why)
        if status is _YES:
            self._voted_yes.append(server)
        elif status is _NO:
            self._refused = True
            self.refusal = max(self.refusal, message.reason)
        elif status is not _ABORTED:
            self._check_same(message)
        self._answers.append(message)
        return self._answered(server)

    def lost(self, server: str, *, reached: bool = True) -> list[tuple[str, Message]]:
        """Take note that no answer will come from a server; return what to send because of it.

        A server that the request did not reach cannot have voted yes, which is as good as a no.
        """
        if server not in self._waiting:
            return []
        self._refused |= self.state is _VOTING and not reached
        return self._answered(server)

    def _check_same(self, message: Message) -> None:
        for other in self._answers:
            if other.status is not _ABORTED and other != message:
                held_by = " and ".join(self.replicas)
                why = f"{held_by} hold different copies of key {self.command.key!r}"
                raise RemoteProtocolError(why)

    def _answered(self, server: str) -> list[tuple[str, Message]]:
        self._waiting.remove(server)
        if self._waiting:
            return []
        self.state, action = TRANSITIONS[self.state, self._event()]
        if action is _NOTHING:
            return []
        self._answers = []
        self._waiting = set(self._voted_yes)
        operation, key, _, _ = self.command
        message = Message._make(
            (_STATUS_SENT[action], self.name, operation, _NO_REASON, 0, key, b"")
        )
        return [(server, message) for server in self._voted_yes]

    def _event(self) -> Event:
        """Name how the round ended, from the answers that came."""
        if self.state is _VOTING:
            if len(self._voted_yes) == len(self.replicas):
                return Event.ALL_YES
            if self._voted_yes:
                return Event.SOME_YES
            return Event.NO_YES if self._refused else Event.NO_VOTE
        if self.state is _COMMITTING:
            answered = [message.status for message in self._answers]
            return Event.DONE if answered and _ABORTED not in answered else Event.NOT_DONE
        return Event.UNDONE if self._refused or self._answers else Event.NOT_UNDONE
