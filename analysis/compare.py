"""Compare two sets of runs: ratios with their intervals, and what speaks against comparing them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from analysis import intervals
from analysis.intervals import Interval
from analysis.summary import FLAWS, PERCENTILES, common_interval, evaluate, is_complete
from rdht.records import SLOT_S, ThreadRecord, merged

FASTER, SLOWER, UNDECIDED = "B is faster", "B is slower", "no difference shown"
THROUGHPUT, P50, P99 = "throughput_per_s", "latency_us_p50", "latency_us_p99"
_BUCKET = 1 / 128  # of a latency: no nearer does a histogram know it
_SAME_LINKS = 1.2  # times as fast: two measurements of a link are never quite equal
_HOST_FACTS = {"model": "", "machine": "", "cores": "cores ", "python": "Python ", "kernel": ""}


@dataclass(frozen=True)
class Result:
    """What is left of a run."""

    manifest: dict[str, Any]
    summary: dict[str, Any]
    threads: list[ThreadRecord]

    @property
    def name(self) -> str:
        """The run's id."""
        return str(self.manifest["run"])


Side = Sequence[Result]  # runs that are repeats of one another


def read(folder: Path) -> Result:
    """Read a collected run; ConfigurationError if it holds no results."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    found, summary = evaluate(folder)
    return Result(manifest, summary, [thread for row in found for thread in row.record.threads])


def compare(a: Side, b: Side) -> dict[str, Any]:
    """Return how B compares with A as one JSON object.

    Each figure has its value of A and of B, the ratio B / A, and the ratio's interval, or None.
    Where both sides were repeated, a value is the mean of the runs', and the interval is made of
    how these differ. Else it is made of how a run's seconds and threads differ, and says nothing
    of how another run would.

    The verdict is by throughput; at a fixed rate, which gives the throughput, by p99 latency.
    """
    repeated = min(len(a), len(b)) > 1
    throughput = _throughput_by_run if repeated else _throughput_by_second
    latency = _latency_by_run if repeated else _latency_by_thread
    figures = {THROUGHPUT: throughput(a, b), P50: latency(a, b, "p50"), P99: latency(a, b, "p99")}
    by = P99 if any(run.summary["target_rate_per_s"] for run in (*a, *b)) else THROUGHPUT
    return {
        "a": [run.summary for run in a],
        "b": [run.summary for run in b],
        "repeated": repeated,
        "figures": figures,
        "decided_by": by,
        "verdict": _verdict(figures[by]["interval"], more_is_better=by == THROUGHPUT),
        "differs": differences(a[0], b[0]),
        "objections": objections(a, b),
    }


def _verdict(interval: Interval | None, *, more_is_better: bool) -> str:
    if interval is None or interval[0] <= 1 <= interval[1]:
        return UNDECIDED
    return FASTER if (interval[0] > 1) == more_is_better else SLOWER


def _figure(a: float | None, b: float | None, interval: Interval | None) -> dict[str, Any]:
    ratio = None if b is None or not a else b / a
    return {"a": a, "b": b, "ratio": ratio, "interval": interval}


def _throughput_by_run(a: Side, b: Side) -> dict[str, Any]:
    of_a, of_b = ([run.summary["throughput_per_s"] for run in side] for side in (a, b))
    return _figure(fmean(of_a), fmean(of_b), intervals.of_ratio(of_a, of_b))


def _throughput_by_second(a: Side, b: Side) -> dict[str, Any]:
    of_a, of_b = ([rate for run in side for rate in second_rates(run.threads)] for side in (a, b))
    return _figure(fmean(of_a), fmean(of_b), intervals.of_ratio(of_a, of_b))


def second_rates(threads: Sequence[ThreadRecord]) -> list[float]:
    """Return the commands/s of each second, or little more, of the time in which all threads ran.

    That time is cut into equal parts of at least a second, so their mean is the run's throughput.
    Commands count as spread evenly over the part of a slot in which their thread ran.
    """
    begin_s, end_s = common_interval(list(threads))
    if begin_s == end_s:
        return [0.0]
    cuts_s = np.linspace(begin_s, end_s, max(1, int(end_s - begin_s)) + 1)
    done = np.zeros(len(cuts_s))
    for thread in threads:
        slots_s = np.arange(len(thread.completed) + 1) * SLOT_S
        edges_s = np.clip(slots_s, thread.started_s, thread.ended_s)
        done += np.interp(cuts_s, edges_s, np.concatenate([[0], np.cumsum(thread.completed)]))
    return [float(rate) for rate in np.diff(done) / np.diff(cuts_s)]


def _latency_by_run(a: Side, b: Side, name: str) -> dict[str, Any]:
    of_a, of_b = ([run.summary["latency_us"][name] for run in side] for side in (a, b))
    if None in (*of_a, *of_b):
        return _figure(None, None, None)
    return _figure(fmean(of_a), fmean(of_b), _widened(intervals.of_ratio(of_a, of_b, _BUCKET)))


def _latency_by_thread(a: Side, b: Side, name: str) -> dict[str, Any]:
    percent = PERCENTILES[name]
    of_a, of_b = ([thread.latency() for run in side for thread in run.threads] for side in (a, b))
    value_a, value_b = (merged(side).percentile(percent) for side in (of_a, of_b))
    interval = intervals.of_percentile_ratio(of_a, of_b, percent)
    return _figure(value_a, value_b, _widened(interval))


def _widened(interval: Interval | None) -> Interval | None:
    """Return the interval of a ratio of latencies, each of which is known to within a bucket."""
    return interval and (interval[0] / (1 + _BUCKET), interval[1] * (1 + _BUCKET))


def objections(a: Side, b: Side) -> list[str]:
    """Return a text for each reason not to compare these runs; none if there is none."""
    return [
        *_not_whole((*a, *b)),
        *_no_repeats("A", a),
        *_no_repeats("B", b),
        *_no_pair(a[0], b[0]),
    ]


def _not_whole(runs: Side) -> Iterator[str]:
    for run in runs:
        if not is_complete(run.summary):
            flaws = [name.replace("_", " ") for name in FLAWS if run.summary[name]]
            yield f"run {run.name} is not complete: {', '.join(flaws)}"


def _no_repeats(side: str, runs: Side) -> Iterator[str]:
    for run in runs[1:]:
        if found := differences(runs[0], run):
            which = f"runs {runs[0].name} and {run.name}"
            yield "\n".join([f"{which} of {side} are no repeats:", *described(found)])


def _no_pair(a: Result, b: Result) -> Iterator[str]:
    rates = a.summary["target_rate_per_s"], b.summary["target_rate_per_s"]
    if None in rates and rates != (None, None):
        yield (
            "one side runs at a fixed rate and the other in a closed loop: the rate gives the"
            " throughput of the one, and the latencies of the other leave out what had to wait"
        )
    if len(found := differences(a, b)) > 1:
        yield "\n".join(["A and B differ in more than one thing:", *described(found)])


def described(found: dict[str, tuple[Any, Any]]) -> list[str]:
    """Return a line for each difference, with both values."""
    return [
        f"  {name}: {' | '.join('-' if value is None else str(value) for value in values)}"
        for name, values in found.items()
    ]


def differences(a: Result, b: Result) -> dict[str, tuple[Any, Any]]:
    """Return what differs between how two runs were made, by name: (of A, of B).

    What only follows is left out: other hosts and links from another cluster, and other numbers of
    servers and clients from another number of hosts. The hosts count as one thing.
    """
    of_a, of_b = _made_with(a.manifest), _made_with(b.manifest)
    found = {
        name: (of_a.get(name), of_b.get(name))
        for name in of_a | of_b
        if of_a.get(name) != of_b.get(name)
    }
    links = _slowest(a.manifest), _slowest(b.manifest)
    if min(links) and max(links) > _SAME_LINKS * min(links):  # 0 where none was measured
        found["links"] = (f"{links[0] / 1e6:,.1f} Mbit/s", f"{links[1] / 1e6:,.1f} Mbit/s")
    following = {"hosts", "links"} if "cluster" in found else set()
    hosts_a, hosts_b = len(a.manifest["hosts"]), len(b.manifest["hosts"])
    following |= {
        name for name in ("servers", "clients") if of_a[name] * hosts_b == of_b[name] * hosts_a
    }
    return {name: values for name, values in found.items() if name not in following}


def _made_with(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return all that decides a run's figures, by name."""
    parameters = manifest["parameters"]
    return {
        "cluster": manifest["cluster"],
        "release": manifest["release"],
        **parameters.get("servers", {}),
        **parameters.get("clients", {}),
        "seed": None,  # chance is what repeats are for
        "trace": _joined(who for who, options in parameters.items() if options.get("trace")),
        "hosts": _hosts(manifest["hosts"]),
        "servers": len(manifest.get("servers", [])),
        "clients": len(manifest.get("clients", [])),
        "faults": _faults(manifest),
    }


