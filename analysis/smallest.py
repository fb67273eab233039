"""The smallest part of a key's history that shows that it cannot have been.

Nothing is taken away that could turn a good history into a bad one: a write that is left out stays
as one that need not have had an effect, and else may have had it, where it was told to have had it,
at any time from its beginning on.
"""

from collections.abc import Callable, Sequence

from analysis.linearizability import UndecidedError, find_order
from analysis.register import NEVER, Call, Register
from rdht.messages import Operation


def smallest(calls: Sequence[Call], start: Register, *, has_versions: bool = True) -> list[Call]:
    """Return calls of a history that has no order, so few that with one less it may have one.

    They come with the writes whose values they met, of which only when they began counts.
    """

    def is_bad(chosen: Sequence[Call]) -> bool:
        try:
            return find_order(chosen, start, has_versions=has_versions) is None
        except UndecidedError:
            return False

    def loosened(call: Call) -> list[Call]:
        if call.operation is Operation.GET or (call.told and not call.told.found):
            return []
        return [call._replace(ended_s=NEVER, told=call.told if has_versions else None)]

    left = _first_bad(calls, is_bad)
    held = [call for call in left if call.ended_s < NEVER]
    free = [call for call in left if call.ended_s == NEVER]
    size = len(held)
    while size:
        at = 0
        while at < len(held):
            out = [one for call in held[at : at + size] for one in loosened(call)]
            rest = held[:at] + held[at + size :]
            if is_bad([*rest, *free, *out]):
                held, free = rest, [*free, *out]
            else:
                at += size
        size //= 2
    # In the order of all, each as it was: `_first_bad` forgets what was told later.
    chosen = {(call.process, call.called_s) for call in [*held, *_met(free, held)]}
    found = [call for call in calls if (call.process, call.called_s) in chosen]
    return sorted(found, key=lambda call: call.called_s)


def _first_bad(calls: Sequence[Call], is_bad: Callable[[Sequence[Call]], bool]) -> Sequence[Call]:
    """Return the shortest beginning of a bad history that is bad, as it was known then."""

    def known_at(time_s: float) -> list[Call]:
        return [
            call if call.ended_s <= time_s else call._replace(ended_s=NEVER, told=None)
            for call in calls
            if call.called_s <= time_s
        ]

    ends_s = sorted({call.ended_s for call in calls if call.ended_s < NEVER})
    low, high = 0, len(ends_s) - 1
    while low < high:
        middle = (low + high) // 2
        if is_bad(known_at(ends_s[middle])):
            high = middle
        else:
            low = middle + 1
    found = known_at(ends_s[high])
    return found if is_bad(found) else calls


def _met(free: Sequence[Call], held: Sequence[Call]) -> list[Call]:
    """Return the writes whose effect the calls that were held have met, each value's last."""
    values = {call.told.value for call in held if call.told and call.told.value}
    values |= {call.expected for call in held if call.expected}
    writers = {call.value: call for call in free if call.value in values}
    return list(writers.values())
