"""Whether a history of commands on a table could have come from one that did them one by one.

`find_order` looks at one key: a register with get, put, add, delete and cas. It is the search of
Wing and Gong, "Testing and verifying concurrent objects" (1993), with Lowe's memory of the places
where it has been, "Testing for linearizability" (2017). `explain_disorder` looks at all keys and
at commands on several of them, by the versions that the answers carry.

A call that is done has an end and what it was told; one whose outcome is unknown has neither, and
may take effect at any time after its beginning, or never. One with an end that was told nothing has
taken effect for certain. One that was aborted is in no history: nothing may show its effect.
"""

import bisect
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rdht.messages import Operation
from rdht.parts import Result

NEVER = math.inf
MOST_STATES = 100_000  # of one search


class UndecidedError(Exception):
    """So many calls of unknown outcome that the search was given up."""


class Register(NamedTuple):
    """What stands at a key."""

    value: bytes | None = None
    version: int = 0


class Call(NamedTuple):
    """One operation on one key; `version` is what a cas expects, `told` what came back."""

    key: bytes
    operation: Operation
    called_s: float
    ended_s: float = NEVER
    value: bytes = b""
    version: int = 0
    told: Result | None = None


class Transaction(NamedTuple):
    """Calls that were one command; they share their times, and have all been told or none."""

    calls: tuple[Call, ...]

    @property
    def called_s(self) -> float:
        return self.calls[0].called_s

    @property
    def ended_s(self) -> float:
        return self.calls[0].ended_s


def carry_out(call: Call, before: Register) -> tuple[Register, Result]:
    """Return what stands at the key after the call, and what the caller is to be told."""
    value, version = before
    operation = call.operation
    if operation is Operation.GET:
        return before, Result(value is not None, version, value or b"")
    if operation is Operation.PUT:
        found = True
    elif operation is Operation.ADD:
        found = value is None
    elif operation is Operation.DELETE:
        found = value is not None
    else:
        found = version == call.version
    if not found:
        return before, Result(found, version)
    written = None if operation is Operation.DELETE else call.value
    return Register(written, version + 1), Result(found, version)


def find_order(calls: Sequence[Call], start: Register = Register()) -> list[Call] | None:  # noqa: B008 - immutable
    """Return an order of the calls on one key that explains what they were told, if there is one.

    Calls of unknown outcome that need not have taken effect are left out of it. Raises
    UndecidedError after MOST_STATES.
    """
    search = _Search(sorted(calls, key=lambda call: call.called_s))
    return search.run(start)


class _Search:
    """The search for an order of the calls on one key, sorted by when they began."""

    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls
        self._needed = sum(1 << at for at, call in enumerate(calls) if call.ended_s < NEVER)
        told = [(call, call.told) for call in calls if call.told is not None]
        self._last = max((result.version for _, result in told), default=0)
        # Who wrote a version, and what stood there, is often known: nobody else can have done it.
        self._followed = {
            result.version
            for call, result in told
            if result.found and call.operation is not Operation.GET
        }
        self._read = {
            result.version: result.value if result.found else None
            for call, result in told
            if call.operation is Operation.GET
        }
        self._seen: set[tuple[int, Register]] = set()

    def run(self, start: Register) -> list[Call] | None:
        stack: list[tuple[int, Register, tuple[object, ...]]] = [(0, start, ())]
        while stack:
            done, register, path = stack.pop()
            done, path, steps = self._settle(done, register, path)
            if done & self._needed == self._needed:
                return _unroll(path)
            if (done, register) in self._seen:
                continue
            self._seen.add((done, register))
            if len(self._seen) > MOST_STATES:
                raise UndecidedError
            # The last one is tried first: those that are done, which their versions decide.
            stack += [(done | 1 << at, after, (path, self._calls[at])) for at, after in steps]
        return None

    def _settle(
        self, done: int, register: Register, path: tuple[object, ...]
    ) -> tuple[int, tuple[object, ...], list[tuple[int, Register]]]:
        """Take all calls that may come next and change nothing; return the others that may."""
        while True:
            steps = []
            settled = False
            for at in self._next(done):
                call = self._calls[at]
                after, told = carry_out(call, register)
                if call.told is not None and call.told != told:
                    continue
                if after != register:
                    if call.told is not None or self._may_follow(register, after, call):
                        steps.append((at, after))
                elif call.ended_s < NEVER:
                    done |= 1 << at
                    path = (path, call)
                    settled = True
            if not settled:
                steps.sort(key=lambda step: self._calls[step[0]].ended_s, reverse=True)
                return done, path, steps

    def _may_follow(self, register: Register, after: Register, call: Call) -> bool:
        """Return whether a write that nobody was told of may be the next one."""
        return (
            register.version not in self._followed
            and (after.version <= self._last or call.ended_s < NEVER)
            and self._read.get(after.version, after.value) == after.value
        )

    def _next(self, done: int) -> list[int]:
        """Return the calls that began before any call that is not done yet has ended."""
        found = []
        first_end_s = NEVER
        at = (~done & (done + 1)).bit_length() - 1  # the lowest that is not done
        for later in range(at, len(self._calls)):
            call = self._calls[later]
            if call.called_s > first_end_s:
                break
            if not done >> later & 1:
                found.append(later)
                first_end_s = min(first_end_s, call.ended_s)
        return found


def _unroll(path: tuple[object, ...]) -> list[Call]:
    order = []
    while path:
        path, call = path  # type: ignore[assignment]
        assert isinstance(call, Call)
        order.append(call)
    return order[::-1]


def explain_disorder(transactions: Sequence[Transaction]) -> str | None:
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
        self.fault: str | None = None
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
        for transaction in transactions:
            for call in transaction.calls:
                if call.told is not None and call.operation is Operation.GET:
                    self._look(call, call.told)
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
                self.fault = f"{call} met another version"
        else:
            self._readers[call.key][version].append(at)
        self._last[call.key] = max(self._last[call.key], version)

    def _write(self, at: int, call: Call, version: int) -> None:
        other = self._writers[call.key].setdefault(version, at)
        if other != at:
            one, two = self._transactions[other], self._transactions[at]
            self.fault = f"two wrote version {version} of {call.key!r}: {one} and {two}"
        self._last[call.key] = max(self._last[call.key], version)

    def _look(self, call: Call, told: Result) -> None:
        """Find the writer of what a get was told."""
        if not told.found:
            return
        writer = self._by_value.get((call.key, told.value))
        if writer is None:
            self.fault = f"{call} met a value that nobody wrote"
            return
        if self._transactions[writer].ended_s == NEVER:
            self._seen.add(writer)
            self._write(writer, call, told.version)
        elif self._writers[call.key].get(told.version) != writer:
            self.fault = f"{call} met another value than was written"

    def _place_seen(self) -> None:
        """Check that there is a version on each key of a transaction that was seen on one."""
        for at in self._seen:
            for call in self._transactions[at].calls:
                writers = self._writers[call.key]
                if at in writers.values():
                    continue
                free = [one for one in range(1, self._last[call.key] + 1) if one not in writers]
                if not free:
                    self.fault = f"half done, not on {call.key!r}: {self._transactions[at]}"
                elif len(free) == 1:
                    self._write(at, call, free[0])


def _find_circle(
    transactions: Sequence[Transaction], edges: Iterable[tuple[int, int]]
) -> str | None:
    """Return a description of transactions that would each have to come before the other."""
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
    return "each before the next, in a circle: " + ", ".join(
        str(transactions[at]) for at in circle if at < count
    )


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
