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
MOST_STATES = 100_000  # of one search, beside one a call
_MEETING = {Operation.GET, Operation.PUT, Operation.CAS}


class UndecidedError(Exception):
    """So many calls of unknown outcome that the search was given up."""


class Register(NamedTuple):
    """What stands at a key."""

    value: bytes | None = None
    version: int = 0


class Call(NamedTuple):
    """One operation on one key, and what came back; None of that which is not known.

    A cas expects `version`, or a value where tables without versions are judged: `expected`.
    """

    key: bytes
    operation: Operation
    called_s: float
    ended_s: float = NEVER
    value: bytes = b""
    version: int = 0
    told: Result | None = None
    process: str = ""
    expected: bytes | None = None


class Transaction(NamedTuple):
    """Calls that were one command; they share their times, and have all been told or none."""

    calls: tuple[Call, ...]

    @property
    def called_s(self) -> float:
        """When all of it began."""
        return self.calls[0].called_s

    @property
    def ended_s(self) -> float:
        """When all of it had ended."""
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
    elif call.expected is not None:
        found = value == call.expected
    else:
        found = version == call.version
    if not found:
        return before, Result(found, version)
    written = None if operation is Operation.DELETE else call.value
    return Register(written, version + 1), Result(found, version)


def find_order(
    calls: Sequence[Call],
    start: Register = Register(),  # noqa: B008 - immutable
    *,
    has_versions: bool = True,
) -> list[Call] | None:
    """Return an order of the calls on one key that explains what they were told, if there is one.

    Calls without an end need not have taken effect, and are left out of it then. Without versions
    those of what was told are not looked at. Raises UndecidedError after MOST_STATES.
    """
    return _Search(calls, has_versions=has_versions).run(start)


class _Place(NamedTuple):
    """How far a search is: what was done, and what stands at the key then.

    `at` is the first call that is not done, `done` has a bit for each after it, from the lowest on,
    and `taken` one for each call of unknown outcome.
    """

    at: int
    done: int
    taken: int
    register: Register


