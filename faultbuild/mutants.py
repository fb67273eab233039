"""Mistakes in the protocol, made on purpose: who searches for faults has to find each of them.

A mutant changes the real classes for as long as its context lasts. The explorer has to find those
of MUTANTS, and the simulator most of them, too; the ones of SIMULATED need a disk, or time to
forget, which only the simulator has. "Acknowledging a durable yes before fdatasync" is a mistake of
what is around the core: a `Variant` of the simulator's own, and OF_PROCESSES has it for real ones.
"""

import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple
from unittest import mock

from rdht import coordinator, transitions
from rdht.execution import Execution
from rdht.journal import Journal
from rdht.machine import Machine
from rdht.memory import Memory
from rdht.messages import Message, Operation, Outgoing, Reason, Status
from rdht.participant import Participant
from rdht.parts import Result
from rdht.rejoin import Rejoin
from rdht.replica import Copy, Mode, Replica
from rdht.resolution import Resolution, _numbers
from rdht.transaction import Transaction
from rdht.transitions import Action, Event, State
from rdht.write_ahead import WriteAhead, epoch_of

_LATE_S = 0.2


class Mutant(NamedTuple):
    """A mistake, and how it is made."""

    name: str
    description: str
    apply: Callable[[], AbstractContextManager[Any]]
    is_simulated: bool = True  # whether the simulator finds it in some hundred seeds, too


def _early_no() -> AbstractContextManager[Any]:
    state, event = coordinator.State, coordinator.Event
    change = {(state.VOTING, event.NO_SHARED): (state.ABORTED, coordinator.Action.SEND_ABORT)}
    return mock.patch.dict(coordinator.TRANSITIONS, change)


def _abort_all_at_once() -> AbstractContextManager[Any]:
    state, event = coordinator.State, coordinator.Event
    change = {(state.VOTING, event.NO_SHARED): (state.RELEASING, coordinator.Action.SEND_ABORT)}
    return mock.patch.dict(coordinator.TRANSITIONS, change)


def _no_roll_forward() -> AbstractContextManager[Any]:
    def freeze(self: Participant, number: int, now_s: float) -> Outgoing:
        self.replicas[number].mode = Mode.GIVING
        out: Outgoing = []
        for tx in [one for one in self.transactions.values() if one.touches(number)]:
            if tx.state is State.PREPARED:
                self._machine.step(tx, Event.LEARNED_ABORT, tx.request, now_s, out)
            elif tx.state is State.WAITING:
                tx.refuse(Reason.SYNCING, number=number)
                self._machine.step(tx, Event.TURN_REFUSED, tx.request, now_s, out)
        self._pass_on(now_s, out)
        return out

    return mock.patch.object(Participant, "freeze", freeze)


def _forgetful_veto() -> AbstractContextManager[Any]:
    change = {(State.IDLE, Event.ASKED): (State.IDLE, Action.SAY_NO)}
    return mock.patch.dict(transitions.TRANSITIONS, change)


def _read_through_locks() -> AbstractContextManager[Any]:
    original = Participant._read

    def read(self: Participant, message: Message, out: Outgoing) -> None:
        with mock.patch.object(self.locks, "holders", {}):
            original(self, message, out)

    return mock.patch.object(Participant, "_read", read)


def _unlock_before_applying() -> AbstractContextManager[Any]:
    """Serve the lock's queue between the two: `handle` is one step, nothing else comes between."""
    original = Participant._proceed

    def proceed(self: Participant, message: Message, now_s: float, out: Outgoing) -> None:
        tx = self.transactions.get(message.name)
        staged = []
        if tx is not None and tx.state is State.PREPARED:
            staged, tx.staged = tx.staged, []
        original(self, message, now_s, out)
        self._pass_on(now_s, out)
        for replica, key, entry in staged:
            replica.table[key] = entry

    return mock.patch.object(Participant, "_proceed", proceed)


def _any_epoch() -> AbstractContextManager[Any]:
    original = Replica.why_not

    def why_not(self: Replica, epoch: int, *, reads: bool = False) -> Reason:
        reason = original(self, epoch, reads=reads)
        return Reason.NONE if reason is Reason.STALE_EPOCH else reason

    return mock.patch.object(Replica, "why_not", why_not)


def _missing_unlock() -> AbstractContextManager[Any]:
    def undo(_self: Machine, tx: Transaction) -> None:
        tx.refuse(Reason.VETOED)

    return mock.patch.object(Machine, "_undo", undo)


def _broken_pledge() -> AbstractContextManager[Any]:
    original = Participant._abort

    def abort(self: Participant, message: Message, now_s: float, out: Outgoing) -> None:
        original(self, message._replace(reason=Reason.VETOED), now_s, out)

    return mock.patch.object(Participant, "_abort", abort)


