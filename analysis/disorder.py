"""Whether commands on many keys could each have been done at one moment, by the versions told.

The versions of a key are one more with each write, so they give the order of what touched it.
These orders, and the order in time of commands of which one had ended before the other began, must
not form a circle. Of those of unknown outcome it judges those whose effect was seen.
"""

import bisect
import itertools
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from analysis.register import NEVER, Call, Register, Transaction
from rdht.messages import Operation
from rdht.parts import Result

_MOST_TRIED = 20  # transactions of a circle from which a shorter one is looked for
_ABSENT = Register()
_Edge = tuple[int, int]  # the first must come before the second


class Disorder(NamedTuple):
    """What cannot be, and of which transactions."""

    why: str
    transactions: tuple[Transaction, ...]

    def __str__(self) -> str:
        """Tell it with all there is to see."""
        return f"{self.why}: {', '.join(map(str, self.transactions))}"


def explain_disorder(
    transactions: Sequence[Transaction], start: Mapping[bytes, Register] | None = None
) -> Disorder | None:
    """Return why no order of the transactions explains the versions that they were told.

    `start` has what stood at keys before. Nothing that can be is called a disorder; and all that
    cannot be is found, if the outcome of all is known.
    """
    places = _Places(transactions, start or {})
    return places.fault or _find_circle(transactions, places)


