"""A run's records → the rows behind its charts; every row of a list has the same keys."""

import math
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from analysis.summary import HostRecord
from rdht.records import SLOT_S, Histogram, merged

Row = dict[str, Any]
_INTERVALS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_MOST_INTERVALS = 240  # more than a chart can show
_SHORT_S = 3.0  # a run so short is drawn slot by slot
_LAST_NINES = 4.0  # percentiles are drawn up to 99.99
_CURVE_POINTS = 160


@dataclass(frozen=True)
class Clock:
    """Tells when something was in seconds after the run's start, which is when warm-up was over."""

    start_unix_s: float  # by the desk's clock
    offsets_s: dict[str, float]  # of each host's clock against the desk's

    def seconds(self, unix_s: float, host: str | None = None) -> float:
        """Return when that was, by the clock of a host or else of the desk."""
        return unix_s - self.offsets_s.get(host or "", 0.0) - self.start_unix_s


def run_clock(found: list[HostRecord], manifest: dict[str, Any]) -> Clock:
    """Return the clock of a run, which starts with its first client."""
    facts = manifest.get("hosts", {})
    offsets_s = {host: one.get("clock_offset_s") or 0.0 for host, one in facts.items()}
    desk = Clock(0.0, offsets_s)
    return Clock(min(desk.seconds(row.record.started_unix_s, row.host) for row in found), offsets_s)


def duration_s(found: list[HostRecord], clock: Clock) -> float:
    """Return when the last thread ended."""
    ends_s = [
        clock.seconds(row.record.started_unix_s, row.host) + thread.ended_s
        for row in found
        for thread in row.record.threads
    ]
    return max(ends_s, default=0.0)


def interval_s(duration_s: float) -> float:
    """Return how wide the intervals are in which a run of that length is drawn."""
    if duration_s < _SHORT_S:
        return SLOT_S
    fitting = (width for width in _INTERVALS_S if duration_s <= width * _MOST_INTERVALS)
    return next(fitting, _INTERVALS_S[-1])


def throughput(found: list[HostRecord], clock: Clock, width_s: float) -> list[Row]:
    """Return the commands/s of the cluster and of each host in each whole interval of the run."""
    intervals = max(1, int(duration_s(found, clock) / width_s + 1e-6))
    hosts = {row.host: [0.0] * intervals for row in found}
    for row in found:
        # Clocks are known to some milliseconds; clients that began together shall stay together.
        shift = round(clock.seconds(row.record.started_unix_s, row.host) / SLOT_S)
        for thread in row.record.threads:
            for slot, count in enumerate(thread.completed, start=shift):
                interval = int(slot * SLOT_S / width_s + 1e-6)
                if interval < intervals:
                    hosts[row.host][interval] += count / width_s
    return [
        {
            "until_s": round((number + 1) * width_s, 3),
            "cluster": round(sum(rates[number] for rates in hosts.values()), 1),
            **{host: round(rates[number], 1) for host, rates in hosts.items()},
        }
        for number in range(intervals)
    ]


def events(manifest: dict[str, Any], clock: Clock, duration_s: float) -> list[Row]:
    """Return the faults that lasted within the run, and the steps that began in it.

    `what` is the kind of a fault that was scheduled; there may be many of them.
    """
    faults: list[Row] = [
        {
            "kind": "fault",
            "what": fault.get("kind", ""),
            "text": fault["text"] if "kind" in fault else f"{fault['host']}: {fault['text']}",
            "from_s": round(max(0.0, clock.seconds(fault["from_unix_s"])), 3),
            "until_s": round(min(duration_s, clock.seconds(fault["until_unix_s"])), 3),
        }
        for fault in manifest.get("faults", ())
    ]
    steps: list[Row] = []
    for step in manifest["steps"]:
        began_s = clock.seconds(datetime.fromisoformat(step["started"]).timestamp())
        times = dict.fromkeys(("from_s", "until_s"), round(began_s, 3))
        steps.append({"kind": "step", "what": "", "text": step["step"], **times})
    found = [one for one in faults if one["from_s"] <= one["until_s"]]  # a kill is a moment
    found += [one for one in steps if 0 <= one["from_s"] <= duration_s]
    return sorted(found, key=lambda one: (one["from_s"], one["text"]))