def _forgotten_many() -> AbstractContextManager[Any]:
    original = Machine._finish

    def finish(self: Machine, tx: Transaction, record: Any) -> None:
        if tx.request.operation is Operation.MANY and len(tx.ranges) == 1:
            tx.state = State.IDLE
        original(self, tx, record)

    return mock.patch.object(Machine, "_finish", finish)


def _lost_memories() -> AbstractContextManager[Any]:
    def commits(_self: Memory, _number: int | None = None) -> list[Message]:
        return []

    return mock.patch.object(Memory, "commits", commits)


def _aborts_answered_at_once() -> AbstractContextManager[Any]:
    def cannot_say(_self: Resolution, _tx: Transaction) -> bool:
        return False

    return mock.patch.object(Resolution, "cannot_say", cannot_say)


def _vote_repeated_afresh() -> AbstractContextManager[Any]:
    """Take a repeated request for a new one, unless its yes still holds the lock."""
    original = Participant._request

    def request(self: Participant, message: Message, now_s: float, out: Outgoing) -> None:
        tx = self.transactions.get(message.name)
        if tx is not None and tx.state is State.ABORTED:
            self.memory._drop(message.name.client, [message.name])
        original(self, message, now_s, out)

    return mock.patch.object(Participant, "_request", request)


def _no_versions() -> AbstractContextManager[Any]:
    original = Execution.results

    def results(self: Execution) -> list[Result]:
        return [one._replace(version=0) for one in original(self)]

    return mock.patch.object(Execution, "results", results)


def _half_told() -> AbstractContextManager[Any]:
    original = Execution.results

    def results(self: Execution) -> list[Result]:
        return original(self)[:1]

    return mock.patch.object(Execution, "results", results)


def _begun_anew() -> AbstractContextManager[Any]:
    original = Rejoin._found

    def found(self: Rejoin, replica: Replica) -> bool:
        with mock.patch.object(self, "_known", set()):
            return original(self, replica)

    return mock.patch.object(Rejoin, "_found", found)


def _begun_in_secret() -> AbstractContextManager[Any]:
    original = Rejoin._found

    def found(self: Rejoin, replica: Replica) -> bool:
        original(self, replica)
        if replica.number in self._announced:
            replica.intact = True
            replica.founded = self._incarnation
        return replica.intact

    return mock.patch.object(Rejoin, "_found", found)


def _epoch_given_twice() -> AbstractContextManager[Any]:
    original = Rejoin._let_join

    def let_join(self: Rejoin, replica: Replica, message: Message, now_s: float) -> Outgoing:
        giving = self._giving.get(replica.number)
        if giving is not None and giving.receiver != message.name.client:
            del self._giving[replica.number]
        return original(self, replica, message, now_s)

    return mock.patch.object(Rejoin, "_let_join", let_join)


def _one_no_is_enough() -> AbstractContextManager[Any]:
    original = Resolution._votes

    def votes(self: Resolution, tx: Transaction, number: int) -> tuple[bool, bool]:
        yes, no = original(self, tx, number)
        members = self._layout[number]
        said = [tx.answers[server] for server in members if server in tx.answers]
        packed = struct.pack("!H", number)
        return yes, no or any(
            one.status is Status.NO
            and one.reason is not Reason.SYNCING
            and packed not in _numbers(one.value)
            for one in said
        )

    return mock.patch.object(Resolution, "_votes", votes)


def _any_resume() -> AbstractContextManager[Any]:
    original = Participant.connect

    def connect(self: Participant, client: int, now_s: float, *, resume: bool) -> Outgoing | None:
        return original(self, client, now_s, resume=resume and client in self.memory.clients)

    return mock.patch.object(Participant, "connect", connect)


def _epoch_kept() -> AbstractContextManager[Any]:
    original = Participant.freeze

    def freeze(self: Participant, number: int, now_s: float) -> Outgoing:
        self.replicas[number].epoch -= self.write_ahead.is_durable
        return original(self, number, now_s)

    return mock.patch.object(Participant, "freeze", freeze)


def _whole_request() -> AbstractContextManager[Any]:
    original = Transaction.drop

    def drop(self: Transaction, number: int) -> list[Message]:
        request = self.request
        dropped = original(self, number)
        self.request = request
        return dropped

    return mock.patch.object(Transaction, "drop", drop)


def _recovered_unpledged() -> AbstractContextManager[Any]:
    original = Participant._replay

    def replay(self: Participant, message: Message, now_s: float) -> None:
        original(self, message, now_s)
        if message.name in self.transactions:
            self.transactions[message.name].pledged = False

    return mock.patch.object(Participant, "_replay", replay)


def _yes_told_early() -> AbstractContextManager[Any]:
    original = Participant._asked

    def asked(
        self: Participant, server: str, message: Message, now_s: float, out: Outgoing
    ) -> None:
        must_sync = self.write_ahead.must_sync
        original(self, server, message, now_s, out)
        self.write_ahead.must_sync = must_sync

    return mock.patch.object(Participant, "_asked", asked)


