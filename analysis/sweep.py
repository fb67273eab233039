"""A sweep's runs → a row a point, with how sure it is."""

import csv
import json
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

from analysis import intervals
from analysis.summary import PERCENTILES, read_run
from rdht.errors import ConfigurationError
from rdht.records import merged

STATE = "sweep.json"  # as cluster/sweeps.py writes it
POINTS = "points.csv"
FEWEST_REPEATS = 3  # of two, an interval is narrow by chance too often
FIGURES = [
    "runs",
    "throughput_per_s",
    "throughput_low",
    "throughput_high",
    *(f"latency_us_{name}" for name in PERCENTILES),
    "latency_us_p99_least",
    "latency_us_p99_most",
    "conflicts_share",
    "bound_share",
    "limit",
    "doubtful",
]


def figure(summary: dict[str, Any]) -> float:
    """Return what a point's repeats must agree on: throughput; at a fixed rate, p99 latency."""
    if summary["target_rate_per_s"]:
        return float(summary["latency_us"]["p99"] or 0)
    return float(summary["throughput_per_s"])


def is_sure(figures: list[float], precision: float) -> bool:
    """Tell whether the mean of a point's repeats is known to within a share of itself.

    It is asked after each run, and the first yes is the last word. So of intervals that are said to
    hold 95 times of 100, 93 do where runs differ by about as much as that share.
    """
    interval = intervals.of_mean(figures)
    if interval is None or len(figures) < FEWEST_REPEATS:
        return False
    return interval[1] - interval[0] <= 2 * precision * fmean(figures)


def assemble(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write a sweep's points.csv; return what was swept, and a row a point that was run.

    A row has the point's part of the sweep, its values and FIGURES. The mean throughput has its
    95 % interval, None of one run. Percentiles are of all runs' merged histograms; of the 99th
    there are also the least and the most that a run had. `limit` is what was full most often, and
    `doubtful` how many runs have a mark.
    """
    plan = _read(folder / STATE)
    rows = [_row(folder, point) for point in plan["points"] if point["runs"]]
    with (folder / POINTS).open("w", newline="", encoding="utf-8") as target:
        options = dict.fromkeys(name for axes in plan["parts"].values() for name in axes)
        writer = csv.DictWriter(target, ["part", *options, *FIGURES])
        writer.writeheader()
        writer.writerows(rows)
    return plan, rows


def _row(folder: Path, point: dict[str, Any]) -> dict[str, Any]:
    runs = [folder / "runs" / name for name in point["runs"]]
    summaries = [_read(run / "summary.json") for run in runs]
    latency = merged(
        thread.latency() for run in runs for row in read_run(run) for thread in row.record.threads
    )
    rates = [summary["throughput_per_s"] for summary in summaries]
    slowest = [summary["latency_us"]["p99"] or 0 for summary in summaries]
    shares = [summary["bound"]["share"] for summary in summaries if summary["bound"]]
    low, high = intervals.of_mean(rates) or (None, None)
    commands = sum(summary["commands"] for summary in summaries)
    return {
        "part": point["part"],
        **point["values"],
        "runs": len(runs),
        "throughput_per_s": round(fmean(rates), 1),
        "throughput_low": low and round(low, 1),
        "throughput_high": high and round(high, 1),
        **{f"latency_us_{name}": latency.percentile(p) for name, p in PERCENTILES.items()},
        "latency_us_p99_least": min(slowest),
        "latency_us_p99_most": max(slowest),
        "conflicts_share": sum(row["conflicts"] for row in summaries) / commands if commands else 0,
        "bound_share": round(fmean(shares), 4) if shares else None,
        "limit": Counter(summary["limit"] for summary in summaries).most_common(1)[0][0],
        "doubtful": sum(bool(summary["marks"]) for summary in summaries),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        more = "bring it back, or move the sweep's folder away and begin anew"
        why = f"{path} cannot be read ({error}): {more}"
        raise ConfigurationError(why) from error
    return document


def varied(axes: dict[str, list[Any]]) -> list[str]:
    """Return the names of what has several values."""
    return [name for name, values in axes.items() if len(values) > 1]
