"""Which transactions that are over a participant remembers, and for how long.

Most are forgotten at once: a key's version tells whether they were applied. What another
participant or a client that was away may still ask about is kept until its client is MAX_WINDOW
commands further, or has been away for RESUME_TIMEOUT_S; a commit of several keys, until all other
participants have confirmed it.
"""

from collections.abc import Iterable

from rdht.limits import MAX_WINDOW, RESUME_TIMEOUT_S
from rdht.messages import Message, Name, Operation, Status
from rdht.resolution import Resolution
from rdht.transaction import Transaction
from rdht.transitions import State


class Memory:
    """The clients of one participant, and what it remembers for each."""

    def __init__(self, transactions: dict[Name, Transaction], resolution: Resolution) -> None:
        """Know nobody; drop from `transactions` what is to be forgotten."""
        self.clients: dict[int, float | None] = {}  # and since when each is gone
        self.remembered: dict[int, set[Name]] = {}  # by client: transactions that are over
        self._strangers: dict[int, float] = {}  # clients remembered for others only, since when
        self._transactions = transactions
        self._resolution = resolution

    def is_gone(self, client: int) -> bool:
        """Return whether the client has no connection now."""
        return self.clients.get(client, 0.0) is not None

    def away_s(self, client: int, now_s: float) -> float:
        """Return for how long a client has had no connection."""
        gone_s = self.clients.get(client, self._strangers.get(client))
        return 0.0 if gone_s is None else now_s - gone_s

    def remember(self, tx: Transaction) -> None:
        """Keep a transaction that is over."""
        self.remembered.setdefault(tx.name.client, set()).add(tx.name)
        tx.end()

    def commits(self, number: int | None = None) -> list[Message]:
        """Return what is remembered of commits (on one range), for `recall`."""
        return [
            tx.memory()
            for tx in self._transactions.values()
            if tx.state is State.COMMITTED and (number is None or tx.touches(number))
        ]

    def recall(self, commits: Iterable[Message], now_s: float) -> None:
        """Remember commits that another replica, or this one before a crash, has known."""
        for commit in commits:
            if commit.name not in self._transactions:
                tx = Transaction(commit)
                tx.state = State.COMMITTED
                if commit.operation is not Operation.MANY:
                    tx.result = commit._replace(status=Status.YES)
                self._transactions[tx.name] = tx
                self.remember(tx)
                self.clients.setdefault(tx.name.client, now_s)

    def forget(self, client: int, sequence: int) -> None:
        """Forget what a client can no longer ask about once it sent a request of `sequence`."""
        names = self.remembered[client]
        self._drop(client, [name for name in names if name.sequence <= sequence - MAX_WINDOW])

    def expire(self, now_s: float) -> None:
        """Forget clients that stay away, and those that were never here."""
        strangers = self.remembered.keys() - self.clients.keys()
        self._strangers = {one: self._strangers.get(one, now_s) for one in strangers}
        for client, gone_s in [*self.clients.items(), *self._strangers.items()]:
            if gone_s is not None and gone_s + RESUME_TIMEOUT_S <= now_s:
                self._expire(client, now_s)

    def _expire(self, client: int, now_s: float) -> None:
        """Forget a client that may not come back, and what others cannot ask about either.

        Whether they can is only looked at when they are due to be told of it.
        """
        found = [self._transactions[name] for name in self.remembered.get(client, ())]
        due = [tx.name for tx in found if tx.deadline_s <= now_s and self._is_settled(tx)]
        self._drop(client, due)
        if client not in self.remembered:
            self.clients.pop(client, None)

    def _is_settled(self, tx: Transaction) -> bool:
        return tx.state is State.ABORTED or not self._resolution.unconfirmed(tx)

    def _drop(self, client: int, names: Iterable[Name]) -> None:
        for name in names:
            self.remembered[client].remove(name)
            del self._transactions[name]
        if not self.remembered.get(client, True):
            del self.remembered[client]