@contextmanager
def _abort_unsynced() -> Iterator[None]:
    original = Machine._undo

    def undo(self: Machine, tx: Transaction) -> None:
        must_sync = self._write_ahead.must_sync
        original(self, tx)
        self._write_ahead.must_sync = must_sync

    with (
        mock.patch.object(Machine, "_undo", undo),
        mock.patch.object(WriteAhead, "hold"),  # so it is when said again
    ):
        yield


def _copy_unwritten() -> AbstractContextManager[Any]:
    original = Participant.install

    def install(self: Participant, joined: Message, copy: Copy, now_s: float) -> None:
        is_durable, self.write_ahead.is_durable = self.write_ahead.is_durable, False
        original(self, joined, copy, now_s)
        self.write_ahead.is_durable = is_durable
        if is_durable:
            self.write_ahead.record(epoch_of(self.replicas[joined.range]), sync=True)

    return mock.patch.object(Participant, "install", install)


@contextmanager
def _acknowledged_early() -> Iterator[None]:
    """Let all leave at once, and the disk follow when it has time."""
    original = Journal.take

    def take(self: Journal[Any], out: list[tuple[Any, Message]]) -> list[tuple[Any, Message]]:
        sent = original(self, out)
        early, self._held = self._held, []
        return [*sent, *early]

    def run(self: Journal[Any]) -> None:
        while not self._stopping:
            time.sleep(_LATE_S)
            with self._lock:
                appended, self._fresh = self._appended, set()
            self._store.sync()
            with self._lock:
                self._on_disk = appended

    with mock.patch.object(Journal, "take", take), mock.patch.object(Journal, "run", run):
        yield


def _registry(mutants: Iterable[Mutant]) -> dict[str, Mutant]:
    return {mutant.name: mutant for mutant in mutants}


MUTANTS = _registry(
    [
        Mutant("early no", "a no is reported before the abort is acknowledged", _early_no),
        Mutant("no roll forward", "the survivor drops what is prepared", _no_roll_forward),
        Mutant("forgetful veto", "a no to another participant is not remembered", _forgetful_veto),
        Mutant("fickle vote", "a request after a veto is voted on afresh", _vote_repeated_afresh),
        Mutant("read through locks", "a locked replica tells its old value", _read_through_locks),
        Mutant("unlock first", "the lock is released before applying", _unlock_before_applying),
        Mutant("any epoch", "votes of two epochs are counted together", _any_epoch),
        Mutant("missing unlock", "an abort leaves the lock, as in the original", _missing_unlock),
        Mutant(
            "abort all at once", "all yes votes are undone at the same time", _abort_all_at_once
        ),
        Mutant("broken pledge", "a yes that another counts on is undone", _broken_pledge),
        Mutant(
            "forgotten many", "a commit of several keys of a range is forgotten", _forgotten_many
        ),
        Mutant("lost memories", "a copy comes without what was committed", _lost_memories),
        Mutant("begun anew", "a range that was served is begun anew", _begun_anew),
        Mutant(
            "begun in secret",
            "a range is served BEFORE all have heard",
            _begun_in_secret,
            is_simulated=False,
        ),
        Mutant(
            "epoch given twice",
            "two receivers of a copy get the same epoch",
            _epoch_given_twice,
            is_simulated=False,
        ),
        Mutant(
            "one no",
            "a yes is undone for one no of another range",
            _one_no_is_enough,
            is_simulated=False,
        ),
        Mutant("no versions", "every version that a caller is told is 0", _no_versions),
        Mutant("half told", "of several results a caller is told the first", _half_told),
        Mutant(
            "hasty acknowledgement",
            "a server that is coming back acknowledges an abort of what it may have committed",
            _aborts_answered_at_once,
        ),
    ]
)

SIMULATED = _registry(
    [
        Mutant("any resume", "a client that was forgotten may always resume", _any_resume),
        Mutant("epoch kept", "who decides alone for a range has no newer epoch", _epoch_kept),
        Mutant("whole request", "what a copy has decided is prepared again", _whole_request),
        Mutant("recovered unpledged", "a recovered yes is not pledged", _recovered_unpledged),
        Mutant("early yes", "a peer is told a yes BEFORE it is on disk", _yes_told_early),
        Mutant("unsynced abort", "an ABORT is heard of BEFORE it is on disk", _abort_unsynced),
        Mutant("unwritten copy", "the pages of a copy are not in the journal", _copy_unwritten),
    ]
)

OF_PROCESSES = _registry(
    [
        Mutant(
            "early acknowledgement",
            "a yes is sent BEFORE it is on disk",
            _acknowledged_early,
            is_simulated=False,
        ),
    ]
)

ALL = MUTANTS | SIMULATED | OF_PROCESSES
