"""The state diagrams in protocol.md, drawn from the tables that the code runs on.

python -m docs.diagrams            draws them anew
python -m docs.diagrams --check    fails if the page does not show the tables as they are
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from rdht import coordinator, transitions

Table = Mapping[Any, tuple[StrEnum, StrEnum]]  # (state, event) to (state, action)

PAGE = Path(__file__).with_name("protocol.md")
TABLES: dict[str, Table] = {
    "participant": transitions.TRANSITIONS,
    "coordinator": coordinator.TRANSITIONS,
}


def draw(table: Table) -> Iterator[str]:
    """Yield the lines of a Mermaid diagram; what leaves a state as it is stands inside it."""
    inside: dict[StrEnum, list[str]] = {}
    arrows: dict[tuple[StrEnum, StrEnum], list[str]] = {}
    for (state, event), (after, action) in table.items():
        text = f"{event.value} / {action.value}"
        lines = inside.setdefault(state, [])
        inside.setdefault(after, [])
        if after is state:
            lines.append(text)
        else:
            arrows.setdefault((state, after), []).append(text)
    yield "stateDiagram-v2"
    for state, lines in inside.items():
        yield from (f"    {state.value} : {line}" for line in [state.name, *lines])
    yield f"    [*] --> {next(iter(inside)).value}"
    for (state, after), lines in arrows.items():
        yield f"    {state.value} --> {after.value} : {'<br/>'.join(lines)}"
    left = {state for state, _ in table}
    yield from (f"    {state.value} --> [*]" for state in inside if state not in left)


def redraw(page: str) -> str:
    """Return the page with its diagrams as they should be."""
    for name, table in TABLES.items():
        before, begin, rest = page.partition(f"<!-- diagram: {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of diagram: {name} -->\n")
        if not end:
            why = f"{PAGE.name} has no place for the diagram of the {name}"
            raise SystemExit(why)
        drawn = "\n".join(["```mermaid", *draw(table), "```", ""])
        page = f"{before}{begin}{drawn}{end}{after}"
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the diagrams, or check them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m docs.diagrams", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(arguments).check
    page = PAGE.read_text(encoding="utf-8")
    drawn = redraw(page)
    if drawn != page and check:
        sys.stderr.write(f"{PAGE.name} is out of date: run `python -m docs.diagrams`\n")
        return 1
    if drawn != page:
        PAGE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
