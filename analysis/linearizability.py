"""Whether what was done to one key could have been done one by one: get, put, add, delete and cas.

`find_order` first tries what takes no search (`analysis.shortcuts`). Then it is the search of Wing
and Gong, "Testing and verifying concurrent objects" (1993), with Lowe's memory of the places where
it has been, "Testing for linearizability" (2017).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from analysis.register import NEVER, Call, Register, carry_out
from analysis.shortcuts import is_impossible, order_by_versions
from rdht.messages import Operation
from rdht.parts import Result

MOST_STATES = 100_000  # of one search, beside one a call
_MEETING = {Operation.GET, Operation.PUT, Operation.CAS}


class UndecidedError(Exception):
    """So many calls of unknown outcome that the search was given up."""


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
    if has_versions and (order := order_by_versions(calls, start)) is not None:
        return order
    if is_impossible(calls, start, has_versions=has_versions):
        return None
    return _Search(calls, start, has_versions=has_versions).run(start)


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

    def __init__(self, calls: Sequence[Call], start: Register, *, has_versions: bool) -> None:
        self._has_versions = has_versions
        by_begin = sorted(calls, key=lambda call: call.called_s)
        self._calls = [call for call in by_begin if call.ended_s < NEVER]
        # Those that need not have had an effect matter only for what they wrote.
        self._open = [
            call
            for call in by_begin
            if call.ended_s == NEVER and call.operation is not Operation.GET
        ]
        told = [(call, call.told) for call in self._calls if call.told is not None]
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
        values = {call.expected for call in by_begin if call.expected is not None}
        values |= {result.value for call, result in told if call.operation is Operation.GET}
        self._kinds = [_kind(call, values) for call in self._open]
        self._only = _only(by_begin, self._read, start) if has_versions else {}
        # Of gets, puts and cas that succeeded nobody can tell that a value was there which none of
        # them met: so what wrote it need not have been.
        self._met: set[bytes] | None = None
        if all(
            call.operation in _MEETING and (result.found or call.operation is Operation.GET)
            for call, result in told
        ):
            self._met = values

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
        if register.version not in self._followed:
            steps = [*self._unknown_steps(at, done, taken, register, first_end_s), *steps]
        return _Place(at, done, taken, register), path, steps

    def _unknown_steps(
        self, at: int, done: int, taken: int, register: Register, first_end_s: float
    ) -> Iterator[tuple[_Place, Call]]:
        """Yield the calls of unknown outcome that may come next and have an effect."""
        tried = set()
        for number, (call, kind) in enumerate(zip(self._open, self._kinds, strict=True)):
            if call.called_s > first_end_s:
                return
            if taken >> number & 1 or kind in tried:
                continue
            tried.add(kind)  # those of one kind might as well change places: the first will do
            after, right = self._carry_out(call, register)
            if call.told is not None and not self._fits(call.told, right):
                continue
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
        only = self._only.get(after.value)
        if only is not None and after.version not in only:
            return False  # it would have to be written again, where it was met
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


def _kind(call: Call, met: set[bytes]) -> tuple[object, ...]:
    """Return what tells a call of unknown outcome from others, if only these values are met."""
    value = call.value if call.value in met else None
    return call.operation, value, call.version, call.expected, call.told


def _only(
    calls: Sequence[Call], read: Mapping[int, bytes | None], start: Register
) -> dict[bytes | None, set[int]]:
    """Return the versions at which values were met that only one call has written."""
    writes = Counter(call.value for call in calls if call.value)
    only: dict[bytes | None, set[int]] = {}
    for version, value in read.items():
        if value and writes[value] == 1 and value != start.value:
            only.setdefault(value, set()).add(version)
    return only


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
