"""One command from its first attempt to its outcome.

Sans-IO: it says what to send, when the next attempt is due, and in the end what became of the
command. The time and the chance in a pause are given to it.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum

from rdht.coordinator import Command, Coordinator, Outgoing, State, plan, plan_read
from rdht.errors import LocalProtocolError
from rdht.limits import (
    COMMAND_TIMEOUT_S,
    RECONNECT_PAUSE_S,
    RETRY_BACKOFF_FIRST_S,
    RETRY_BACKOFF_MAX_S,
)
from rdht.messages import Flag, Message, Name, Operation, Reason
from rdht.parts import Result
from rdht.profiles import Profile
from rdht.ring import Ring


class Outcome(StrEnum):
    """How a command ended."""

    DONE = "done"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


# Looking a member up in its enum costs 0.2 us in Python 3.11, a name of the module a tenth.
_COMMITTED, _DONE = State.COMMITTED, Outcome.DONE
_NONE, _GET = Reason.NONE, Operation.GET
_MOVED = {Reason.STALE_EPOCH, Reason.SYNCING}
_ABSENT = {Reason.SYNCING, Reason.STOPPING}
_CONFLICTS = {Reason.BUSY, Reason.OVERLOADED, Reason.VETOED}
_FINAL = {
    Reason.LOST: "both replicas of its range have lost their memory",
    Reason.UNSAFE: "a server's disk has failed",
    Reason.ELSEWHERE: "a server is no replica of its range: the rosters differ",
    Reason.TOO_LONG: "what it reads does not fit into one message; ask for fewer keys at once",
}
_TRANSIENT = {
    _NONE: "a server could not be reached",
    Reason.BUSY: "its lock was taken",
    Reason.OVERLOADED: "too many wait for its lock",
    Reason.VETOED: "its servers had given up waiting for it",
    Reason.STALE_EPOCH: "a replica of its range has just come back",
    Reason.SYNCING: "its range waits for a replica to come back",
    Reason.STOPPING: "a server is stopping",
}


class Execution:
    """A command that is being carried out, attempt by attempt."""

    def __init__(  # noqa: PLR0913, PLR0917 - a command needs to know its session
        self,
        client: int,
        sequence: int,
        commands: Sequence[Command],
        ring: Ring,
        profile: Profile,
        epochs: dict[int, int],
        now_s: float,
    ) -> None:
        """Carry out `commands` as one, within COMMAND_TIMEOUT_S.

        `epochs` is the session's, and brought up to date here.
        """
        self.client = client
        self.sequence = sequence
        self.commands = commands
        self.begun_s = now_s
        self.deadline_s = now_s + COMMAND_TIMEOUT_S
        self.due_s: float | None = None  # when the next attempt may begin, between two of them
        self.outcome: Outcome | None = None
        self.why = ""
        self.conflicts = 0
        self.is_unsettled = False
        self.failed: Result | None = None  # the condition that did not hold
        # A get of one replica needs no locks.
        is_get = len(commands) == 1 and commands[0].operation is _GET
        self.reads_one = is_get and not profile.locks_gets
        self._ring = ring
        self._profile = profile
        self._epochs = epochs
        self._attempt = 0
        self._backoff_s = RETRY_BACKOFF_FIRST_S
        self._ordered = False
        self._coordinator: Coordinator | None = None

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers that take part, which must be connected BEFORE the first is asked."""
        if self.reads_one:
            return (self._ring.replicas(self.commands[0].key)[self._choice],)
        replicas = [self._ring.replicas(command.key) for command in self.commands]
        return tuple(dict.fromkeys(server for pair in replicas for server in pair))

    @property
    def _choice(self) -> int:
        return (self.sequence + self._attempt) % 2

    @property
    def is_in_flight(self) -> bool:
        """Whether an attempt has begun and has not ended."""
        return self._coordinator is not None and self.due_s is None and self.outcome is None

    def begin(self) -> Outgoing:
        """Start the next attempt."""
        choice = self._choice
        self._attempt += 1
        self.due_s = None
        name = Name(self.client, self.sequence, self._attempt)
        if self.reads_one:
            asked = plan_read(name, self.commands[0], self._ring, self._epochs, choice)
            self._coordinator = Coordinator(asked)
        else:
            profile = self._profile
            flags = profile.request_flags | (Flag.QUEUE if self._ordered else 0)
            asked = plan(name, self.commands, self._ring, self._epochs, flags)
            self._coordinator = Coordinator(
                asked,
                ordered=self._ordered,
                await_done=profile.awaits_done or len(self.commands) > 1,
            )
        return self._coordinator.start()

    def results(self) -> list[Result]:
        """Return what a command that is done found, in order of its keys."""
        if self.failed is not None:
            return [self.failed]
        return self._running.results()

    @property
    def _running(self) -> Coordinator:
        if self._coordinator is None:
            why = "no attempt has begun"
            raise LocalProtocolError(why)
        return self._coordinator

    def receive(
        self, server: str, message: Message, now_s: float, jitter: Callable[[float], float]
    ) -> Outgoing:
        """Take a server's answer, unless it is to an attempt before."""
        if message.name.attempt != self._attempt or self.due_s is not None:
            return []
        out = self._running.receive(server, message)
        if message.reason in _MOVED:
            self._epochs[message.range] = max(message.epoch, self._epochs.get(message.range, 0))
        self._judge(now_s, jitter)
        return out

    def lost(
        self, server: str, now_s: float, jitter: Callable[[float], float], *, reached: bool = True
    ) -> Outgoing:
        """Take note that the connection to a server broke, or could not be had."""
        if self.due_s is not None or self._coordinator is None:
            return []
        out = self._coordinator.lost(server, reached=reached)
        self._judge(now_s, jitter)
        return out

    def resend(self, server: str) -> Outgoing:
        """Return what to send again on a new connection."""
        if self.due_s is not None or self._coordinator is None:
            return []
        return self._coordinator.resend(server)

    @property
    def ranges(self) -> set[int]:
        """The ranges that the command touches."""
        return {self._ring.range_of(command.key) for command in self.commands}

    def refuse(self, reason: Reason) -> None:
        """End the command before it is sent."""
        self._end(Outcome.ABORTED, _FINAL[reason])

    def postpone(self, why: str, now_s: float, jitter: Callable[[float], float]) -> None:
        """Wait for a while before the next attempt, or end: the servers are not there."""
        self._attempt += 1  # a get asks the other replica next
        self._retry(why, now_s, jitter)

    def give_up(self) -> None:
        """End the command now, whatever its state."""
        if self.due_s is not None or self._coordinator is None:
            self._end(Outcome.ABORTED, self.why)
        elif self.outcome is None:
            self._coordinator.give_up()
            self._judge(self.deadline_s, lambda pause_s: pause_s)

    def _judge(self, now_s: float, jitter: Callable[[float], float]) -> None:
        """Take note of how the attempt ended, if it did."""
        coordinator = self._running
        if not coordinator.is_over or self.outcome is not None:
            return
        self.is_unsettled |= coordinator.is_unsettled and len(self.commands) > 1
        if coordinator.state is _COMMITTED:
            self.outcome = _DONE
        elif coordinator.state is State.UNKNOWN:
            self.is_unsettled = True
            self._end(Outcome.UNKNOWN, "no answer in time")
        else:
            self._judge_refusals(list(coordinator.refusals.values()), now_s, jitter)

    def _judge_refusals(
        self, refusals: list[Message], now_s: float, jitter: Callable[[float], float]
    ) -> None:
        for refusal in refusals:
            if refusal.reason is Reason.NOTHING:
                self.failed = Result(found=False, version=refusal.version)
                self.outcome = Outcome.DONE
                return
            if refusal.reason in _FINAL:
                self._end(Outcome.ABORTED, _FINAL[refusal.reason])
                return
        reasons = {refusal.reason for refusal in refusals}
        self.conflicts += not reasons.isdisjoint(_CONFLICTS)
        why = _TRANSIENT.get(max(reasons, default=_NONE), _TRANSIENT[_NONE])
        if Reason.BUSY in reasons and self._profile.queues and not self._ordered:
            self._ordered = True
            self._backoff_s = 0.0
        elif not reasons.isdisjoint(_ABSENT):
            self._backoff_s = RECONNECT_PAUSE_S
        self._retry(why, now_s, jitter)
        if not self._backoff_s:
            self._backoff_s = RETRY_BACKOFF_FIRST_S

    def _retry(self, why: str, now_s: float, jitter: Callable[[float], float]) -> None:
        self.why = why
        if now_s >= self.deadline_s:
            self._end(Outcome.ABORTED, why)
            return
        self.due_s = now_s + jitter(self._backoff_s)
        self._backoff_s = min(2 * self._backoff_s, RETRY_BACKOFF_MAX_S)

    def _end(self, outcome: Outcome, why: str) -> None:
        self.outcome, self.why = outcome, why
