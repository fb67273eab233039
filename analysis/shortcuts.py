"""What tells without a search whether the calls on one key have an order, for most histories.

`order_by_versions` tries one order and checks it; `is_impossible` looks for what no order has. Each
takes little more than the time to sort the calls, and where neither knows, only a search does.
"""

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from analysis.register import NEVER, Call, Register, carry_out
from rdht.messages import Operation
from rdht.parts import Result

_GET, _PUT, _ADD, _DELETE = Operation.GET, Operation.PUT, Operation.ADD, Operation.DELETE
_Value = bytes | None


def order_by_versions(calls: Sequence[Call], start: Register) -> list[Call] | None:
    """Return an order that explains what was told, if the one by versions does.

    Versions of which it is not sure who wrote them are given to calls that were told nothing, or
    that need not have had an effect.
    """
    rows = [
        (told.version, told.found and call.operation is not _GET, call.called_s, at)
        for at, call in enumerate(calls)
        if (told := call.told) is not None and call.ended_s < NEVER
    ]
    rows.sort()
    spare = _Spare(calls) if len(rows) < len(calls) else None
    order: list[Call] = []
    register = start
    for version, _, _, at in rows:
        while register.version < version:
            filler = spare.take(register) if spare else None
            if filler is None:
                return None
            order.append(filler)
            register, _ = carry_out(filler, register)
        call = calls[at]
        register, told = carry_out(call, register)
        if told != call.told:
            return None
        order.append(call)
    if spare:
        order += spare.owed()
    return order if _is_in_time(order) else None


def _is_in_time(order: Sequence[Call]) -> bool:
    begun_s = -NEVER
    for call in order:
        if call.ended_s < begun_s:
            return False
        begun_s = max(begun_s, call.called_s)
    return True