class _Search:
    """The search for an order of the calls on one key.

    Those that had an effect for certain are sorted by when they began. So all that was done is told
    by a number and a few bits, however long the history is; and the others hold nothing up.
    """

    def __init__(self, calls: Sequence[Call], *, has_versions: bool) -> None:
        self._has_versions = has_versions
        by_begin = sorted(calls, key=lambda call: call.called_s)
        self._calls = [call for call in by_begin if call.ended_s < NEVER]
        # Those that need not have had an effect matter only for what they wrote.
        writes = [
            call
            for call in by_begin
            if call.ended_s == NEVER and call.operation is not Operation.GET
        ]
        self._open = [call for call in writes if call.told is None]
        self._placed = {call.told.version: call for call in writes if call.told is not None}
        told = [(call, call.told) for call in by_begin if call.told is not None]
        # Who wrote a version, and what stood there, is often known: nobody else can have done it.
        self._followed: set[int] = set()
        self._read: dict[int, bytes | None] = {}
        self._last: float = NEVER
        if has_versions:
            self._last = max((result.version for _, result in told), default=0)
            for call, result in told:
                if call.operation is Operation.GET:
                    self._read[result.version] = result.value if result.found else None
                elif result.found:
                    self._followed.add(result.version)
        # Of gets, puts and cas that succeeded nobody can tell that a value was there which none of
        # them met: so what wrote it need not have been.
        self._met: set[bytes] | None = None
        if all(
            call.operation in _MEETING and (result.found or call.operation is Operation.GET)
            for call, result in told
        ):
            self._met = {call.expected for call in by_begin if call.expected is not None}
            self._met |= {result.value for _, result in told if result.found}

    def run(self, start: Register) -> list[Call] | None:
        seen: set[_Place] = set()
        stack: list[tuple[_Place, tuple[object, ...]]] = [(_Place(0, 0, 0, start), ())]
        while stack:
            place, path = stack.pop()
            place, path, steps = self._settle(place, path)
            if place.at == len(self._calls):
                return _unroll(path)
            if place in seen:
                continue
            seen.add(place)
            if len(seen) > MOST_STATES + len(self._calls):
                raise UndecidedError
            # The last one is tried first: the one that ended first, as it most likely was.
            stack += [(after, (path, call)) for after, call in steps]
        return None

    def _settle(
        self, place: _Place, path: tuple[object, ...]
    ) -> tuple[_Place, tuple[object, ...], list[tuple[_Place, Call]]]:
        """Take all calls that may come next and change nothing; return the others that may."""
        at, done, taken, register = place
        while True:
            is_settled = True
            steps: list[tuple[_Place, Call]] = []
            first_end_s = NEVER
            for later, call in self._next(at, done):
                first_end_s = min(first_end_s, call.ended_s)
                after, told = self._carry_out(call, register)
                if call.told is not None and not self._fits(call.told, told):
                    continue
                bit = 1 << later - at
                changes = after is not register
                if changes or call.told is None:  # told nothing, it may have an effect later
                    if not changes or call.told or self._may_follow(register, after, call):
                        steps.append((self._place(at, done | bit, taken, after), call))
                    continue
                path = (path, call)
                done |= bit
                is_settled = False
            at, done = _normal(at, done)
            if is_settled:
                break
        steps.sort(key=lambda step: step[1].ended_s, reverse=True)
        placed = self._placed.get(register.version)
        if placed is not None and placed.called_s <= first_end_s:
            after, right = self._carry_out(placed, register)
            if after is not register and placed.told == right:
                steps.insert(0, (_Place(at, done, taken, after), placed))
        elif register.version not in self._followed:
            steps = [*self._unknown_steps(at, done, taken, register, first_end_s), *steps]
        return _Place(at, done, taken, register), path, steps

    def _unknown_steps(
        self, at: int, done: int, taken: int, register: Register, first_end_s: float
    ) -> Iterator[tuple[_Place, Call]]:
        """Yield the calls of unknown outcome that may come next and have an effect."""
        for number, call in enumerate(self._open):
            if call.called_s > first_end_s:
                return
            if taken >> number & 1:
                continue
            after, _ = self._carry_out(call, register)
            if after is not register and self._may_follow(register, after, call):
                yield _Place(at, done, taken | 1 << number, after), call

    @staticmethod
    def _place(at: int, done: int, taken: int, register: Register) -> _Place:
        return _Place(*_normal(at, done), taken, register)

    def _carry_out(self, call: Call, register: Register) -> tuple[Register, Result]:
        after, told = carry_out(call, register)
        if after is not register and not self._has_versions:
            after = Register(after.value)
        return after, told

    def _fits(self, told: Result, right: Result) -> bool:
        if self._has_versions:
            return told == right
        return told.found == right.found and told.value == right.value

    def _may_follow(self, register: Register, after: Register, call: Call) -> bool:
        """Return whether a write that nobody was told of may be the next one."""
        if not self._has_versions:
            return (
                call.ended_s < NEVER
                or call.operation is Operation.DELETE
                or self._met is None
                or after.value in self._met
            )
        return (
            register.version not in self._followed
            and (after.version <= self._last or call.ended_s < NEVER)
            and self._read.get(after.version, after.value) == after.value
        )

    def _next(self, at: int, done: int) -> Iterator[tuple[int, Call]]:
        """Yield the calls that began before any call that is not done yet has ended."""
        calls = self._calls
        first_end_s = NEVER
        for later in range(at, len(calls)):
            call = calls[later]
            if call.called_s > first_end_s:
                return
            if not done >> later - at & 1:
                first_end_s = min(first_end_s, call.ended_s)
                yield later, call


def _normal(at: int, done: int) -> tuple[int, int]:
    """Go on to the first call that is not done."""
    more = (~done & done + 1).bit_length() - 1
    return at + more, done >> more


def _unroll(path: tuple[object, ...]) -> list[Call]:
    order = []
    while path:
        path, call = path  # type: ignore[assignment]
        assert isinstance(call, Call)
        order.append(call)
    return order[::-1]


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