def _faults(manifest: dict[str, Any]) -> str | None:
    """Return what was done on purpose: by a schedule, and by hand."""
    scheduled = [f"by schedule {manifest['schedule']['name']}"] if "schedule" in manifest else []
    by_hand = [
        f"{one['host']}: {one['text']}"
        for one in manifest.get("faults", [])
        if not one.get("scheduled")
    ]
    return _joined([*scheduled, *by_hand])


def _slowest(manifest: dict[str, Any]) -> float:
    """Return the rate (bits/s) of the slowest measured link, 0 if none was measured."""
    rows = (manifest.get("links") or {}).values()
    rates = [row[f"{way}_bits_per_s"] for row in rows for way in ("in", "out")]
    return min(rates, default=0)


def _hosts(hosts: dict[str, dict[str, Any]]) -> str | None:
    """Return what hosts are, those of a kind together."""
    kinds: dict[str, list[str]] = {}
    for name, facts in sorted(hosts.items()):
        kind = [f"{before}{facts.get(fact)}" for fact, before in _HOST_FACTS.items()]
        kinds.setdefault(" · ".join(kind), []).append(name)
    return _joined(f"{' '.join(names)} ({kind})" for kind, names in kinds.items())


def _joined(texts: Iterable[str]) -> str | None:
    return ", ".join(texts) or None
