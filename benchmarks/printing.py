"""How benchmarks print their tables."""

import statistics

from rich import box
from rich.console import Console
from rich.table import Table

_WIDTH = 118


def table(*heads: str, title: str | None = None) -> Table:
    """Return an empty table."""
    made = Table(
        box=box.SIMPLE, pad_edge=False, collapse_padding=True, title=title, title_justify="left"
    )
    for head in heads:
        made.add_column(head, no_wrap=True)
    return made


def show(made: Table, *notes: str) -> None:
    """Print a table that has any rows, and notes below it."""
    if made.row_count:
        console = Console(width=_WIDTH)
        for each in (made, *notes):
            console.print(each)


def spread(values: list[float], style: str) -> str:
    """Return the median, and the lowest and the highest."""
    shown = f"{statistics.median(values):{style}}"
    return f"{shown} ({min(values):{style}}-{max(values):{style}})"
