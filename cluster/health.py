"""What servers tell of themselves: are all ranges served, is anything lost?"""

from collections.abc import Iterable, Mapping
from typing import Any

from rdht.ring import layout
from rdht.roster import Roster

_SERVING, _LOST = "serving", "lost"
Figures = Mapping[str, Any]  # what `python -m rdht status` prints of a server


def describe_ranges(figures: Figures) -> str | None:
    """Return how a server's ranges are: "2 serving", or those that are not served; None if untold.

    A server that promises nothing any more, because its disk failed, is UNSAFE.
    """
    modes = {number: one["mode"] for number, one in figures.get("ranges", {}).items()}
    if not modes:
        return None
    parts = [
        f"range {number} {mode.upper() if mode == _LOST else mode}"
        for number, mode in modes.items()
        if mode != _SERVING
    ]
    if len(parts) < len(modes):
        parts.insert(0, f"{len(modes) - len(parts)} serving")
    return ", ".join(["UNSAFE"] * bool(figures.get("unsafe")) + parts)


def all_served(figures: Mapping[str, Figures]) -> bool:
    """Tell whether all servers that told of themselves serve all their ranges."""
    told = [one for row in figures.values() for one in row.get("ranges", {}).values()]
    return all(one["mode"] == _SERVING for one in told)


def lost_ranges(servers: Roster, figures: Mapping[str, Figures]) -> dict[str, list[str]]:
    """Return each range that a server calls lost, with the two servers that held it."""
    numbers = {
        int(number)
        for one in figures.values()
        for number, told in one.get("ranges", {}).items()
        if told["mode"] == _LOST
    }
    places = layout(servers)
    return {str(number): list(places[number]) for number in sorted(numbers)}


def unsafe_servers(figures: Mapping[str, Figures]) -> list[str]:
    """Return the servers whose disk failed."""
    return sorted(name for name, one in figures.items() if one.get("unsafe"))


def all_told(figures: Mapping[str, Figures], servers: Iterable[str]) -> bool:
    """Tell whether all servers told of themselves."""
    return all(figures.get(name, {}).get("ranges") for name in servers)


def unsettled(figures: Mapping[str, Figures], servers: Iterable[str]) -> list[str] | None:
    """Return a line for each of the servers on which keys are locked or transactions in doubt.

    While one is away, or not yet back, what it has voted on waits for it: then it is None.
    """
    if not all_told(figures, servers) or not all_served(figures):
        return None
    return [
        f"server {name}: {one['locks']} keys locked, {one['in_doubt']} transactions in doubt"
        for name, one in figures.items()
        if one.get("locks") or one.get("in_doubt")
    ]


def problems(lost: Mapping[str, list[str]], unsafe: list[str]) -> list[str]:
    """Return a line for each thing that makes a run worthless."""
    return [
        f"range {number} is LOST: both its servers, {' and '.join(pair)}, came back with nothing"
        for number, pair in lost.items()
    ] + [
        f"server {name} is unsafe: its disk failed, and it promises nothing more (fab tail)"
        for name in unsafe
    ]
