"""Rows → charts: which picture, what it is called, and in words what there is to see."""

import re
from collections.abc import Sequence
from functools import partial
from statistics import fmean, median
from typing import Any

from analysis import plots
from analysis.pictures import Chart
from analysis.plots import Row, Series, percent

_TOLD_PERCENTILES = (50.0, 99.0, 99.9)
_FAILURES = ("conflicts", "aborted", "unknown")


def throughput(rows: list[Row], events: list[Row]) -> Chart:
    """Return the chart of `series.throughput` and `series.events`."""
    rates = [row["cluster"] for row in rows]
    width_s = rows[0]["until_s"]
    told = f"mean {fmean(rates):,.0f}, lowest {min(rates):,.0f}, highest {max(rates):,.0f}"
    faults = [event for event in events if event["kind"] == "fault"]
    lanes = plots.lanes(events)
    spans = [f"{what} {len(ones)}" for what, ones in lanes.items()] or [
        f"{one['text']} from {one['from_s']:.1f} to {one['until_s']:.1f} s" for one in faults
    ]
    shaded = f" Faults on purpose: {'; '.join(spans)}." if faults else ""
    left_out = 0 if lanes else len(events) - plots.NAMED_EVENTS
    return Chart(
        "throughput",
        "Throughput over time",
        f"Commands completed a second, counted every {width_s:g} s: by the cluster (thick) and by "
        "each host's clients (thin)"
        + ("; while a fault lasted, the time is shaded" if faults else "")
        + (", and each has its mark in the line of its kind" if lanes else "")
        + (f"; {left_out} later events are not named" if left_out > 0 else "")
        + ".",
        f"Commands a second of the cluster over {rows[-1]['until_s']:g} s: {told}.{shaded}",
        rows,
        partial(plots.throughput, rows=rows, events=events),
    )


def latency_curves(rows: list[Row]) -> Chart:
    """Return the chart of `series.latency_curves`."""
    told = []
    for operation in dict.fromkeys(row["operation"] for row in rows):
        mine = [row for row in rows if row["operation"] == operation]
        nearest = [
            (percent, min(mine, key=lambda row: abs(row["percentile"] - percent)))
            for percent in _TOLD_PERCENTILES
            if percent <= mine[-1]["percentile"]
        ]
        values = [f"p{percent:g} {row['latency_ms']:.3g}" for percent, row in nearest]
        values.append(f"p{mine[-1]['percentile']:g} {mine[-1]['latency_ms']:.3g}")
        told.append(f"{operation}s {', '.join(values)}")
    return Chart(
        "latency",
        "Latency of gets and puts",
        "How long the commands took, from the fastest to the slowest of ten thousand: the steeper "
        "to the right, the worse the rare cases.",
        f"Latency in milliseconds by percentile: {'; '.join(told)}.",
        rows,
        partial(plots.latency_curves, rows=rows),
    )


def latency_over_time(rows: list[Row]) -> Chart:
    """Return the chart of `series.latency_over_time`."""
    worst = max(rows, key=lambda row: row["p99_ms"])
    half = median(row["p50_ms"] for row in rows)
    return Chart(
        "latency-over-time",
        "Latency over time",
        "Half of the commands that ended in each interval were faster than p50, one in a hundred "
        "slower than p99.",
        f"Over {rows[-1]['until_s']:g} s p50 was {half:.3g} ms in the middle interval; p99 was "
        f"highest at {worst['until_s']:g} s with {worst['p99_ms']:.3g} ms.",
        rows,
        partial(plots.latency_over_time, rows=rows),
    )


def threads(rows: list[Row]) -> Chart:
    """Return the chart of the threads' throughput; the rows are those of `summary.thread_rows`."""
    medians = {host: median(values) for host, values in plots.by_host(rows).items()}
    slow = [host for host in medians if plots.is_slow(host, medians)]
    columns = ("host", "client", "thread", "throughput_per_s")
    seen = (
        f"{', '.join(slow)}: less than {plots.SLOW_SHARE:.0%} of the median host"
        if slow
        else "no host's threads are far slower than the others'"
    )
    each = ", ".join(f"{host} {value:,.1f}" for host, value in medians.items())
    return Chart(
        "threads",
        "Each thread, by host",
        f"A dot is a thread, a line the median of its host; {seen}.",
        f"Median commands a second of a thread: {each}; {seen}.",
        [{name: row[name] for name in columns} for row in rows],
        partial(plots.threads, rows=rows),
    )


