"""Whether commands on many keys could each have been done at one moment, by the versions told."""

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from analysis.register import NEVER, Call, Transaction
from rdht.messages import Operation
from rdht.parts import Result


class Disorder(NamedTuple):
    """What cannot be, and of which transactions."""

    why: str
    transactions: tuple[Transaction, ...]

    def __str__(self) -> str:
        """Tell it with all there is to see."""
        return f"{self.why}: {', '.join(map(str, self.transactions))}"


def explain_disorder(transactions: Sequence[Transaction]) -> Disorder | None:
    """Return why no order of the transactions explains the versions that they were told.

    Every value is to be written once only. The versions of a key are one more with each write, so
    they give the order of what touched it; these orders and the order in time of those of which
    one had ended before the other began must not form a circle. This finds all that is wrong among
    those that are done. Of those with unknown outcome it judges those whose effect was seen.
    """
    places = _Places(transactions)
    return places.fault or _find_circle(transactions, places.edges())


class _Places:
    """Which transaction wrote each version of each key, and which ones met it."""

    def __init__(self, transactions: Sequence[Transaction]) -> None:
        self.fault: Disorder | None = None
        self._transactions = transactions
        self._writers: dict[bytes, dict[int, int]] = defaultdict(dict)  # by version
        self._readers: dict[bytes, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._last: Counter[bytes] = Counter()  # version of each key
        self._seen: set[int] = set()  # of unknown outcome, took effect
        self._by_value = {
            (call.key, call.value): at
            for at, transaction in enumerate(transactions)
            for call in transaction.calls
            if call.value
        }
        for at, transaction in enumerate(transactions):
            for call in transaction.calls:
                if call.told is not None:
                    self._take(at, call, call.told)
        for at, transaction in enumerate(transactions):
            for call in transaction.calls:
                if call.told is not None and call.operation is Operation.GET:
                    self._look(at, call, call.told)
        self._place_seen()

    def edges(self) -> Iterable[tuple[int, int]]:
        """Yield pairs of which the first must come before the second."""
        for key in self._writers.keys() | self._readers.keys():
            writers, readers = self._writers[key], self._readers[key]
            before: list[int] = []
            for version in sorted({*writers, *readers}):
                if version in writers:
                    yield from ((one, writers[version]) for one in before)
                    before = [writers[version]]
                if version in readers:
                    yield from ((one, other) for one in before for other in readers[version])
                    before = readers[version] or before

    def _take(self, at: int, call: Call, told: Result) -> None:
        version = told.version
        if call.operation is not Operation.GET and told.found:
            self._write(at, call, version + 1)
            if call.operation is Operation.CAS and version != call.version:
                self._blame("a cas met another version than it expected", at)
        else:
            self._readers[call.key][version].append(at)
        self._last[call.key] = max(self._last[call.key], version)

    def _write(self, at: int, call: Call, version: int) -> None:
        other = self._writers[call.key].setdefault(version, at)
        if other != at:
            self._blame(f"two wrote version {version} of {call.key!r}", other, at)
        self._last[call.key] = max(self._last[call.key], version)

    def _blame(self, why: str, *concerned: int) -> None:
        self.fault = Disorder(why, tuple(self._transactions[at] for at in concerned))

    def _look(self, at: int, call: Call, told: Result) -> None:
        """Find the writer of what a get was told."""
        if not told.found:
            return
        writer = self._by_value.get((call.key, told.value))
        if writer is None:
            self._blame(f"a get of {call.key!r} met a value that nobody wrote", at)
            return
        if any(one.told is None for one in self._transactions[writer].calls):
            self._seen.add(writer)
            self._write(writer, call, told.version)
        elif self._writers[call.key].get(told.version) != writer:
            self._blame(f"a get of {call.key!r} met another value than was written", writer, at)

    def _place_seen(self) -> None:
        """Check that there is a version on each key of a transaction that was seen on one."""
        for at in self._seen:
            for call in self._transactions[at].calls:
                writers = self._writers[call.key]
                if at in writers.values():
                    continue
                free = [one for one in range(1, self._last[call.key] + 1) if one not in writers]
                if not free:
                    self._blame(f"half done, and not on {call.key!r}", at)
                elif len(free) == 1:
                    self._write(at, call, free[0])


def _find_circle(
    transactions: Sequence[Transaction], edges: Iterable[tuple[int, int]]
) -> Disorder | None:
    """Return transactions that would each have to come before the other."""
    count = len(transactions)
    after: list[list[int]] = [[] for _ in range(2 * count)]
    owed = [0] * (2 * count)  # how many must still come before
    for one, other in itertools.chain(edges, _edges_of_time(transactions)):
        if one != other:
            after[one].append(other)
            owed[other] += 1
    ready = [one for one in range(2 * count) if not owed[one]]
    while ready:
        for other in after[ready.pop()]:
            owed[other] -= 1
            if not owed[other]:
                ready.append(other)
    left = [one for one in range(count) if owed[one]]
    if not left:
        return None
    circle = _walk(left[0], after, owed)
    why = "each would have to come before the next, in a circle"
    return Disorder(why, tuple(transactions[at] for at in circle if at < count))


def _edges_of_time(transactions: Sequence[Transaction]) -> Iterator[tuple[int, int]]:
    """Put a moment at each end; yield what leads to it, to the next one, and from it."""
    count = len(transactions)
    by_end = sorted(range(count), key=lambda at: transactions[at].ended_s)
    ends = [transactions[at].ended_s for at in by_end]
    for place, at in enumerate(by_end):
        if ends[place] < NEVER:
            yield at, count + place
        if place:
            yield count + place - 1, count + place
    for at, transaction in enumerate(transactions):
        place = bisect.bisect_left(ends, transaction.called_s)
        if place:
            yield count + place - 1, at


def _walk(start: int, after: list[list[int]], owed: list[int]) -> list[int]:
    """Return a circle among the nodes that are still owed something."""
    before = {other: one for one in range(len(after)) if owed[one] for other in after[one]}
    path = [start]
    while before[path[-1]] not in path:
        path.append(before[path[-1]])
    return path[path.index(before[path[-1]]) :][::-1]