class _Spare:
    """The calls that nobody knows what they wrote of, to fill the gaps that the others leave."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._is_there: dict[int, bool] = {}
        self._met: dict[int, _Value] = {}
        for call in calls:
            told = call.told
            if told is not None and call.ended_s < NEVER:
                there = was_there(call, told)
                if there is not None:
                    self._is_there[told.version] = there
                if call.operation is _GET:
                    self._met[told.version] = told.value if told.found else None
        wanted = set(self._met.values())
        unsure = [call for call in calls if _is_unsure(call)]
        # What has certainly taken effect comes before what need not have.
        unsure.sort(key=lambda call: (call.ended_s, call.called_s))
        self._placed: dict[int, list[Call]] = defaultdict(list)
        self._wanted: dict[_Value, list[Call]] = defaultdict(list)
        self._others: list[Call] = []
        for call in unsure:
            value = _written(call)
            if call.told is not None:
                self._placed[_after(call, call.told)].append(call)
            elif value in wanted:
                self._wanted[value].append(call)
            else:
                self._others.append(call)

    def take(self, register: Register) -> Call | None:
        """Return a call that may have written the next version."""
        version = register.version + 1
        rows = [self._others, *self._wanted.values()]
        if version in self._met:
            rows = [self._wanted[self._met[version]]]
        for row in (self._placed[version], *rows):
            for at, call in enumerate(row):
                after, told = carry_out(call, register)
                if after is register or call.told not in (None, told):
                    continue
                there = after.value is not None
                if (
                    self._is_there.get(version, there) == there
                    and self._met.get(version, after.value) == after.value
                ):
                    return row.pop(at)
        return None

    def owed(self) -> list[Call]:
        """Return those that were not taken, though they have ended."""
        rows = itertools.chain(self._others, *self._wanted.values())
        return sorted((call for call in rows if call.ended_s < NEVER), key=lambda one: one.called_s)


def _written(call: Call) -> _Value:
    return None if call.operation is _DELETE else call.value


def _after(call: Call, told: Result) -> int:
    return told.version + (told.found and call.operation is not _GET)


def was_there(call: Call, told: Result) -> bool | None:
    """Return whether a value stood where a call was told of; None if it was not told that."""
    if call.operation in (_GET, _DELETE):
        return told.found
    return not told.found if call.operation is _ADD else None


def _is_unsure(call: Call) -> bool:
    """Return whether a call may have had an effect, but it is not known which."""
    return call.operation is not _GET and (call.told is None or call.ended_s == NEVER)


def is_impossible(calls: Sequence[Call], start: Register, *, has_versions: bool) -> bool:
    """Return whether something shows that there is no order; if not, there may be none as well."""
    if has_versions:
        return _Versions(calls, start).are_impossible()
    return _cannot_stand(calls, start)


class _Versions:
    """What was told of each version of a key."""

    def __init__(self, calls: Sequence[Call], start: Register) -> None:
        self._start = start
        self._told = [
            (call, call.told) for call in calls if call.told is not None and call.ended_s < NEVER
        ]
        self._unsure = [call for call in calls if _is_unsure(call)]

    def are_impossible(self) -> bool:
        return self._go_back() or self._differ() or self._are_too_many()

    def _go_back(self) -> bool:
        """Return whether a call met an older version than one that had ended before it began."""
        ends = sorted((call.ended_s, _after(call, told)) for call, told in self._told)
        at, least = 0, self._start.version
        for called_s, version in sorted((call.called_s, told.version) for call, told in self._told):
            while at < len(ends) and ends[at][0] < called_s:
                least = max(least, ends[at][1])
                at += 1
            if version < least:
                return True
        return False

    def _differ(self) -> bool:
        """Return whether two calls say different things of one version."""
        is_there = {self._start.version: self._start.value is not None}
        values = {self._start.version: self._start.value}
        self._written = {self._start.version}
        for call, told in self._told:
            operation, version = call.operation, told.version
            if operation is _GET:
                value = told.value if told.found else None
                if values.setdefault(version, value) != value:
                    return True
            elif told.found:
                after = version + 1
                if after in self._written:
                    return True
                self._written.add(after)
                value = _written(call)
                if values.setdefault(after, value) != value or is_there.setdefault(
                    after, value is not None
                ) != (value is not None):
                    return True
            there = was_there(call, told)
            if there is not None and is_there.setdefault(version, there) != there:
                return True
        self._values = values
        return False

    def _are_too_many(self) -> bool:
        """Return whether fewer calls can have written than there are versions nobody was told of.

        `_differ` comes BEFORE: it notes what was written.
        """
        first = self._start.version
        last = max((_after(call, told) for call, told in self._told), default=first)
        if last - first > len(self._told) + len(self._unsure):
            return True
        due_s = self._due_s()
        gaps = [at for at in range(first + 1, last + 1) if at not in self._written]
        begun_s = sorted(call.called_s for call in self._unsure)
        of_value_s: dict[_Value, float] = {}
        for call in self._unsure:
            value = _written(call)
            of_value_s[value] = min(of_value_s.get(value, NEVER), call.called_s)
        return any(
            bisect.bisect_right(begun_s, due_s[version]) <= number
            or (
                version in self._values
                and of_value_s.get(self._values[version], NEVER) > due_s[version]
            )
            for number, version in enumerate(gaps)
        )

    def _due_s(self) -> dict[int, float]:
        """Return for each version when the first call ended that met it or a later one."""
        due_s: dict[int, float] = {}
        for call, told in self._told:
            for version in (told.version, _after(call, told)):
                due_s[version] = min(due_s.get(version, NEVER), call.ended_s)
        earliest_s = NEVER
        first = self._start.version
        for version in range(max(due_s, default=first), first, -1):
            earliest_s = min(earliest_s, due_s.get(version, NEVER))
            due_s[version] = earliest_s
        return due_s


class _Stand(NamedTuple):
    """Of a value that was written once: the last call that needs it began, the first ended."""

    begun_s: float
    ended_s: float


def _cannot_stand(calls: Sequence[Call], start: Register) -> bool:
    """Return whether two values had to stand at one time, each of which was written once only.

    These are the zones of Gibbons and Korach, "Testing shared memories" (1997): where the first of
    the calls that need a value ends before the last begins, it stood there all the time between.
    """
    stands = _stands(calls, start)
    if stands is None:
        return True
    long = sorted((one.ended_s, one.begun_s) for one in stands if one.ended_s < one.begun_s)
    if any(one[1] > other[0] for one, other in itertools.pairwise(long)):
        return True
    begins = [one[0] for one in long]
    for begun_s, ended_s in stands:
        at = bisect.bisect_left(begins, begun_s) - 1
        if begun_s <= ended_s and at >= 0 and ended_s < long[at][1]:
            return True
    return False


def _stands(calls: Sequence[Call], start: Register) -> list[_Stand] | None:
    """Return where the values stood that were written once; None if one was met too early."""
    writers: dict[bytes, list[Call]] = defaultdict(list)
    readers: dict[bytes, list[Call]] = defaultdict(list)
    for call in calls:
        if call.operation is _GET:
            if call.told and call.told.found and call.ended_s < NEVER:
                readers[call.told.value].append(call)
            continue
        if call.operation is not _DELETE and (call.told is None or call.told.found):
            writers[call.value].append(call)
        if call.expected is not None and call.told and call.told.found and call.ended_s < NEVER:
            readers[call.expected].append(call)
    if any(value not in writers and value != start.value for value in readers):
        return None
    stands = []
    for value, (writer, *others) in writers.items():
        met = readers.get(value, ())
        if others or value == start.value or not (met or _has_written(writer)):
            continue
        if any(call.ended_s < writer.called_s for call in met):
            return None
        all_of_it: Iterable[Call] = (writer, *met)
        stands.append(
            _Stand(
                max(call.called_s for call in all_of_it), min(call.ended_s for call in all_of_it)
            )
        )
    return stands


def _has_written(call: Call) -> bool:
    if call.ended_s == NEVER:
        return False
    return call.operation is _PUT if call.told is None else call.told.found