def failures(rows: list[Row]) -> Chart:
    """Return the chart of `series.failures`."""
    totals = {kind: sum(row[kind] for row in rows) for kind in _FAILURES}
    shown = [kind for kind in _FAILURES if totals[kind] or kind == _FAILURES[0]]
    told = ", ".join(f"{count:,} {kind}" for kind, count in totals.items())
    each = ", ".join(f"{row['host']} {percent(row['conflicts_share'])}" for row in rows)
    meanings = {
        "conflicts": "a conflict is a lock that was refused",
        "aborted": "an aborted command was certainly not carried out",
        "unknown": "one of unknown outcome may have been",
    }
    meaning = ", ".join(meanings[kind] for kind in shown)
    none = " or ".join(kind for kind in _FAILURES if kind not in shown)
    return Chart(
        "conflicts",
        "Conflicts and failures",
        f"By the host whose clients met them: {meaning}" + (f"; none {none}" if none else "") + ".",
        f"{told}; conflicts as a share of commands: {each}.",
        rows,
        partial(plots.failures, rows=rows, kinds=shown),
    )


def processors(rows: list[Row]) -> Chart:
    """Return the chart of `series.processors`."""
    shares: dict[str, list[float]] = {}
    for row in rows:
        shares.setdefault(row["host"], []).append(row["cpu_busy"])
    each = ", ".join(f"{host} {fmean(values):.0%}" for host, values in shares.items())
    warmest = max((row["temperature_c"] for row in rows if row["temperature_c"]), default=None)
    warm = f"; the warmest reached {warmest:.0f} °C" if warmest else ""
    return Chart(
        "processors",
        "Processors",
        "The share of its cores that each host kept busy with anything: at 100% it can do no more"
        + ("; below, its temperature" if warmest else "")
        + ".",
        f"Mean busy share of each host's cores: {each}{warm}.",
        rows,
        partial(plots.processors, rows=rows),
    )


def links(bound: dict[str, Any], limit: str) -> Chart:
    """Return the chart of the links' use; `bound` and `limit` are the summary's."""
    rows = bound["links"]
    each = ", ".join(
        f"{row['host']} {row['way']} {row['used_bits_per_s'] / row['rate_bits_per_s']:.0%}"
        for row in rows
    )
    bound_text = (
        f"the run reached {bound['share']:.1%} of the {bound['throughput_per_s']:,.0f} commands/s "
        f"that they allow; what was full: {limit}"
    )
    return Chart(
        "links",
        "Links, and the bound",
        f"What each link carried (blue) of what it can carry (grey): {bound_text}.",
        f"Used share of each link: {each}; {bound_text}.",
        rows,
        partial(plots.links, rows=rows),
    )


def responses(rows: list[Row]) -> Chart:
    """Return the chart of `series.responses`."""
    by_server: dict[str, list[float]] = {}
    for row in rows:
        by_server.setdefault(row["server"], []).append(row["response_us"] / 1000)
    each = ", ".join(f"{server} {fmean(values):.3g}" for server, values in by_server.items())
    slowest = max(rows, key=lambda row: row["response_us"])
    worst = (
        f"{slowest['server']} as seen from {slowest['client_host']}, "
        f"{slowest['response_us'] / 1000:.3g} ms"
    )
    return Chart(
        "responses",
        "Who waits for whom",
        "A dark column is a slow server, a dark row a slow client's host, a single dark cell the "
        "way between the two.",
        f"Mean response time of each server in milliseconds: {each}; slowest: {worst}.",
        rows,
        partial(plots.responses, rows=rows),
    )


def sweep_curves(
    title: str, x_name: str, unit: str, series: Sequence[Series], caption: str
) -> Chart:
    """Return curves over a parameter: of each series its label, and (x, middle, low, high) points.

    An x is a number above 0 or a text; `caption` says what the middle is and the ends are.
    """
    rows = [
        {"series": label, x_name: x, "middle": middle, "low": low, "high": high}
        for label, points in series
        for x, middle, low, high in points
    ]
    told = []
    for label, points in series:
        best = max(points, key=lambda point: point[1])
        told.append(f"{label}: highest {best[1]:,.4g} at {best[0]}")
    return Chart(
        re.sub(r"[^a-z0-9]+", "-", f"sweep {title}".lower()),
        title,
        caption,
        f"{unit} over {x_name}; {'; '.join(told)}.",
        rows,
        partial(plots.sweep, x_name=x_name, unit=unit, series=series),
    )