class _Places:
    """Which transaction wrote each version of each key, and which ones met it."""

    def __init__(
        self, transactions: Sequence[Transaction], start: Mapping[bytes, Register]
    ) -> None:
        self.fault: Disorder | None = None
        self._transactions = transactions
        self._start = start
        self._writers: dict[bytes, dict[int, int]] = defaultdict(dict)  # by version
        self._readers: dict[bytes, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._values: dict[bytes, dict[int, bytes]] = defaultdict(dict)  # that stood there
        self._free: dict[bytes, list[int]] = {}  # versions of which nobody knows who wrote them
        self._late: list[tuple[bytes, int]] = []  # a key, and who wrote it after all that was told
        seen = self._take_all()
        for at in sorted(seen):
            self._place(at, seen[at])

    def edges(self, fresh: Iterator[int]) -> Iterator[_Edge]:
        """Yield pairs of which the first must come before the second; `fresh` are new places."""
        last: dict[bytes, int] = {}
        for key in self._writers.keys() | self._readers.keys():
            writers, readers = self._writers[key], self._readers[key]
            before = None
            for version in sorted({*writers, *readers}):
                if version in writers:
                    if before is not None:
                        yield before, writers[version]
                    before = writers[version]
                if version in readers:
                    after = next(fresh)
                    for at in readers[version]:
                        if before is not None:
                            yield before, at
                        yield at, after
                    before = after
            if before is not None:
                last[key] = before
        yield from ((last[key], at) for key, at in self._late if key in last)

    def _take_all(self) -> dict[int, set[bytes]]:
        """Note who wrote and met what; return who has unknown outcome and was seen, and where."""
        gets: list[tuple[int, Call, Result]] = []
        unsure: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
        for at, transaction in enumerate(self._transactions):
            for call in transaction.calls:
                told = call.told
                if told is None:
                    if call.operation is not Operation.GET:
                        unsure[call.key, call.value].append(at)
                elif call.operation is Operation.GET:
                    self._readers[call.key][told.version].append(at)
                    gets.append((at, call, told))
                elif told.found:
                    self._write(at, call, told.version + 1)
                    if call.operation is Operation.CAS and told.version != call.version:
                        self._blame("a cas met another version than it expected", at)
                else:
                    self._readers[call.key][told.version].append(at)
        seen: dict[int, set[bytes]] = defaultdict(set)
        for at, call, told in gets:
            if told.found:
                self._look(at, call, told, unsure, seen)
        return seen

    def _look(
        self,
        at: int,
        call: Call,
        told: Result,
        unsure: Mapping[tuple[bytes, bytes], Sequence[int]],
        seen: dict[int, set[bytes]],
    ) -> None:
        """Find the writer of what a get was told."""
        key, (_, version, value) = call.key, told
        first = self._start.get(key, _ABSENT)
        writer = self._writers[key].get(version)
        if version == first.version:
            if value != first.value:
                self._blame(f"a get of {key!r} met a value that nobody wrote", at)
        elif version in self._values[key]:
            if value != self._values[key][version]:
                also = [] if writer is None else [writer]
                self._blame(f"a get of {key!r} met another value than was written", *also, at)
        elif writer is not None:
            self._blame(f"a get of {key!r} met a value where it was deleted", writer, at)
        else:
            self._values[key][version] = value
            writers = unsure.get((key, value), ())
            if not writers:
                self._blame(f"a get of {key!r} met a value that nobody wrote", at)
            elif len(writers) == 1:
                self._writers[key][version] = writers[0]
                if key in seen[writers[0]]:
                    self._blame(f"what was written to {key!r} once was there twice", *writers, at)
                seen[writers[0]].add(key)

    def _write(self, at: int, call: Call, version: int) -> None:
        other = self._writers[call.key].setdefault(version, at)
        if other != at:
            self._blame(f"two wrote version {version} of {call.key!r}", other, at)
        if call.operation is not Operation.DELETE:
            self._values[call.key][version] = call.value

    def _blame(self, why: str, *concerned: int) -> None:
        self.fault = Disorder(why, tuple(self._transactions[at] for at in concerned))

    def _place(self, at: int, seen: set[bytes]) -> None:
        """Have what was seen on one key come after all on those where it has left no version."""
        for call in self._transactions[at].calls:
            if call.operation is not Operation.PUT or call.key in seen:
                continue
            values = self._values[call.key]
            if all(values.get(one, call.value) != call.value for one in self._gaps(call.key)):
                self._late.append((call.key, at))

    def _gaps(self, key: bytes) -> list[int]:
        """Return the versions of a key of which nobody knows who wrote them."""
        if key not in self._free:
            writers, first = self._writers[key], self._start.get(key, _ABSENT).version
            last = max([first, *writers, *self._readers[key]])
            self._free[key] = [one for one in range(first + 1, last + 1) if one not in writers]
        return self._free[key]


def _find_circle(transactions: Sequence[Transaction], places: _Places) -> Disorder | None:
    """Return transactions that would each have to come before the other."""
    count = len(transactions)
    after: dict[int, list[int]] = defaultdict(list)
    owed: dict[int, int] = defaultdict(int)  # how many must still come before
    edges = itertools.chain(places.edges(itertools.count(2 * count)), _edges_of_time(transactions))
    for one, other in edges:
        if one != other:
            after[one].append(other)
            owed[other] += 1
    ready = [one for one in after if one not in owed]
    while ready:
        for other in after.get(ready.pop(), ()):
            owed[other] -= 1
            if not owed[other]:
                ready.append(other)
    left = {one for one, many in owed.items() if many}
    if not left:
        return None
    circle = _shortest(after, left, count)
    why = "each would have to come before the next, in a circle"
    return Disorder(why, tuple(transactions[at] for at in circle))


def _edges_of_time(transactions: Sequence[Transaction]) -> Iterator[_Edge]:
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


def _shortest(after: Mapping[int, Sequence[int]], left: set[int], count: int) -> list[int]:
    """Return the transactions of a circle among those left, the shortest through one of them."""
    before = {other: one for one in left for other in after.get(one, ()) if other in left}
    at = next(iter(left))
    path: dict[int, None] = {}
    while at not in path:  # back, until one comes again
        path[at] = None
        at = before[at]
    circle = list(path)[list(path).index(at) :]
    tried = [one for one in circle if one < count][:_MOST_TRIED]
    return min((_circle_through(one, after, left, count) for one in tried), key=len)


def _circle_through(
    start: int, after: Mapping[int, Sequence[int]], left: set[int], count: int
) -> list[int]:
    """Return the fewest transactions that lead from one back to itself, over places and moments."""
    came: dict[int, int] = {}
    far = {start: 0}
    queue = deque([start])
    done: set[int] = set()
    while queue:
        one = queue.popleft()
        if one in done:
            continue
        done.add(one)
        for other in after.get(one, ()):
            if other == start:
                return [at for at in _back(one, came) if at < count]
            further = far[one] + (other < count)
            if other in left and further < far.get(other, len(left) + 1):
                far[other] = further
                came[other] = one
                (queue.append if other < count else queue.appendleft)(other)
    return list(range(count))


def _back(at: int, came: Mapping[int, int]) -> list[int]:
    path = [at]
    while path[-1] in came:
        path.append(came[path[-1]])
    return path[::-1]
