"""Exact locks, one a key, each with a bounded queue that is served first in, first out.

Who waits for several locks takes them in order of the keys, and holds those before the one that it
waits for. The clients keep to an order of the servers, too: no circle of waiting can form.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from rdht.limits import MAX_QUEUE
from rdht.messages import Message, Reason
from rdht.transaction import Transaction

Waiter = Transaction | Message  # a message is a read, which needs the key unlocked and no lock


class Locks:
    """The locks of all keys that one server holds."""

    def __init__(self) -> None:
        """Start with all keys unlocked."""
        self.holders: dict[bytes, Transaction] = {}
        self.queues: dict[bytes, deque[Waiter]] = {}
        self.freed: list[bytes] = []  # keys that were unlocked and have a queue

    def why_not(self, wanted: Iterable[Message]) -> Reason:
        """Return what keeps these parts from their locks: BUSY may be waited for."""
        holders = self.holders
        for part in wanted:
            if part.key in holders:
                queue = self.queues.get(part.key)
                full = queue is not None and len(queue) >= MAX_QUEUE
                return Reason.OVERLOADED if full else Reason.BUSY
        return Reason.NONE

    def take(self, tx: Transaction) -> None:
        """Give the transaction all its locks, which are free or its own."""
        for part in tx.parts:
            self.holders[part.key] = tx
        tx.held = len(tx.parts)

    def acquire(self, tx: Transaction) -> bool:
        """Take the locks that are free in order of the keys; join the queue of the first other."""
        for part in tx.parts[tx.held :]:
            if part.key in self.holders:
                self._queue(part.key).append(tx)
                return False
            self.holders[part.key] = tx
            tx.held += 1
        return True

    def wait(self, read: Message) -> bool:
        """Let a read join the queue of its key; return False if that is full."""
        queue = self._queue(read.key)
        if len(queue) >= MAX_QUEUE:
            return False
        queue.append(read)
        return True

    def _queue(self, key: bytes) -> deque[Waiter]:
        return self.queues.setdefault(key, deque())

    def release(self, tx: Transaction) -> None:
        """Unlock all that the transaction holds; `pass_on` hands it to who waits for it."""
        for part in tx.parts[: tx.held]:
            del self.holders[part.key]
            if part.key in self.queues:
                self.freed.append(part.key)
        tx.held = 0

    def leave(self, tx: Transaction) -> None:
        """Let a transaction wait no longer, and release what it holds."""
        if tx.held < len(tx.parts):
            self.queues[tx.parts[tx.held].key].remove(tx)
        self.release(tx)

    def drop_reads(self, client: int) -> None:
        """Let a client's reads wait no longer."""
        for queue in self.queues.values():
            for waiter in [one for one in queue if isinstance(one, Message)]:
                if waiter.name.client == client:
                    queue.remove(waiter)

    def pass_on(self) -> Iterator[Waiter]:
        """Hand each freed lock to the next in its queue; yield who need not wait any longer.

        The caller deals with each BEFORE it takes the next one: that may free the lock again.
        """
        while self.freed:
            key = self.freed.pop()
            queue = self.queues.get(key)
            while queue and key not in self.holders:
                waiter = queue.popleft()
                if isinstance(waiter, Message):
                    yield waiter
                    continue
                self.holders[key] = waiter
                waiter.held += 1
                if self.acquire(waiter):
                    yield waiter
            if queue is not None and not queue:
                del self.queues[key]
