"""A server's half of two-phase commit: what comes in, and what happens to a transaction then.

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

from collections.abc import Iterable

from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.limits import MAX_NEWS, MAX_NEWS_RETRY_S, RESOLVE_RETRY_S
from rdht.locks import Locks
from rdht.machine import Machine
from rdht.memory import Memory
from rdht.messages import Flag, Message, Name, Operation, Outgoing, Reason, Status, new_message
from rdht.replica import Copy, CopyPage, Mode, Replica
from rdht.resolution import Resolution
from rdht.ring import Replicas
from rdht.table import ABSENT
from rdht.transaction import Transaction
from rdht.transitions import Event, State
from rdht.write_ahead import WriteAhead, epoch_of

# Looking a member up in its enum costs 0.2 us in Python 3.11, a name of the module a tenth.
_REQUEST, _PROCEED, _READ = Status.REQUEST, Status.PROCEED, Status.READ
_DONE, _DONE_NOTHING = Status.DONE, Status.DONE_NOTHING
_NO_REASON, _BUSY = Reason.NONE, Reason.BUSY
_QUEUE = int(Flag.QUEUE)
_MANY, _GET = Operation.MANY, Operation.GET
_GRANTED, _PROCEEDED = Event.REQUEST_GRANTED, Event.PROCEED
_PREPARED = State.PREPARED


class Participant:
    """One server's part in all transactions on its keys."""

    def __init__(self, me: str, layout: tuple[Replicas, ...], *, durable: bool = False) -> None:
        """Be the server `me`; `layout` has the two replicas of each range.

        If `durable`, `write_ahead` has whatever must outlive a crash.
        """
        self.me = me
        self.layout = layout
        self.replicas = {
            number: Replica(number, pair.backup if pair.primary == me else pair.primary)
            for number, pair in enumerate(layout)
            if me in pair
        }
        self.transactions: dict[Name, Transaction] = {}
        self.locks = Locks()
        self.write_ahead = WriteAhead(is_durable=durable)
        self.resolution = Resolution(me, layout, self.replicas)
        self.memory = Memory(self.transactions, self.resolution)
        self.stopping = False
        self.unsafe = False
        self._machine = Machine(self.transactions, self.locks, self.memory, self.write_ahead)
        self._unanswered: list[Message] = []  # aborts to answer once this server has come back

    # What comes in.

    def handle(self, message: Message, now_s: float) -> Outgoing:
        """Return what to send because of a client's message.

        Raises RemoteProtocolError for a message that a participant does not take; nothing is
        changed then.
        """
        out: Outgoing = []
        status = message.status
        if status is _REQUEST:
            self._request(message, now_s, out)
        elif status is _PROCEED:
            self._proceed(message, now_s, out)
        elif status is _READ:
            self._read(message, out)
        elif status is Status.ABORT:
            self._abort(message, now_s, out)
        else:
            why = f"a participant takes no {status.name} from a client"
            raise RemoteProtocolError(why)
        if self.locks.freed:
            self._pass_on(now_s, out)
        return out

    def handle_peer(self, server: str, message: Message, now_s: float) -> Outgoing:
        """Return what to send because of another participant's question, news or answer."""
        out: Outgoing = []
        if message.status is Status.RESOLVE:
            self._asked(server, message, now_s, out)
        elif message.status is _PROCEED:
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
        clients = self.memory.clients
        if resume and client not in clients:
            return None
        out = [] if self.memory.is_gone(client) else self.disconnect(client, now_s)
        clients[client] = None
        return out

    def disconnect(self, client: int, now_s: float) -> Outgoing:
        """Settle what a client left behind whose connection ended."""
        self.memory.clients[client] = now_s
        self._unanswered = [one for one in self._unanswered if one.name.client != client]
        self.locks.drop_reads(client)
        out: Outgoing = []
        for tx in [tx for name, tx in self.transactions.items() if name.client == client]:
            if tx.state is State.WAITING:
                self._machine.step(tx, Event.LEFT, tx.request, now_s, out)
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
        self.memory.expire(now_s)
        due = [tx for tx in self.transactions.values() if tx.deadline_s <= now_s]
        for tx in due:
            if tx.state is State.PREPARED:
                self._settle(tx, now_s, out)
        most = len(out) + MAX_NEWS
        for tx in due:
            is_spread = tx.state is State.COMMITTED and tx.request.operation is _MANY
            if is_spread and self.memory.is_gone(tx.name.client):
                self._spread(tx, now_s, out)
                if len(out) >= most:
                    break
        self._pass_on(now_s, out)
        return out

    def _those_in(self, state: State) -> list[Transaction]:
        return [tx for tx in self.transactions.values() if tx.state is state]

    # Requests.

    def _request(self, message: Message, now_s: float, out: Outgoing) -> None:
        name = message.name
        tx = self.transactions.get(name)
        if tx is not None:
            self._machine.step(tx, Event.REQUEST_AGAIN, message, now_s, out)
            return
        tx = Transaction(message)
        tx.check(len(self.layout))
        if name.client in self.memory.remembered:
            self.memory.forget(name.client, name.sequence)
        reason, number, epoch = self._why_not(tx)
        if reason is _NO_REASON:
            event = _GRANTED if tx.stage(self.replicas) else Event.REQUEST_REFUSED
        elif reason is _BUSY and message.flags & _QUEUE:
            event = Event.REQUEST_QUEUED
        else:
            tx.refuse(reason, number=number, epoch=epoch)
            event = Event.REQUEST_REFUSED
        self._machine.step(tx, event, message, now_s, out)

    def _why_not(self, tx: Transaction) -> tuple[Reason, int, int]:
        """Return what keeps the request from being granted now, in which range and epoch."""
        if self.stopping:
            return Reason.STOPPING, 0, 0
        if self.unsafe:
            return Reason.UNSAFE, 0, 0
        for part in tx.parts:
            replica = self.replicas.get(part.range)
            if replica is None:
                return Reason.ELSEWHERE, part.range, 0
            reason = replica.why_not(part.epoch)
            if reason is not _NO_REASON:
                return reason, part.range, replica.epoch
        return self.locks.why_not(tx.parts), 0, 0

    def _pass_on(self, now_s: float, out: Outgoing) -> None:
        """Go on with those to whom a freed lock has come."""
        for waiter in self.locks.pass_on():
            if isinstance(waiter, Message):
                self._read(waiter, out)
            else:
                event = Event.TURN_GRANTED if waiter.stage(self.replicas) else Event.TURN_REFUSED
                self._machine.step(waiter, event, waiter.request, now_s, out)

    def _read(self, message: Message, out: Outgoing) -> None:
        replica = self.replicas.get(message.range)
        reason = Reason.ELSEWHERE if replica is None else replica.why_not(message.epoch, reads=True)
        key = message.key
        if reason is _NO_REASON and key in self.locks.holders:
            # The holder may be committed already: what is there now may be the past.
            if self.locks.wait(message):
                return
            reason = Reason.OVERLOADED
        if replica is None or reason is not _NO_REASON:
            epoch = 0 if replica is None else replica.epoch
            no = Message(Status.NO, message.name, _GET, reason, 0, message.range, epoch)
            out.append((message.name.client, no))
            return
        value, version = replica.table.get(key, ABSENT)
        status = _DONE_NOTHING if value is None else _DONE
        answer = (status, message.name, _GET, _NO_REASON, 0, 0, 0, version, b"", value or b"")
        out.append((message.name.client, new_message(answer)))

    # Decisions.

    def _proceed(self, message: Message, now_s: float, out: Outgoing) -> None:
        tx = self.transactions.get(message.name)
        if tx is None:
            tx = Transaction(message)
        event = Event.PROCEED_SPANNING if tx.request.operation is _MANY else _PROCEEDED
        self._machine.step(tx, event, message, now_s, out)

    def _abort(self, message: Message, now_s: float, out: Outgoing) -> None:
        tx = self.transactions.get(message.name)
        if tx is None:
            tx = Transaction(message)
            if self.resolution.cannot_say(tx):
                self._unanswered.append(message)
                return
        elif self._is_pledged(message):
            self._unanswered.append(message)  # others may have committed because of the pledge
            self._settle(tx, now_s, out)
            return
        self._machine.step(tx, Event.ABORT, message, now_s, out)

    def _is_pledged(self, abort: Message) -> bool:
        """Return whether another participant may count on the yes that is to be undone."""
        tx = self.transactions.get(abort.name)
        is_pledged = tx is not None and tx.state is _PREPARED and tx.pledged
        return is_pledged and abort.reason is not Reason.VETOED

    # What the participants of a transaction ask each other once its client is gone.

    def _settle(self, tx: Transaction, now_s: float, out: Outgoing) -> None:
        """Decide by what is known of the others' votes; ask them if that is not enough."""
        tx.deadline_s = now_s + RESOLVE_RETRY_S
        if tx.request.operation is not _MANY and self.resolution.joining(tx):
            return  # the other replica decides alone, and its copy will tell
        self._decide(tx, now_s, out)
        if tx.state is _PREPARED:
            question = tx.question()
            out += [(server, question) for server in self.resolution.others(tx)]

    def _decide(self, tx: Transaction, now_s: float, out: Outgoing) -> None:
        """Commit or abort if the votes that are known decide it."""
        verdict = self.resolution.verdict(tx)
        if verdict is None:
            return
        if verdict:
            self._machine.step(tx, Event.LEARNED_COMMIT, tx.request, now_s, out)
        elif tx.staged:
            self._machine.step(tx, Event.LEARNED_ABORT, tx.request, now_s, out)
        else:  # it may be committed and forgotten at the other: its proceed may still come
            self._machine.step(tx, Event.ABORT, tx.request, now_s, [])

    def _asked(self, server: str, message: Message, now_s: float, out: Outgoing) -> None:
        tx = self.transactions.get(message.name)
        if tx is None:
            tx = Transaction(message)
            answer = self.resolution.answer_unknown(tx)
            if answer is not None:
                out.append((server, answer))
                return
        self._machine.step(tx, Event.ASKED, message, now_s, out)
        self.write_ahead.hold()  # BEFORE another participant acts on it
        out.append((server, self.resolution.answer(tx)))

    def _answered(self, server: str, message: Message, now_s: float, out: Outgoing) -> None:
        tx = self.transactions.get(message.name)
        if tx is None:
            return
        tx.answers[server] = message
        if tx.state is State.PREPARED:
            self._decide(tx, now_s, out)

    def _spread(self, tx: Transaction, now_s: float, out: Outgoing) -> None:
        """Tell the others of a commit of several keys until all have it, then forget it.

        The longer its client has been away, the later again: after all servers have come back
        there are thousands, and who has no time to answer would have ever less.
        """
        away_s = self.memory.away_s(tx.name.client, now_s)
        tx.deadline_s = now_s + min(max(RESOLVE_RETRY_S, away_s), MAX_NEWS_RETRY_S)
        out += [(server, tx.news()) for server in self.resolution.unconfirmed(tx)]

    # Coming back, and letting the other replica come back.

    def freeze(self, number: int, now_s: float) -> Outgoing:
        """Stop serving the range for its other replica's sake, and roll forward what it holds."""
        replica = self.replicas[number]
        replica.mode = Mode.GIVING
        if self.write_ahead.is_durable:
            # What is decided alone now, the other replica lacks: should both come back from their
            # disks, this one must be the newer. On disk BEFORE anybody hears of a decision.
            replica.epoch += 1
            self.write_ahead.record(epoch_of(replica), sync=True)
        out: Outgoing = []
        for tx in [tx for tx in self.transactions.values() if tx.touches(number)]:
            if tx.state is State.WAITING:
                tx.refuse(Reason.SYNCING, number=number)
                self._machine.step(tx, Event.TURN_REFUSED, tx.request, now_s, out)
            elif tx.state is State.PREPARED:
                self._settle(tx, now_s, out)
        self._pass_on(now_s, out)
        return out

    def advance(self, number: int, epoch: int) -> None:
        """Serve the range again, at its new epoch."""
        replica = self.replicas[number]
        replica.epoch = epoch
        replica.mode = Mode.SERVING
        if self.write_ahead.is_durable:
            self.write_ahead.record(epoch_of(replica), sync=True)

    @property
    def in_doubt(self) -> int:
        """How many transactions are prepared: voted yes, and not decided yet."""
        return len(self._those_in(State.PREPARED))

    def is_quiet(self, number: int) -> bool:
        """Return whether nothing is prepared on the range."""
        return not any(tx.touches(number) for tx in self._those_in(State.PREPARED))

    def check(self, commits: Iterable[Message]) -> None:
        """Raise RemoteProtocolError for what `Memory.recall` cannot remember."""
        for commit in commits:
            Transaction(commit).check_ranges(len(self.layout))

    def install(self, joined: Message, copy: Copy, now_s: float) -> None:
        """Take the other replica's copy of a range, whatever was here before; see `Replica`."""
        number = joined.range
        replica = self.replicas[number]
        for tx in self._those_in(State.PREPARED):
            # Recovered from disk; the copy has what became of it.
            for part in tx.drop(number):
                del self.locks.holders[part.key]
            if not tx.parts:
                del self.transactions[tx.name]
        replica.install(joined, copy)
        self.memory.recall(copy.memories, now_s)
        if self.write_ahead.is_durable:
            self.write_ahead.records += copy.pages
            # BEFORE anybody hears of it.
            self.write_ahead.record(epoch_of(replica, Flag.INTACT), sync=True)

    # What outlives a crash of a durable server: the journal, and a snapshot that replaces it.

    def snapshot(self) -> list[Message]:
        """Return what follows the pages of all intact replicas in a snapshot."""
        intact = [replica for replica in self.replicas.values() if replica.intact]
        epochs = [epoch_of(replica, Flag.INTACT) for replica in intact]
        prepared = [tx.request for tx in self._those_in(State.PREPARED)]
        return epochs + self.memory.commits() + prepared

    def replay(self, messages: Iterable[Message], now_s: float) -> None:
        """Become what a snapshot, and the journal after it, tell; serve nothing yet.

        Raises KeyError for a range that is none of this server's, ProtocolError for what it
        never wrote.
        """
        durable, self.write_ahead.is_durable = self.write_ahead.is_durable, False
        copies: dict[int, Copy] = {}
        for message in messages:
            number = message.range
            if message.status is Status.COPY:
                if not message.version:  # the first page; a crash can have cut off an older copy
                    copies[number] = Copy()
                copies[number].extend(CopyPage.unpack(message))
            elif message.status is not Status.JOINED:
                self._replay(message, now_s)
            elif message.flags & Flag.INTACT:
                self.install(message, copies.pop(number), now_s)
            else:
                replica = self.replicas[number]
                replica.epoch, replica.founded = message.epoch, message.version
                replica.intact = True
        self.write_ahead.is_durable = durable

    def _replay(self, message: Message, now_s: float) -> None:
        tx = self.transactions.get(message.name)
        if message.status is _REQUEST:
            tx = Transaction(message)
            tx.stage(self.replicas)
            self._machine.step(tx, Event.REQUEST_GRANTED, message, now_s, [])
            tx.deadline_s = now_s
            tx.pledged = True
            self.memory.clients.setdefault(tx.name.client, now_s)
        elif message.status is _DONE and tx is None:
            self.memory.recall([message], now_s)
        elif tx is None:
            why = f"the journal ends transaction {message.name}, which it does not begin"
            raise LocalProtocolError(why)
        elif message.status is _DONE:
            self._machine.step(tx, Event.LEARNED_COMMIT, message, now_s, [])
        elif message.status is _PROCEED:
            self._proceed(message, now_s, [])
        else:
            self._machine.step(tx, Event.ABORT, message, now_s, [])

    def withdraw(self, name: Name, now_s: float) -> None:
        """Take back a yes that did not reach the disk, and that nobody has heard of."""
        tx = self.transactions.get(name)
        if tx is not None and tx.state is State.PREPARED:
            self._machine.step(tx, Event.LEARNED_ABORT, tx.request, now_s, [])