def latency_curves(found: list[HostRecord]) -> list[Row]:
    """Return the latency of each percentile of gets and of puts, as far as there are commands."""
    rows = []
    for operation in ("get", "put"):
        latency = merged(
            getattr(thread, f"latency_{operation}")
            for row in found
            for thread in row.record.threads
        )
        for percent in _percentiles(latency.total):
            value_ms = (latency.percentile(percent) or 0) / 1000
            rows.append({"operation": operation, "percentile": percent, "latency_ms": value_ms})
    return rows


def _percentiles(total: int) -> list[float]:
    """Return percentiles whose distance to 100 shrinks evenly, down to that of one value."""
    if not total:
        return []
    last = min(_LAST_NINES, math.log10(total))
    steps = (last * step / _CURVE_POINTS for step in range(_CURVE_POINTS + 1))
    return [round(100 * (1 - 10**-nines), 3) for nines in steps]


def latency_over_time(seconds: list[Row], width_s: float) -> list[Row]:
    """Return p50 and p99 of all commands that ended in each interval of at least a second.

    `seconds` has the rows of all clients: `ended_s` after the agreed start, and the `latency` of
    the commands that ended in the second before, a histogram.
    """
    width_s = max(1.0, width_s)
    intervals: dict[int, list[Histogram]] = {}
    for row in seconds:
        middle_s = max(0.0, row["ended_s"] - 0.5)
        intervals.setdefault(int(middle_s / width_s) + 1, []).append(row["latency"])
    by_interval = {number: merged(intervals[number]) for number in sorted(intervals)}
    return [
        {
            "until_s": number * width_s,
            "commands": latency.total,
            "p50_ms": (latency.percentile(50) or 0) / 1000,
            "p99_ms": (latency.percentile(99) or 0) / 1000,
        }
        for number, latency in by_interval.items()
        if latency.total
    ]


def failures(hosts: list[Row]) -> list[Row]:
    """Return what did not succeed at once, of rows as `summary.host_rows` returns them."""
    return [
        {
            "host": row["host"],
            "commands": row["commands"],
            **{
                name: value
                for what in ("conflicts", "aborted", "unknown")
                for name, value in ((what, row[what]), (f"{what}_share", _share(row, what)))
            },
        }
        for row in hosts
    ]


def _share(row: Row, what: str) -> float:
    return round(row[what] / row["commands"], 6) if row["commands"] else 0.0


def processors(
    samples: dict[str, list[Row]], clock: Clock, duration_s: float, width_s: float
) -> list[Row]:
    """Return each host's busy share of all its cores between samples, and its temperature.

    Of samples that are closer than an interval only some are used: the counters only grow.
    """
    rows = []
    for host in sorted(samples):
        for before, after in pairwise(_spaced(samples[host], width_s)):
            until_s = clock.seconds(after["time_unix_s"], host)
            busy_s = after["cpu_s"]["busy"] - before["cpu_s"]["busy"]
            whole_s = sum(after["cpu_s"].values()) - sum(before["cpu_s"].values())
            if whole_s > 0 and 0 < until_s <= duration_s:
                figures = {"until_s": round(until_s, 3), "cpu_busy": round(busy_s / whole_s, 4)}
                rows.append({"host": host, **figures, "temperature_c": after["temperature_c"]})
    return rows


def _spaced(samples: list[Row], width_s: float) -> list[Row]:
    """Return samples that are about an interval apart; they may come somewhat early."""
    chosen = samples[:1]
    for one in samples[1:]:
        if one["time_unix_s"] - chosen[-1]["time_unix_s"] >= 0.9 * width_s:
            chosen.append(one)
    return chosen


def responses(response_us: dict[str, dict[str, float]]) -> list[Row]:
    """Return the mean response time of each server as seen from each host's clients."""
    return [
        {"client_host": host, "server": server, "response_us": value}
        for host, servers in response_us.items()
        for server, value in servers.items()
    ]
