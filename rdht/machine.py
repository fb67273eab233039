"""The state machine of a participant's transactions: what an event does to one of them.

TRANSITIONS says which action an event leads to; here is what each action does to locks, table,
memory and disk, and what it answers.
"""

from collections.abc import Callable
from typing import ClassVar

from rdht.errors import RemoteProtocolError
from rdht.limits import PREPARED_TIMEOUT_S
from rdht.locks import Locks
from rdht.memory import Memory
from rdht.messages import Flag, Message, Name, Outgoing, Reason, Status
from rdht.transaction import Transaction
from rdht.transitions import TRANSITIONS, Action, Event, State
from rdht.write_ahead import WriteAhead

_IDLE, _SILENT = State.IDLE, int(Flag.SILENT)
_DONE, _PROCEED = Status.DONE, Status.PROCEED


class Machine:
    """All transactions of one participant."""

    def __init__(
        self,
        transactions: dict[Name, Transaction],
        locks: Locks,
        memory: Memory,
        write_ahead: WriteAhead,
    ) -> None:
        """Keep in `transactions` those that are not IDLE."""
        self._transactions = transactions
        self._locks = locks
        self._memory = memory
        self._write_ahead = write_ahead

    def step(
        self, tx: Transaction, event: Event, message: Message, now_s: float, out: Outgoing
    ) -> None:
        """Let an event happen, because of the message, and add to `out` what is to be sent.

        Raises RemoteProtocolError for one that TRANSITIONS does not have; nothing is changed then.
        """
        transition = TRANSITIONS.get((tx.state, event))
        if transition is None:
            why = f"a transaction that is {tx.state} has no event: {event}"
            raise RemoteProtocolError(why)
        tx.state, action = transition
        self.ACTIONS[action](self, tx, message, now_s, out)

    def _do_nothing(self, *_arguments: object) -> None:
        """Leave all as it is."""

    # Votes.

    def _prepare(self, tx: Transaction, _message: Message, now_s: float, out: Outgoing) -> None:
        self._locks.take(tx)
        self._transactions[tx.name] = tx
        tx.deadline_s = now_s + PREPARED_TIMEOUT_S
        if self._write_ahead.is_durable:
            self._write_ahead.record(tx.request, sync=True)  # BEFORE the yes leaves
        out.append((tx.name.client, tx.yes()))

    def _enqueue(self, tx: Transaction, _message: Message, _now_s: float, _out: Outgoing) -> None:
        self._transactions[tx.name] = tx
        self._locks.acquire(tx)

    def _refuse(self, tx: Transaction, _message: Message, _now_s: float, out: Outgoing) -> None:
        out.append((tx.name.client, tx.no()))

    def _repeat_refusal(
        self, tx: Transaction, message: Message, now_s: float, out: Outgoing
    ) -> None:
        self._write_ahead.hold()  # what was undone for it may not have reached the disk yet
        self._refuse(tx, message, now_s, out)

    def _repeat_vote(
        self, tx: Transaction, _message: Message, _now_s: float, out: Outgoing
    ) -> None:
        self._write_ahead.hold()  # the first time may not have reached the disk yet
        out.append((tx.name.client, tx.yes()))

    # Decisions.

    def _commit(self, tx: Transaction, message: Message, _now_s: float, out: Outgoing) -> None:
        self._finish(tx, _PROCEED)
        if not message.flags & _SILENT:
            out.append((tx.name.client, tx.done(message)))

    def _apply(self, tx: Transaction, _message: Message, _now_s: float, _out: Outgoing) -> None:
        self._finish(tx, _DONE)

    def _finish(self, tx: Transaction, record: Status) -> None:
        for replica, key, entry in tx.staged:
            replica.table[key] = entry  # BEFORE the locks are released
        self._locks.release(tx)
        if tx.state is _IDLE:
            del self._transactions[tx.name]
        else:
            self._memory.remember(tx)
        if self._write_ahead.is_durable:
            self._write_ahead.record(Message(record, tx.name), sync=False)

    def _repeat_result(
        self, tx: Transaction, message: Message, _now_s: float, out: Outgoing
    ) -> None:
        self._write_ahead.hold()  # what it was learned from may not be on disk yet
        if not message.flags & _SILENT:
            out.append((tx.name.client, tx.done(message)))

    def _release(self, tx: Transaction, message: Message, now_s: float, out: Outgoing) -> None:
        self._undo(tx)
        del self._transactions[tx.name]
        self._acknowledge_abort(tx, message, now_s, out)

    def _roll_back(self, tx: Transaction, _message: Message, _now_s: float, _out: Outgoing) -> None:
        self._undo(tx)
        self._memory.remember(tx)

    def _undo(self, tx: Transaction) -> None:
        self._locks.release(tx)
        tx.refuse(Reason.VETOED)
        if self._write_ahead.is_durable:  # BEFORE anybody hears of it
            self._write_ahead.record(Message(Status.ABORT, tx.name), sync=True)

    def _acknowledge_abort(
        self, tx: Transaction, message: Message, _now_s: float, out: Outgoing
    ) -> None:
        self._write_ahead.hold()  # it may have been undone just before, by a question or an abort
        out.append((tx.name.client, Message(Status.ABORTED, tx.name, message.operation)))

    # Questions of other participants; `Resolution.answer` has what they are told.

    def _veto(self, tx: Transaction, _message: Message, _now_s: float, _out: Outgoing) -> None:
        tx.refuse(Reason.VETOED)
        self._transactions[tx.name] = tx
        self._memory.remember(tx)

    def _say_yes(self, tx: Transaction, *_arguments: object) -> None:
        tx.pledged = True

    # Waiting in vain.

    def _leave(self, tx: Transaction, _message: Message, _now_s: float, _out: Outgoing) -> None:
        self._locks.leave(tx)
        del self._transactions[tx.name]

    def _leave_and_refuse(
        self, tx: Transaction, message: Message, now_s: float, out: Outgoing
    ) -> None:
        self._leave(tx, message, now_s, out)
        self._refuse(tx, message, now_s, out)

    def _leave_and_acknowledge(
        self, tx: Transaction, message: Message, now_s: float, out: Outgoing
    ) -> None:
        self._leave(tx, message, now_s, out)
        self._acknowledge_abort(tx, message, now_s, out)

    def _leave_and_veto(
        self, tx: Transaction, message: Message, now_s: float, out: Outgoing
    ) -> None:
        self._leave(tx, message, now_s, out)
        self._veto(tx, message, now_s, out)
        self._refuse(tx, message, now_s, out)

    ACTIONS: ClassVar[
        dict[Action, Callable[["Machine", Transaction, Message, float, Outgoing], None]]
    ] = {
        Action.PREPARE: _prepare,
        Action.ENQUEUE: _enqueue,
        Action.REFUSE: _refuse,
        Action.REPEAT_VOTE: _repeat_vote,
        Action.REPEAT_RESULT: _repeat_result,
        Action.REPEAT_REFUSAL: _repeat_refusal,
        Action.NOTHING: _do_nothing,
        Action.COMMIT: _commit,
        Action.APPLY: _apply,
        Action.RELEASE: _release,
        Action.ROLL_BACK: _roll_back,
        Action.ACKNOWLEDGE_ABORT: _acknowledge_abort,
        Action.VETO: _veto,
        Action.LEAVE_AND_VETO: _leave_and_veto,
        Action.LEAVE: _leave,
        Action.LEAVE_AND_REFUSE: _leave_and_refuse,
        Action.LEAVE_AND_ACKNOWLEDGE: _leave_and_acknowledge,
        Action.SAY_YES: _say_yes,
        Action.SAY_COMMITTED: _do_nothing,
        Action.SAY_NO: _do_nothing,
    }
