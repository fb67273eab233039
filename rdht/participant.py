"""A server's half of two-phase commit: votes, locks, staged effects.

Sans-IO: each method takes a message or a fact, and the time, and returns what to send to whom. It
owns no socket, thread, clock or randomness, and is not thread-safe: its owner calls it under one
lock. A client is named by its incarnation (int), a server by its name (str).

What makes it safe:
- A transaction commits if and only if every participant has recorded yes for it.
- A yes is undone only by a no of the range's other replica, or once all replicas of another
  range have said no; so no crash of one server can take back the reason.
- Who says no to another participant remembers it, and votes no for ever.
- A range's epoch rises when a replica comes back; requests of an older epoch are refused.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum

from rdht import parts
from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.limits import (
    MAX_BODY_BYTES,
    MAX_QUEUE,
    MAX_VALUE_BYTES,
    MAX_WINDOW,
    PREPARED_TIMEOUT_S,
    RESOLVE_RETRY_S,
    RESUME_TIMEOUT_S,
)
from rdht.messages import Flag, Message, Name, Operation, Reason, Status
from rdht.parts import Result
from rdht.replica import ABSENT, Copy, Entry, Mode, Replica
from rdht.ring import Replicas


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

# Looking a member up in its enum costs 0.2 us in Python 3.11, a name of the module a tenth.
_IDLE, _PREPARED = State.IDLE, State.PREPARED
_NO_REASON, _NOTHING, _BUSY = Reason.NONE, Reason.NOTHING, Reason.BUSY
_YES, _DONE, _DONE_NOTHING = Status.YES, Status.DONE, Status.DONE_NOTHING
_NONE, _MANY, _GET, _DELETE = (
    Operation.NONE,
    Operation.MANY,
    Operation.GET,
    Operation.DELETE,
)
_GRANTED, _PROCEED, _SERVING = Event.REQUEST_GRANTED, Event.PROCEED, Mode.SERVING
_LATE, _SILENT = int(Flag.LATE), int(Flag.SILENT)
_message = Message._make

Destination = int | str
Outgoing = list[tuple[Destination, Message]]
_RANGE_NUMBER = struct.Struct("!H")


class Transaction:
    """What a participant knows of one attempt at one command."""

    __slots__ = (
        "answers",
        "deadline_s",
        "held",
        "name",
        "parts",
        "pledged",
        "ranges",
        "refusal",
        "request",
        "result",
        "staged",
        "state",
    )

    def __init__(self, message: Message) -> None:
        """Take a request, or another message that has its name and ranges."""
        self.name = message.name
        self.request = message
        self.ranges: tuple[tuple[int, int], ...]
        self.parts: tuple[Message, ...]
        if message.operation is _MANY:
            self.ranges, self.parts = parts.unpack(message.value, message.name)
        else:
            self.ranges = ((message.range, message.epoch),)
            self.parts = (message,)
        self.state = _IDLE
        self.held = 0  # locks, in the order of `parts`
        self.staged: list[tuple[Replica, bytes, Entry]] = []
        self.result: Message | None = None  # the yes vote
        self.refusal = Message(Status.NO, message.name, message.operation)
        self.deadline_s = 0.0
        self.pledged = False  # whether another participant may have been told the yes
        self.answers: dict[str, Message] = {}  # what the other participants said

    def touches(self, number: int) -> bool:
        """Return whether the transaction concerns the range."""
        return any(number == range_ for range_, _ in self.ranges)


class Participant:
    """One server's part in all transactions on its keys."""

    def __init__(self, me: str, layout: tuple[Replicas, ...], *, durable: bool = False) -> None:
        """Be the server `me`; `layout` has the two replicas of each range.

        If `durable`, whatever must outlive a crash is put on `journal`, and `must_sync` is set
        where it must be on disk BEFORE the messages that came with it are sent; `replay` reads it.
        """
        self.me = me
        self.layout = layout
        self.replicas = {
            number: Replica(number, pair.backup if pair.primary == me else pair.primary)
            for number, pair in enumerate(layout)
            if me in pair
        }
        self.locks: dict[bytes, Transaction] = {}
        self.transactions: dict[Name, Transaction] = {}
        self.clients: dict[int, float | None] = {}  # and since when each is gone
        self.stopping = False
        self.unsafe = False
        self.journal: list[Message] = []
        self.must_sync = False
        self._durable = durable
        self._queues: dict[bytes, deque[Transaction | Message]] = {}
        self._freed: list[bytes] = []  # keys that were unlocked and have a queue
        self._remembered: dict[int, set[Name]] = {}  # by client: transactions that are over
        self._strangers: dict[int, float] = {}  # clients remembered for others only, since when
        self._unanswered: list[Message] = []  # aborts to answer once this server has come back
        self._handlers: dict[Status, Callable[[Message, float, Outgoing], None]] = {
            Status.REQUEST: self._request,
            Status.PROCEED: self._proceed,
            Status.ABORT: self._abort,
            Status.READ: self._read,
        }
        self._actions: dict[Action, Callable[[Transaction, Message, float, Outgoing], None]] = {
            Action.PREPARE: self._prepare,
            Action.ENQUEUE: self._enqueue,
            Action.REFUSE: self._refuse,
            Action.REPEAT_VOTE: self._repeat_vote,
            Action.REPEAT_RESULT: self._repeat_result,
            Action.REPEAT_REFUSAL: self._refuse,
            Action.NOTHING: self._do_nothing,
            Action.COMMIT: self._commit,
            Action.APPLY: self._apply,
            Action.RELEASE: self._release,
            Action.ROLL_BACK: self._roll_back,
            Action.ACKNOWLEDGE_ABORT: self._acknowledge_abort,
            Action.VETO: self._veto,
            Action.LEAVE_AND_VETO: self._leave_and_veto,
            Action.LEAVE: self._leave,
            Action.LEAVE_AND_REFUSE: self._leave_and_refuse,
            Action.LEAVE_AND_ACKNOWLEDGE: self._leave_and_acknowledge,
            Action.SAY_YES: self._say_yes,
            Action.SAY_COMMITTED: self._say_committed,
            Action.SAY_NO: self._say_no,
        }

    # What comes in.

    def handle(self, message: Message, now_s: float) -> Outgoing:
        """Return what to send because of a client's message.

        Raises RemoteProtocolError for a message that a participant does not take; nothing is
        changed then.
        """
        handler = self._handlers.get(message.status)
        if handler is None:
            why = f"a participant takes no {message.status.name} from a client"
            raise RemoteProtocolError(why)
        out: Outgoing = []
        handler(message, now_s, out)
        if self._freed:
            self._pass_on(now_s, out)
        return out

    def handle_peer(self, server: str, message: Message, now_s: float) -> Outgoing:
        """Return what to send because of another participant's question, news or answer."""
        out: Outgoing = []
        if message.status is Status.RESOLVE:
            self._asked(server, message, now_s, out)
        elif message.status is Status.PROCEED:
            self._proceed(message, now_s, out)
            out = [(server if to == message.name.client else to, answer) for to, answer in out]
        elif message.status in {Status.YES, Status.NO, Status.DONE, Status.DONE_NOTHING}:
            self._answered(server, message, now_s, out)
        else:
            why = f"a participant takes no {message.status.name} from a server"
            raise RemoteProtocolError(why)
        self._pass_on(now_s, out)
        return out

    def connect(self, client: int, now_s: float, *, resume: bool) -> Outgoing | None:
        """Take note of a client's connection; return None if it resumes what is forgotten.

        An older connection that is still open ends with it.
        """
        if resume and client not in self.clients:
            return None
        is_connected = self.clients.get(client, now_s) is None
        out = self.disconnect(client, now_s) if is_connected else []
        self.clients[client] = None
        return out

    def disconnect(self, client: int, now_s: float) -> Outgoing:
        """Settle what a client left behind whose connection ended."""
        self.clients[client] = now_s
        self._unanswered = [one for one in self._unanswered if one.name.client != client]
        for queue in self._queues.values():
            for waiter in [one for one in queue if isinstance(one, Message)]:
                if waiter.name.client == client:
                    queue.remove(waiter)
        out: Outgoing = []
        for tx in [tx for name, tx in self.transactions.items() if name.client == client]:
            if tx.state is State.WAITING:
                self._step(tx, Event.LEFT, tx.request, now_s, out)
            elif tx.state is State.PREPARED:
                self._settle(tx, now_s, out)
        self._pass_on(now_s, out)
        return out

    def tick(self, now_s: float) -> Outgoing:
        """Ask the others about what is prepared for too long; forget clients that stay away.

        Answer aborts of transactions about which nothing could be said until now.
        """
        out: Outgoing = []
        aborts, self._unanswered = self._unanswered, []
        for message in aborts:
            if self._is_pledged(message):
                self._unanswered.append(message)
            else:
                self._abort(message, now_s, out)
        for tx in list(self.transactions.values()):
            if tx.deadline_s > now_s:
                continue
            if tx.state is State.PREPARED:
                self._settle(tx, now_s, out)
            elif tx.state is State.COMMITTED and self.clients.get(tx.name.client, 0.0) is not None:
                self._spread(tx, now_s, out)
        strangers = self._remembered.keys() - self.clients.keys()
        self._strangers = {one: self._strangers.get(one, now_s) for one in strangers}
        for client, gone_s in [*self.clients.items(), *self._strangers.items()]:
            if gone_s is not None and gone_s + RESUME_TIMEOUT_S <= now_s:
                self._expire(client)
        self._pass_on(now_s, out)
        return out

    # Requests.

    def _request(self, message: Message, now_s: float, out: Outgoing) -> None:
        name = message.name
        tx = self.transactions.get(name)
        if tx is not None:
            self._step(tx, Event.REQUEST_AGAIN, message, now_s, out)
            return
        tx = Transaction(message)
        self._check(tx)
        if self._remembered and name.client in self._remembered:
            self._forget(name.client, name.sequence)
        reason, number, epoch = self._why_not(tx)
        if reason is _NO_REASON:
            event = _GRANTED if self._stage(tx) else Event.REQUEST_REFUSED
        elif reason is _BUSY and message.flags & Flag.QUEUE:
            event = Event.REQUEST_QUEUED
        else:
            tx.refusal = tx.refusal._replace(reason=reason, range=number, epoch=epoch)
            event = Event.REQUEST_REFUSED
        self._step(tx, event, message, now_s, out)

    def _check(self, tx: Transaction) -> None:
        """Raise RemoteProtocolError for a request that no client sends."""
        request = tx.request
        if request.operation is _MANY:
            self._check_ranges(tx)
        elif len(request.value) > MAX_VALUE_BYTES:
            why = f"a value of {len(request.value)} bytes, at most {MAX_VALUE_BYTES} are allowed"
            raise RemoteProtocolError(why)
        if request.operation is _NONE or not tx.parts:
            why = "a request asks for nothing"
            raise RemoteProtocolError(why)

    def _check_ranges(self, tx: Transaction) -> None:
        highest = max((number for number, _ in tx.ranges), default=0)
        if highest >= len(self.layout):
            why = f"there is no range {highest}, only {len(self.layout)} of them"
            raise RemoteProtocolError(why)

    def _why_not(self, tx: Transaction) -> tuple[Reason, int, int]:
        """Return what keeps the request from being granted now, in which range and epoch."""
        if self.stopping:
            return Reason.STOPPING, 0, 0
        if self.unsafe:
            return Reason.UNSAFE, 0, 0
        for part in tx.parts:
            reason, epoch = self._why_not_served(part)
            if reason is not _NO_REASON:
                return reason, part.range, epoch
        for part in tx.parts:
            if part.key in self.locks:
                queue = self._queues.get(part.key)
                full = queue is not None and len(queue) >= MAX_QUEUE
                return (Reason.OVERLOADED if full else _BUSY), 0, 0
        return _NO_REASON, 0, 0

    def _why_not_served(self, part: Message) -> tuple[Reason, int]:
        """Return why the part's range cannot be used at its epoch, and the epoch that it has."""
        replica = self.replicas.get(part.range)
        if replica is None:
            return Reason.ELSEWHERE, 0
        if replica.mode is _SERVING:
            stale = part.epoch != replica.epoch
            return (Reason.STALE_EPOCH if stale else _NO_REASON), replica.epoch
        return (Reason.LOST if replica.mode is Mode.LOST else Reason.SYNCING), replica.epoch

    def _stage(self, tx: Transaction) -> bool:
        """Work out effect and result; return False if a condition fails and the vote is no."""
        tx.staged = []
        late = tx.request.flags & _LATE
        results = []
        for part in tx.parts:
            replica = self.replicas[part.range]
            operation = part.operation
            current = replica.table.get(part.key, ABSENT)
            found, writes = _EFFECTS[operation](part, current)
            if found and writes:
                value = None if operation is _DELETE else part.value
                tx.staged.append((replica, part.key, Entry(value, current.version + 1)))
            elif writes and not late:
                tx.refusal = tx.refusal._replace(reason=_NOTHING, version=current.version)
                return False
            read = b"" if writes or current.value is None else current.value
            results.append((found, current.version, read))
        if tx.request.operation is _MANY:
            packed = parts.pack_results(Result(*result) for result in results)
            if len(packed) > MAX_BODY_BYTES:
                tx.refusal = tx.refusal._replace(reason=Reason.TOO_LONG)
                return False
            found, version, read = True, 0, packed
        else:
            ((found, version, read),) = results
        reason = _NO_REASON if found else _NOTHING
        request = tx.request
        tx.result = _message(
            (
                _YES,
                tx.name,
                request.operation,
                reason,
                0,
                request.range,
                request.epoch,
                version,
                b"",
                read,
            )
        )
        return True

    def _prepare(self, tx: Transaction, _message: Message, now_s: float, out: Outgoing) -> None:
        for part in tx.parts:
            self.locks[part.key] = tx
        tx.held = len(tx.parts)
        self.transactions[tx.name] = tx
        tx.deadline_s = now_s + PREPARED_TIMEOUT_S
        if self._durable:
            self._record(tx.request, sync=True)  # BEFORE the yes leaves
        out.append((tx.name.client, _known(tx.result)))

    def _enqueue(self, tx: Transaction, _message: Message, _now_s: float, _out: Outgoing) -> None:
        self.transactions[tx.name] = tx
        self._acquire(tx)

    def _acquire(self, tx: Transaction) -> bool:
        """Take the locks that are free in order of the keys; join the queue of the first other."""
        for part in tx.parts[tx.held :]:
            if part.key in self.locks:
                self._queues.setdefault(part.key, deque()).append(tx)
                return False
            self.locks[part.key] = tx
            tx.held += 1
        return True

    def _pass_on(self, now_s: float, out: Outgoing) -> None:
        """Hand each freed lock to the next in its queue."""
        while self._freed:
            key = self._freed.pop()
            queue = self._queues.get(key)
            while queue and key not in self.locks:
                waiter = queue.popleft()
                if isinstance(waiter, Message):
                    self._read(waiter, now_s, out)
                    continue
                self.locks[key] = waiter
                waiter.held += 1
                if self._acquire(waiter):
                    event = Event.TURN_GRANTED if self._stage(waiter) else Event.TURN_REFUSED
                    self._step(waiter, event, waiter.request, now_s, out)
            if queue is not None and not queue:
                del self._queues[key]

    def _refuse(self, tx: Transaction, _message: Message, _now_s: float, out: Outgoing) -> None:
        out.append((tx.name.client, tx.refusal))

    def _repeat_vote(
        self, tx: Transaction, _message: Message, _now_s: float, out: Outgoing
    ) -> None:
        self.must_sync = self._durable  # the first time may not have reached the disk yet
        out.append((tx.name.client, _known(tx.result)))

    def _do_nothing(self, *_arguments: object) -> None:
        """Leave all as it is."""

    # Reads of one replica.

    def _read(self, message: Message, _now_s: float, out: Outgoing) -> None:
        reason, epoch = self._why_not_served(message)
        if reason is Reason.SYNCING and self.replicas[message.range].mode is Mode.GIVING:
            reason = _NO_REASON if message.epoch == epoch else Reason.STALE_EPOCH
        key = message.key
        if reason is _NO_REASON and key in self.locks:
            # The holder may be committed already: what is there now may be the past.
            queue = self._queues.setdefault(key, deque())
            if len(queue) < MAX_QUEUE:
                queue.append(message)
                return
            reason = Reason.OVERLOADED
        if reason is not _NO_REASON:
            no = Message(Status.NO, message.name, _GET, reason, 0, message.range, epoch)
            out.append((message.name.client, no))
            return
        value, version = self.replicas[message.range].table.get(key, ABSENT)
        status = _DONE_NOTHING if value is None else _DONE
        answer = (status, message.name, _GET, _NO_REASON, 0, 0, 0, version, b"", value or b"")
        out.append((message.name.client, _message(answer)))

    # Decisions.

    def _proceed(self, message: Message, now_s: float, out: Outgoing) -> None:
        tx = self.transactions.get(message.name)
        if tx is None:
            tx = Transaction(message)
        event = Event.PROCEED_SPANNING if tx.request.operation is _MANY else _PROCEED
        self._step(tx, event, message, now_s, out)

    def _abort(self, message: Message, now_s: float, out: Outgoing) -> None:
        tx = self.transactions.get(message.name)
        if tx is None:
            tx = Transaction(message)
            if self._cannot_say(tx):
                self._unanswered.append(message)
                return
        elif self._is_pledged(message):
            self._unanswered.append(message)  # others may have committed because of the pledge
            self._settle(tx, now_s, out)
            return
        self._step(tx, Event.ABORT, message, now_s, out)

    def _is_pledged(self, abort: Message) -> bool:
        """Return whether another participant may count on the yes that is to be undone."""
        tx = self.transactions.get(abort.name)
        is_pledged = tx is not None and tx.state is _PREPARED and tx.pledged
        return is_pledged and abort.reason is not Reason.VETOED

    def _cannot_say(self, tx: Transaction) -> bool:
        """Return whether this server may have known the transaction before it came back."""
        return bool(self._joining(tx))

    def _can_say_some(self, tx: Transaction) -> bool:
        """Return whether it may have known nothing of it in one of its ranges at least."""
        mine = {number for number, _ in tx.ranges if number in self.replicas}
        return not mine or mine > self._joining(tx)

    def _joining(self, tx: Transaction) -> set[int]:
        """Return the transaction's ranges in which this server has not come back yet."""
        return {
            number
            for number, _ in tx.ranges
            if number in self.replicas and self.replicas[number].mode is Mode.JOINING
        }

    def _commit(self, tx: Transaction, message: Message, _now_s: float, out: Outgoing) -> None:
        self._finish(tx, Status.PROCEED)
        if not message.flags & _SILENT:
            out.append((tx.name.client, _done(tx, message)))

    def _apply(self, tx: Transaction, _message: Message, _now_s: float, _out: Outgoing) -> None:
        self._finish(tx, _DONE)

    def _finish(self, tx: Transaction, record: Status) -> None:
        for replica, key, entry in tx.staged:
            replica.table[key] = entry  # BEFORE the locks are released
        self._unlock(tx)
        if tx.state is _IDLE:
            del self.transactions[tx.name]
        else:
            self._remember(tx)
        if self._durable:
            self._record(Message(record, tx.name), sync=False)

    def _repeat_result(
        self, tx: Transaction, message: Message, _now_s: float, out: Outgoing
    ) -> None:
        self.must_sync = self._durable  # what it was learned from may not be on disk yet
        if not message.flags & _SILENT:
            out.append((tx.name.client, _done(tx, message)))

    def _release(self, tx: Transaction, message: Message, now_s: float, out: Outgoing) -> None:
        self._undo(tx)
        del self.transactions[tx.name]
        self._acknowledge_abort(tx, message, now_s, out)

    def _roll_back(self, tx: Transaction, _message: Message, _now_s: float, _out: Outgoing) -> None:
        self._undo(tx)
        self._remember(tx)

    def _undo(self, tx: Transaction) -> None:
        self._unlock(tx)
        tx.refusal = tx.refusal._replace(reason=Reason.VETOED)
        if self._durable:
            self._record(Message(Status.ABORT, tx.name), sync=True)  # BEFORE anybody hears of it

    def _acknowledge_abort(
        self, tx: Transaction, message: Message, _now_s: float, out: Outgoing
    ) -> None:
        out.append((tx.name.client, Message(Status.ABORTED, tx.name, message.operation)))

    def _unlock(self, tx: Transaction) -> None:
        for part in tx.parts[: tx.held]:
            del self.locks[part.key]
            if part.key in self._queues:
                self._freed.append(part.key)
        tx.held = 0

    # Waiting in vain.

    def _leave(self, tx: Transaction, _message: Message, _now_s: float, _out: Outgoing) -> None:
        if tx.held < len(tx.parts):
            self._queues[tx.parts[tx.held].key].remove(tx)
        self._unlock(tx)
        del self.transactions[tx.name]

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

    # What the participants of a transaction ask each other once its client is gone.

    def _settle(self, tx: Transaction, now_s: float, out: Outgoing) -> None:
        """Decide by what is known of the others' votes; ask them if that is not enough."""
        tx.deadline_s = now_s + RESOLVE_RETRY_S
        if tx.request.operation is not _MANY and self._joining(tx):
            return  # the other replica decides alone, and its copy will tell
        if self._decide(tx, now_s, out):
            return
        question = tx.request._replace(status=Status.RESOLVE, flags=0)
        if tx.request.operation is _MANY:
            question = question._replace(value=parts.pack(tx.ranges, ()))
        elif tx.staged:  # the version that was there before tells whether it was applied
            version = _known(tx.result).version
            question = question._replace(version=version, value=b"")
        else:
            question = question._replace(operation=_GET, value=b"")
        out += [(server, question) for server in self._others(tx)]

    def _others(self, tx: Transaction) -> list[str]:
        members = {server for number, _ in tx.ranges for server in self.layout[number]}
        return sorted(members - {self.me})

    def _asked(self, server: str, message: Message, now_s: float, out: Outgoing) -> None:
        tx = self.transactions.get(message.name)
        if tx is None:
            tx = Transaction(message)
            if not self._can_say_some(tx):
                no = Message(Status.NO, message.name, message.operation, Reason.SYNCING)
                out.append((server, no))
                return
            if self._has_applied(message):
                out.append((server, Message(_DONE, message.name, message.operation)))
                return
        self._step(tx, Event.ASKED, message, now_s, out)
        self.must_sync = self._durable  # BEFORE another participant acts on it
        out.append((server, self._opinion(tx)))

    def _has_applied(self, message: Message) -> bool:
        """Return whether a forgotten transaction of one key was committed here.

        The asking replica still holds its lock on the key, so nothing but this transaction can
        have moved the version on from the one that it met.
        """
        replica = self.replicas.get(message.range)
        if message.operation in {_GET, _MANY} or replica is None:
            return False
        return replica.table.get(message.key, ABSENT).version > message.version

    def _opinion(self, tx: Transaction) -> Message:
        """Return the answer to a question about the transaction."""
        if tx.state is State.PREPARED:
            alone = b"".join(
                _RANGE_NUMBER.pack(number) for number, _ in tx.ranges if self._is_alone(number)
            )
            tx.pledged = True
            reason = Reason.ALONE if alone else _NO_REASON
            return Message(_YES, tx.name, tx.request.operation, reason, value=alone)
        if tx.state is State.COMMITTED:
            return Message(_DONE, tx.name, tx.request.operation)
        # It says nothing of a range that waits for the very transaction before it can be joined.
        silent = b"".join(map(_RANGE_NUMBER.pack, self._joining(tx)))
        return Message(Status.NO, tx.name, tx.request.operation, Reason.VETOED, value=silent)

    def _is_alone(self, number: int) -> bool:
        """Return whether this replica decides for the range, its other one having come back."""
        replica = self.replicas.get(number)
        return replica is not None and replica.mode is Mode.GIVING

    def _veto(self, tx: Transaction, _message: Message, _now_s: float, _out: Outgoing) -> None:
        tx.refusal = tx.refusal._replace(reason=Reason.VETOED)
        self.transactions[tx.name] = tx
        self._remember(tx)

    def _say_yes(self, *_arguments: object) -> None:
        """Leave it to `_opinion`."""

    _say_committed = _say_no = _say_yes

    def _answered(self, server: str, message: Message, now_s: float, out: Outgoing) -> None:
        tx = self.transactions.get(message.name)
        if tx is None:
            return
        tx.answers[server] = message
        if tx.state is State.PREPARED:
            self._decide(tx, now_s, out)

    def _decide(self, tx: Transaction, now_s: float, out: Outgoing) -> bool:
        """Commit or abort if the votes that are known decide it."""
        votes = [self._votes(tx, number) for number, _ in tx.ranges]
        done = any(answer.status is _DONE for answer in tx.answers.values())
        if done or all(yes for yes, _ in votes):
            self._step(tx, Event.LEARNED_COMMIT, tx.request, now_s, out)
        elif any(no for _, no in votes):
            if tx.staged:
                self._step(tx, Event.LEARNED_ABORT, tx.request, now_s, out)
            else:  # it may be committed and forgotten at the other: its proceed may still come
                self._step(tx, Event.ABORT, tx.request, now_s, [])
        return tx.state is not _PREPARED

    def _votes(self, tx: Transaction, number: int) -> tuple[bool, bool]:
        """Return whether the range has voted yes for certain, and no for certain."""
        if self._is_alone(number):
            return True, False
        members = self.layout[number]
        said = [tx.answers[server] for server in members if server in tx.answers]
        yes = sum(answer.status is _YES for answer in said) + (self.me in members)
        packed = _RANGE_NUMBER.pack(number)
        noes = [answer for answer in said if answer.status is Status.NO]
        no = any(
            answer.reason is not Reason.SYNCING and packed not in _numbers(answer.value)
            for answer in noes
        )
        alone = any(
            answer.reason is Reason.ALONE and packed in _numbers(answer.value) for answer in said
        )
        # A no of one replica of another range can vanish in a crash; a yes of the other one would
        # then count. But one that is coming back, and has no yes now, will never have one.
        enough = self.me in members or len(noes) == len(members)
        return alone or yes == len(members), no and enough

    def _spread(self, tx: Transaction, now_s: float, out: Outgoing) -> None:
        """Tell the others of a commit of several keys until all have it, then forget it."""
        tx.deadline_s = now_s + RESOLVE_RETRY_S
        missing = [
            server
            for server in self._others(tx)
            if server not in tx.answers or tx.answers[server].status is not _DONE
        ]
        if tx.request.operation is _MANY:
            news = Message(Status.PROCEED, tx.name, _MANY, value=parts.pack(tx.ranges, ()))
            out += [(server, news) for server in missing]

    # Coming back, and letting the other replica come back.

    def freeze(self, number: int, now_s: float) -> Outgoing:
        """Stop serving the range for its other replica's sake, and roll forward what it holds."""
        replica = self.replicas[number]
        replica.mode = Mode.GIVING
        if self._durable:
            # What is decided alone now, the other replica lacks: should both come back from their
            # disks, this one must be the newer. On disk BEFORE anybody hears of a decision.
            replica.epoch += 1
            self._record(_joined(replica), sync=True)
        out: Outgoing = []
        for tx in [tx for tx in self.transactions.values() if tx.touches(number)]:
            if tx.state is State.WAITING:
                tx.refusal = tx.refusal._replace(reason=Reason.SYNCING, range=number)
                self._step(tx, Event.TURN_REFUSED, tx.request, now_s, out)
            elif tx.state is State.PREPARED:
                self._settle(tx, now_s, out)
        self._pass_on(now_s, out)
        return out

    @property
    def in_doubt(self) -> int:
        """How many transactions are prepared: voted yes, and not decided yet."""
        return sum(tx.state is State.PREPARED for tx in self.transactions.values())

    def is_quiet(self, number: int) -> bool:
        """Return whether nothing is prepared on the range."""
        return not any(
            tx.state is State.PREPARED and tx.touches(number) for tx in self.transactions.values()
        )

    def memories(self, number: int | None = None) -> list[Message]:
        """Return what is to be remembered of commits (on one range), for `recall`."""
        return [
            _memory(tx)
            for tx in self.transactions.values()
            if tx.state is State.COMMITTED and (number is None or tx.touches(number))
        ]

    def check(self, memories: Iterable[Message]) -> None:
        """Raise RemoteProtocolError for what is no memory of a commit."""
        for memory in memories:
            self._check_ranges(Transaction(memory))

    def recall(self, memories: Iterable[Message], now_s: float) -> None:
        """Remember commits that another replica, or this one before a crash, has known."""
        for memory in memories:
            if memory.name not in self.transactions:
                tx = Transaction(memory)
                tx.state = State.COMMITTED
                if memory.operation is not _MANY:
                    tx.result = memory._replace(status=_YES)
                self.transactions[tx.name] = tx
                self._remember(tx)
                self.clients.setdefault(tx.name.client, now_s)

    def install(self, joined: Message, copy: Copy, now_s: float) -> None:
        """Take the other replica's copy of a range, whatever was here before; see `Replica`."""
        number = joined.range
        replica = self.replicas[number]
        for tx in [tx for tx in self.transactions.values() if tx.state is State.PREPARED]:
            self._drop_parts(tx, number)  # recovered from disk; the copy has what became of it
        replica.install(joined, copy)
        self.recall(copy.memories, now_s)
        if self._durable:
            self.journal += copy.pages
            self._record(_joined(replica, Flag.INTACT), sync=True)  # BEFORE anybody hears of it

    def _drop_parts(self, tx: Transaction, number: int) -> None:
        kept = tuple(part for part in tx.parts if part.range != number)
        for part in tx.parts:
            if part.range == number:
                del self.locks[part.key]
        tx.parts, tx.held = kept, len(kept)
        tx.staged = [effect for effect in tx.staged if effect[0].number != number]
        if tx.request.operation is _MANY:  # what a snapshot keeps of it must not have them either
            tx.request = tx.request._replace(value=parts.pack(tx.ranges, kept))
        if not kept:
            del self.transactions[tx.name]

    def withdraw(self, name: Name, now_s: float) -> None:
        """Take back a yes that did not reach the disk, and that nobody has heard of."""
        tx = self.transactions.get(name)
        if tx is not None and tx.state is State.PREPARED:
            self._step(tx, Event.LEARNED_ABORT, tx.request, now_s, [])

    # What outlives a crash of a durable server: the journal, and a snapshot that replaces it.

    def advance(self, number: int, epoch: int) -> None:
        """Serve the range again, at its new epoch."""
        replica = self.replicas[number]
        replica.epoch = epoch
        replica.mode = Mode.SERVING
        if self._durable:
            self._record(_joined(replica), sync=True)

    def _record(self, message: Message, *, sync: bool) -> None:
        self.journal.append(message)
        self.must_sync = self.must_sync or sync

    def snapshot(self) -> list[Message]:
        """Return what follows the pages of all intact replicas in a snapshot."""
        intact = [replica for replica in self.replicas.values() if replica.intact]
        epochs = [_joined(replica, Flag.INTACT) for replica in intact]
        prepared = [tx.request for tx in self.transactions.values() if tx.state is State.PREPARED]
        return epochs + self.memories() + prepared

    def replay(self, messages: Iterable[Message], now_s: float) -> None:
        """Become what a snapshot, and the journal after it, tell; serve nothing yet.

        Raises KeyError for a range that is none of this server's, ProtocolError for what it
        never wrote.
        """
        durable, self._durable = self._durable, False
        copies: dict[int, Copy] = {}
        for message in messages:
            number = message.range
            if message.status is Status.COPY:
                if not message.version:  # the first page; a crash can have cut off an older copy
                    copies[number] = Copy()
                copies[number].extend(Copy(message))
            elif message.status is not Status.JOINED:
                self._replay(message, now_s)
            elif message.flags & Flag.INTACT:
                self.install(message, copies.pop(number), now_s)
            else:
                replica = self.replicas[number]
                replica.epoch, replica.founded = message.epoch, message.version
                replica.intact = True
        self._durable = durable

    def _replay(self, message: Message, now_s: float) -> None:
        tx = self.transactions.get(message.name)
        if message.status is Status.REQUEST:
            tx = Transaction(message)
            self._stage(tx)
            self._step(tx, Event.REQUEST_GRANTED, message, now_s, [])
            tx.deadline_s = now_s
            tx.pledged = True
            self.clients.setdefault(tx.name.client, now_s)
        elif message.status is Status.DONE and tx is None:
            self.recall([message], now_s)
        elif tx is None:
            why = f"the journal ends transaction {message.name}, which it does not begin"
            raise LocalProtocolError(why)
        elif message.status is Status.DONE:
            self._step(tx, Event.LEARNED_COMMIT, message, now_s, [])
        elif message.status is Status.PROCEED:
            event = Event.PROCEED_SPANNING if tx.request.operation is _MANY else _PROCEED
            self._step(tx, event, message, now_s, [])
        else:
            self._step(tx, Event.ABORT, message, now_s, [])

    # What is over, and for how long it is remembered.

    def _remember(self, tx: Transaction) -> None:
        self._remembered.setdefault(tx.name.client, set()).add(tx.name)
        tx.answers = {}

    def _forget(self, client: int, sequence: int) -> None:
        """Forget what a client can no longer ask about once it sent a request of `sequence`."""
        self._drop(
            client,
            [name for name in self._remembered[client] if name.sequence <= sequence - MAX_WINDOW],
        )

    def _expire(self, client: int) -> None:
        """Forget a client that may not come back, and what others cannot ask about either."""
        names = self._remembered.get(client, set())
        self._drop(client, [name for name in names if self._is_settled(self.transactions[name])])
        if client not in self._remembered:
            self.clients.pop(client, None)

    def _is_settled(self, tx: Transaction) -> bool:
        if tx.state is State.ABORTED or tx.request.operation is not _MANY:
            return True
        done = {server for server, answer in tx.answers.items() if answer.status is _DONE}
        return done >= set(self._others(tx))

    def _drop(self, client: int, names: Iterable[Name]) -> None:
        for name in names:
            self._remembered[client].remove(name)
            del self.transactions[name]
        if not self._remembered.get(client, True):
            del self._remembered[client]

    def _step(
        self, tx: Transaction, event: Event, message: Message, now_s: float, out: Outgoing
    ) -> None:
        transition = TRANSITIONS.get((tx.state, event))
        if transition is None:
            why = f"a transaction that is {tx.state} has no event: {event}"
            raise RemoteProtocolError(why)
        tx.state, action = transition
        self._actions[action](tx, message, now_s, out)


