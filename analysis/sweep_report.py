"""A sweep's report: its table and curves as one HTML file that needs nothing else."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from analysis import charts, sweep
from analysis.pictures import Chart
from analysis.plots import Series
from analysis.report import REPORT, draw, moment, render, shown

_MOST_SERIES = 8  # more lines than a chart can tell apart
_Row = dict[str, Any]


class _Curve(NamedTuple):
    what: str
    unit: str
    names: tuple[str, str, str]  # of the middle, the low and the high
    scale: float
    caption: str


_CURVES = (
    _Curve(
        "Throughput",
        "commands/s",
        ("throughput_per_s", "throughput_low", "throughput_high"),
        1.0,
        "The mean of each point's runs, in the band of its 95 % confidence interval.",
    ),
    _Curve(
        "p99 latency",
        "ms",
        ("latency_us_p99", "latency_us_p99_least", "latency_us_p99_most"),
        1e-3,
        "What one command in a hundred of each point was slower than, in the band of its runs.",
    ),
)


def write(folder: Path, *, tables: bool = False) -> list[Path]:
    """Assemble a sweep and draw it; return the files that were written, report.html first."""
    plan, rows = sweep.assemble(folder)
    parts = {name: [row for row in rows if row["part"] == name] for name in plan["parts"]}
    drawn = [
        chart
        for name, axes in plan["parts"].items()
        for chart in sweep_charts(name, sweep.varied(axes), parts[name])
    ]
    sections, written = draw(drawn, folder, tables=tables)
    document = render(
        "sweep.html.j2",
        plan=plan,
        verdict=verdict(plan, rows),
        facts=_facts(plan),
        parts=[_part(name, plan["parts"][name], rows) for name, rows in parts.items()],
        sections=sections,
    )
    (folder / REPORT).write_text(document, encoding="utf-8")
    return [folder / REPORT, *written]


def _part(name: str, axes: dict[str, list[Any]], rows: list[_Row]) -> dict[str, Any]:
    """Return what the page shows of one of a sweep's parts in its table."""
    varied = sweep.varied(axes)
    return {
        "name": name,
        "varied": [option.replace("_", " ") for option in varied],
        "rows": [{**row, "values": [shown(row[option]) for option in varied]} for row in rows],
    }


def sweep_charts(part: str, varied: Sequence[str], rows: Sequence[_Row]) -> list[Chart]:
    """Return, for each thing that has several values, throughput and p99 latency over it."""
    if not rows:
        return []
    return [
        charts.sweep_curves(
            f"{f'{part}: ' * bool(part)}{curve.what.lower() if part else curve.what}"
            f" and {axis.replace('_', ' ')}",
            axis.replace("_", " "),
            curve.unit,
            _series(axis, [name for name in varied if name != axis], rows, curve),
            curve.caption,
        )
        for axis in varied
        for curve in _CURVES
    ]


def _series(axis: str, others: list[str], rows: Sequence[_Row], curve: _Curve) -> list[Series]:
    """Return a line for each choice of the other values, or one of all if these are too many."""
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        label = ", ".join(f"{name.replace('_', ' ')} {shown(row[name])}" for name in others)
        groups.setdefault(label or "all runs", []).append(row)
    if len(groups) > _MOST_SERIES:
        groups = {"mean of all others, from the least to the most": list(rows)}
    return [
        (label, [_point(x, [row for row in group if row[axis] == x], curve) for x in places])
        for label, group in groups.items()
        if (places := list(dict.fromkeys(row[axis] for row in group)))
    ]


def _point(x: Any, rows: Sequence[_Row], curve: _Curve) -> tuple[Any, float, float, float]:
    """Return a value with the middle, the low and the high of what was run with it."""
    ends = [row[name] for row in rows for name in curve.names if row[name] is not None] or [0.0]
    middle = fmean(row[curve.names[0]] or 0 for row in rows)
    place = shown(x) if isinstance(x, bool) else x
    return place, curve.scale * middle, curve.scale * min(ends), curve.scale * max(ends)


def verdict(plan: dict[str, Any], rows: Sequence[_Row]) -> dict[str, Any]:
    """Return how sure a sweep is: `level` (good, doubtful, bad), `text`, and the reasons."""
    points = len(plan["points"])
    unsure = sum(not point["is_sure"] for point in plan["points"])
    doubtful = sum(row["doubtful"] for row in rows)
    within = f"to within {plan['precision']:.0%} of the mean"
    reasons = [f"a run that does not count: {why}" for why in plan["failures"]]
    if doubtful:
        reasons.append(f"{doubtful} runs have marks that make them doubtful: see their reports")
    if not plan["ended"]:
        return {"level": "bad", "text": "The sweep has not ended.", "reasons": reasons}
    if unsure:
        most = f"after {plan['repeat']} runs"
        text = f"{unsure} of {points} points are not known {within} {most}."
        return {"level": "doubtful", "text": text, "reasons": reasons}
    text = f"All {points} points are known {within}."
    return {"level": "doubtful" if doubtful else "good", "text": text, "reasons": reasons}


def _facts(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what was the same in all runs, each with its name."""
    fixed = {
        name: values[0]
        for axes in plan["parts"].values()
        for name, values in axes.items()
        if len(values) == 1
    }
    return [
        ("cluster", plan["cluster"]),
        ("release", plan["release"]),
        ("started", moment(plan["started"])),
        ("ended", moment(plan["ended"]) if plan["ended"] else "not yet"),
        ("between runs", plan["between_runs"]),
        *((name.replace("_", " "), shown(value)) for name, value in fixed.items()),
    ]
