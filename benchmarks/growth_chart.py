"""Curves → one picture: small panels with log scales, and in each how its curves grow."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.pictures import BLUE, INK, ORANGE, Chart
from benchmarks.growth import Axis, Curves

_PANEL_IN = (2.3, 2.2)
_ROOM = 1.35  # times the logarithmic height of the curves: above them stand the exponents
_LEAST_SPAN = 3.0  # of an axis, so that what is flat looks flat
_DECADES = 2.7  # with more, only powers of ten are named
_LINE = 0.12  # of a panel's height
_WHOLE = "-"
_DASHES = (0, (3, 1.5))


class Line(NamedTuple):
    """A quantity in a panel."""

    quantity: str
    label: str  # "": it is the only one, or of another's colour
    colour: str = BLUE
    dashes: str | tuple[int, tuple[float, float]] = _WHOLE  # others have no band


Panel = tuple[str, list[Line]]  # what is measured, with its unit
_LOADS: list[Panel] = [
    ("commands/s", [Line("commands/s", "")]),
    ("CPU µs of a command", [Line("CPU µs", "")]),
    (
        "latency in ms: median, 99 % (dashed)",
        [
            Line("get p50 ms", "get"),
            Line("put p50 ms", "put", ORANGE),
            Line("get p99 ms", "", BLUE, _DASHES),
            Line("put p99 ms", "", ORANGE, _DASHES),
        ],
    ),
]
_HELD: list[Panel] = [
    ("bytes of memory a key", [Line("bytes a key", "ours"), Line("Redis's", "Redis", ORANGE)]),
    ("s to start from the disk", [Line("start-up s", "")]),
    ("s to write a snapshot", [Line("snapshot s", "")]),
    ("s to come back from the other", [Line("rejoin s", "")]),
    ("share of the link meanwhile", [Line("of the link", "")]),
]


def chart(curves: Curves, axes: Sequence[Axis]) -> Chart:
    """Return the picture of all curves."""
    told = [
        f"{quantity} over {axis.title} as n^{found.exponent:.2f}"
        for axis in axes
        for quantity in axis.quantities
        if (found := curves.get((axis.name, quantity)))
    ]
    rows = [
        {"axis": axis, "quantity": quantity, **point._asdict()}
        for (axis, quantity), found in curves.items()
        for point in found.points
    ]
    return Chart(
        "scale",
        "How cost grows",
        "Median of the rounds, and from the lowest to the highest; n^k by least squares, and "
        "between the last two points.",
        f"{'; '.join(told)}.",
        rows,
        partial(_draw, curves=curves, axes=axes),
    )


def _draw(figure: Figure, curves: Curves, axes: Sequence[Axis]) -> None:
    """Draw a column an axis that is about load, and a row below of what keys take."""
    loads = [axis for axis in axes if "commands/s" in axis.quantities]
    helds = [axis for axis in axes if axis not in loads]
    down = len(_LOADS) * bool(loads) + len(helds)
    across = max(len(loads), len(_HELD) * bool(helds))
    figure.set_size_inches(_PANEL_IN[0] * across, _PANEL_IN[1] * down)
    grid = figure.subplots(down, across, squeeze=False)
    for panel in grid.flat:
        panel.set_axis_off()
    for row, (unit, lines) in enumerate(_LOADS if loads else []):
        for column, axis in enumerate(loads):
            _panel(grid[row, column], axis, lines, curves)
            grid[row, column].set_title("" if column else unit)
        _share(list(grid[row, : len(loads)]))
    for row, axis in enumerate(helds, down - len(helds)):
        for column, (unit, lines) in enumerate(_HELD):
            _panel(grid[row, column], axis, lines, curves)
            grid[row, column].set_title(unit)


def _panel(axes: Axes, axis: Axis, lines: list[Line], curves: Curves) -> None:
    axes.set_axis_on()
    found = [
        (line, curves[axis.name, line.quantity])
        for line in lines
        if (axis.name, line.quantity) in curves
    ]
    for line, one in found:
        xs, medians, lows, highs = zip(*one.points, strict=True)
        if line.dashes == _WHOLE:
            axes.fill_between(xs, lows, highs, color=line.colour, alpha=0.18, lw=0)
        axes.plot(xs, medians, color=line.colour, ls=line.dashes, lw=1.6, marker="o", ms=3)
    told = [(line, one) for line, one in found if line.label or len(lines) == 1]
    for number, (line, one) in enumerate(told):
        grows = f"$n^{{{one.exponent:.2f}}}$, at the end $n^{{{one.last_exponent:.2f}}}$"
        axes.text(
            *(0.04, 0.98 - _LINE * number, f"{line.label} {grows}".strip()),
            transform=axes.transAxes,
            va="top",
            color=line.colour if len(told) > 1 else INK,
            parse_math=True,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(axis.values, [_short(x) for x in axis.values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(axis.title)
    _limit(axes, [value for _, one in found for point in one.points for value in point[1:]])


def _limit(axes: Axes, values: Sequence[float]) -> None:
    """Have room above for words; name round figures."""
    low, high = min(values) / 1.15, max(values) * 1.15
    stretch = max(1.0, _LEAST_SPAN / (high / low)) ** 0.5
    low, high = low / stretch, high * stretch
    axes.set_ylim(low, low * (high / low) ** _ROOM)
    _ticks(axes)


def _ticks(axes: Axes) -> None:
    low, high = axes.get_ylim()
    few = math.log10(high / low) > _DECADES
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _share(row: Sequence[Axes]) -> None:
    """Give panels of one unit one scale, named at the first."""
    limits = [axes.get_ylim() for axes in row]
    for number, axes in enumerate(row):
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        _ticks(axes)
        if number:
            axes.tick_params(axis="y", labelleft=False)


def _short(value: int) -> str:
    """Return a number that fits below a tick."""
    for unit, size in (("M", 1_000_000), ("Ki", 1024), ("k", 1000)):
        if value % size == 0:
            return f"{value // size}{unit}"
    return str(value)