def _done(tx: Transaction, message: Message) -> Message:
    """Return the answer to a proceed, or to whoever asks for what is committed already."""
    if tx.result is None:  # it was forgotten: whoever proceeds knows the result
        return Message(_DONE, tx.name, message.operation)
    status = _DONE if tx.result.reason is _NO_REASON else _DONE_NOTHING
    return tx.result._replace(status=status, reason=_NO_REASON)


def _joined(replica: Replica, flags: int = 0) -> Message:
    """Return the journal's message of a replica's epoch; INTACT: the pages before it are all."""
    founded, number, epoch = replica.founded, replica.number, replica.epoch
    return Message(Status.JOINED, flags=flags, range=number, epoch=epoch, version=founded)


def _known(result: Message | None) -> Message:
    if result is None:  # pragma: no cover - only a transaction that was staged gets here
        why = "a transaction has no result yet"
        raise LocalProtocolError(why)
    return result


def _memory(tx: Transaction) -> Message:
    """Return what another replica must know of a commit: its result, or the ranges it spans."""
    if tx.request.operation is _MANY:
        return Message(_DONE, tx.name, _MANY, value=parts.pack(tx.ranges, ()))
    return _known(tx.result)._replace(status=_DONE)


def _numbers(packed: bytes) -> set[bytes]:
    size = _RANGE_NUMBER.size
    return {packed[at : at + size] for at in range(0, len(packed), size)}


_EFFECTS: dict[Operation, Callable[[Message, Entry], tuple[bool, bool]]] = {
    # whether the operation finds what it asks for, and whether it writes if it does
    Operation.GET: lambda _, current: (current.value is not None, False),
    Operation.PUT: lambda _, __: (True, True),
    Operation.ADD: lambda _, current: (current.value is None, True),
    Operation.DELETE: lambda _, current: (current.value is not None, True),
    Operation.CAS: lambda part, current: (part.version == current.version, True),
}
