"""Assemble a run: threads → clients → cluster, percentiles from merged histograms."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import limits, outliers, physics, verdict
from rdht import records
from rdht.errors import ConfigurationError
from rdht.records import SLOT_S, ClientRecord, Histogram, ThreadRecord, merged
from rdht.traffic import Traffic, total

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
COUNTS = [
    "gets",
    "puts",
    "succeeded",
    "not_found",
    "already_there",
    "conflicts",
    "aborted",
    "unknown",
    "not_begun",
]
FLAWS = [
    "missing_clients",
    "interrupted",
    "lost",
    "errors",
    "lost_ranges",
    "unsafe_servers",
]
THREAD_COLUMNS = [
    "host",
    "client",
    "thread",
    "commands",
    "throughput_per_s",
    "latency_us_p50",
    "latency_us_p90",
    "latency_us_p99",
    "latency_us_p999",
    "latency_us_max",
    *COUNTS,
    "bytes_sent",
    "bytes_received",
    "started_s",
    "ended_s",
]
SECOND_COLUMNS = [
    "host",
    "client",
    "ended_s",
    "commands",
    "conflicts",
    "aborted",
    "unknown",
    *(f"latency_us_{name}" for name in (*PERCENTILES, "max")),
]


@dataclass(frozen=True)
class HostRecord:
    """A client's record and the host that it ran on."""

    host: str
    record: ClientRecord


def read_run(folder: Path) -> list[HostRecord]:
    """Read all result files of a run's folder; ConfigurationError if there are none."""
    paths = sorted(folder.glob("hosts/*/results*.json"))
    if not paths:
        why = f"{folder} holds no results: collect the run first"
        raise ConfigurationError(why)
    found = [HostRecord(path.parent.name, records.read(path)) for path in paths]
    for row in found:
        if row.record.parameters != found[0].record.parameters:
            why = (
                f"{folder} mixes runs: the client on {row.host} ran with {row.record.parameters}, "
                f"the one on {found[0].host} with {found[0].record.parameters}"
            )
            raise ConfigurationError(why)
    return found


def assemble(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write a run's summary.json, threads.csv and seconds.csv.

    Returns the summary, and a row a host.
    """
    found, summary = evaluate(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    verdict.keep(folder, manifest, summary["verdict"])
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _write_csv(folder / "threads.csv", THREAD_COLUMNS, thread_rows(found))
    _write_csv(folder / "seconds.csv", SECOND_COLUMNS, second_rows(found))
    return summary, host_rows(found)


def evaluate(folder: Path) -> tuple[list[HostRecord], dict[str, Any]]:
    """Return what a run's clients recorded, and its summary; write nothing."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    found = read_run(folder)
    samples = physics.read_samples(folder)
    with_faults = bool(manifest.get("nemesis") or manifest.get("faults"))
    hosts = {
        host: physics.host_figures(physics.within(rows, *_span(found, host)))
        for host, rows in samples.items()
    }
    summary, rows = summarize(found, manifest), host_rows(found)
    records = [(row.host, row.record) for row in found]
    response_us = outliers.response_us(records)
    host_of = {server["name"]: server["host"] for server in manifest["roster"]["servers"]}
    summary |= {
        "verdict": verdict.of(folder, manifest),
        "hosts": hosts,
        "marks": physics.marks(hosts, with_faults=with_faults),
        "busiest": physics.busiest(hosts),
        "response_us": response_us,
        "outliers": outliers.outliers(response_us, host_of, rows, hosts),
        "bound": limits.bound(records, manifest, summary["throughput_per_s"]),
    }
    summary["limit"] = limits.limit(summary)
    summary["flaws"] = _flaws(summary)
    return found, summary


def _flaws(summary: dict[str, Any]) -> list[str]:
    """Return a line for each thing that a run lacks, or that makes it doubtful."""
    late, due = summary["not_begun"], summary["not_begun"] + summary["commands"]
    unserved = f"{late:,} of {due:,} commands found no room before the end"
    lost = summary["lost"].items()
    return [
        *["the links carried more than they were measured to: the bound is too low"]
        * bool(summary["bound"] and summary["bound"]["share"] > limits.MEASURED_SHARE),
        *[f"the table did not keep up: {unserved}"] * (late > limits.LATE_SHARE * due),
        *(
            f"no results of client {name}: not in these figures"
            for name in summary["missing_clients"]
        ),
        *["the run was interrupted before its end"] * summary["interrupted"],
        *(
            f"{client} lost server {name}: {why}"
            for client, row in lost
            for name, why in row.items()
            if not summary["faults"]
        ),
        *_faults_said(summary["faults"]),
        *summary["errors"],
        *([] if summary["faults"] else summary["outliers"]),
        *(f"{mark}; so take these figures with care" for mark in summary["marks"]),
    ]


def _faults_said(faults: dict[str, Any] | None) -> list[str]:
    """Say what was done on purpose, and what that means for the figures."""
    if not faults:
        return []
    made, killed = faults["made"], len(faults["killed_clients"])
    each = ", ".join(f"{kind} {times}" for kind, times in made.items())
    lines = [f"faults on purpose: {sum(made.values())}" + f" ({each})" * bool(each)]
    if missed := len(faults["not_made"]):
        lines.append(f"{missed} could not be made: the manifest says why")
    if killed == 1:
        lines.append("1 client was killed on purpose: what it did is not in these figures")
    elif killed:
        lines.append(
            f"{killed} clients were killed on purpose: what they did is not in these figures"
        )
    if late_s := faults["late_s"]:
        lines.append(
            f"the clients had ended {late_s:.1f} s before all was as it was: run it longer"
        )
    if recovery_s := faults["worst_recovery_s"]:
        servers = f"{faults['recoveries']} servers came back"
        lines.append(f"{servers}, the slowest to its place within {recovery_s:.1f} s")
    return lines


def _span(found: list[HostRecord], host: str) -> tuple[float, float]:
    """Return when a host's clients began what counts and when they ended, by its own clock.

    Of a host without clients, when all others' did.
    """
    records = [row.record for row in found if row.host == host] or [row.record for row in found]
    begins = [record.started_unix_s for record in records]
    ends = [
        record.started_unix_s + thread.ended_s for record in records for thread in record.threads
    ]
    return min(begins), max(ends)


def is_complete(summary: dict[str, Any]) -> bool:
    """Tell whether every client ran to its end, and no server or range was lost.

    With faults on purpose a client may well miss a server at its end.
    """
    return not any(summary[name] for name in FLAWS if name != "lost" or not summary.get("faults"))


def summarize(found: list[HostRecord], manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the cluster's figures as one JSON object; latencies are in microseconds.

    Throughput is what was done by wall clock in the interval in which all threads ran; sums of
    the threads' own averages would overstate it.
    """
    threads = [thread for row in found for thread in row.record.threads]
    faults = manifest.get("nemesis")
    clients = {*manifest.get("clients", ()), *(faults["joined_clients"] if faults else ())}
    killed = set(faults["killed_clients"] if faults else ())
    interval = common_interval(threads)
    duration_s = interval[1] - interval[0]
    latency = merged(thread.latency() for thread in threads)
    return {
        "run": manifest["run"],
        "cluster": manifest["cluster"],
        "release": manifest["release"],
        "profile": found[0].record.profile,
        "window": found[0].record.parameters["window"],
        "workload": found[0].record.parameters["workload"],
        "target_rate_per_s": _target_rate(found),
        "warmup_s": found[0].record.parameters["warmup_s"],
        "servers": len(manifest["servers"]),
        "clients": len(found),
        "threads": len(threads),
        "connections": sum(thread.connections for thread in threads),
        "commands": sum(thread.commands for thread in threads),
        **{name: sum(getattr(thread, name) for thread in threads) for name in COUNTS},
        "duration_s": round(duration_s, 3),
        "throughput_per_s": round(_throughput(threads, interval), 1),
        "latency_us": _latency(latency),
        **_moved(total(one for thread in threads for one in thread.traffic.values())),
        "lost": {
            f"{row.host}: client {row.record.client}": row.record.lost
            for row in found
            if row.record.lost
        },
        "errors": [
            f"{row.host}: client {row.record.client}: {error}"
            for row in found
            for error in row.record.errors
        ],
        "missing_clients": sorted(clients - {row.record.client for row in found} - killed),
        "faults": faults,
        "interrupted": any(row.record.interrupted for row in found),
        "lost_ranges": manifest.get("lost_ranges", {}),
        "unsafe_servers": manifest.get("unsafe_servers", []),
        "replicas": manifest.get("replicas"),
    }


def _moved(traffic: Traffic) -> dict[str, Any]:
    """Return what went between clients and servers, as the clients sent and received it."""
    tallies = {"sent": traffic.sent, "received": traffic.received}
    return {
        "messages": traffic.messages_sent + traffic.messages_received,
        "bytes_sent": traffic.bytes_sent,
        "bytes_received": traffic.bytes_received,
        "kinds": {
            way: {
                status.name: {"messages": messages, "bytes": size}
                for status, (messages, size) in sorted(tally.items())
            }
            for way, tally in tallies.items()
        },
    }


def _target_rate(found: list[HostRecord]) -> float | None:
    """Return the rate at which all clients together were to begin commands; None if there is none.

    Each has its share of it, so their sum is rounded.
    """
    rates = [row.record.parameters["rate_per_s"] for row in found]
    return None if None in rates else round(sum(rates), 6)


def thread_rows(found: list[HostRecord]) -> list[dict[str, Any]]:
    """Return a row a client thread, with THREAD_COLUMNS as keys."""
    return [
        {
            **{name: getattr(thread, name, None) for name in THREAD_COLUMNS},
            "host": row.host,
            "client": row.record.client,
            "throughput_per_s": round(_throughput([thread], (thread.started_s, thread.ended_s)), 1),
            **{f"latency_us_{name}": value for name, value in _latency(thread.latency()).items()},
            "started_s": round(thread.started_s, 6),
            "ended_s": round(thread.ended_s, 6),
        }
        for row in found
        for thread in row.record.threads
    ]


def second_rows(found: list[HostRecord]) -> list[dict[str, Any]]:
    """Return a row a client and second, with SECOND_COLUMNS as keys."""
    return [
        {
            **{name: getattr(second, name, None) for name in SECOND_COLUMNS},
            "host": row.host,
            "client": row.record.client,
            **{f"latency_us_{name}": value for name, value in _latency(second.latency).items()},
        }
        for row in found
        for second in row.record.seconds
    ]


def _write_csv(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, columns)
        writer.writeheader()
        writer.writerows(rows)


def host_rows(found: list[HostRecord]) -> list[dict[str, Any]]:
    """Return a row a host: what its clients did together."""
    interval = common_interval([thread for row in found for thread in row.record.threads])
    rows = []
    for host in dict.fromkeys(row.host for row in found):
        threads = [thread for row in found if row.host == host for thread in row.record.threads]
        latency = merged(thread.latency() for thread in threads)
        rows.append(
            {
                "host": host,
                "threads": len(threads),
                "commands": sum(thread.commands for thread in threads),
                "throughput_per_s": round(_throughput(threads, interval), 1),
                **{f"latency_us_{name}": value for name, value in _latency(latency).items()},
                "conflicts": sum(thread.conflicts for thread in threads),
                "aborted": sum(thread.aborted for thread in threads),
                "unknown": sum(thread.unknown for thread in threads),
            }
        )
    return rows


def _latency(histogram: Histogram) -> dict[str, int | None]:
    values = {name: histogram.percentile(percent) for name, percent in PERCENTILES.items()}
    return {**values, "max": histogram.max_us if histogram.total else None}


def common_interval(threads: list[ThreadRecord]) -> tuple[float, float]:
    """Return begin and end (s) of the time in which all threads ran; both the same if in none.

    Those that took the place of others, which were killed, are not waited for.
    """
    begins_s = [thread.started_s for thread in threads if not thread.joined]
    begin_s = max(begins_s) if begins_s else min(thread.started_s for thread in threads)
    return begin_s, max(begin_s, min(thread.ended_s for thread in threads))


def _throughput(threads: list[ThreadRecord], interval: tuple[float, float]) -> float:
    """Return what the threads completed a second in an interval."""
    duration_s = interval[1] - interval[0]
    done = sum(_completed_within(thread, *interval) for thread in threads)
    return done / duration_s if duration_s else 0.0


def _completed_within(thread: ThreadRecord, started_s: float, ended_s: float) -> float:
    """Return how many commands a thread completed in an interval.

    In a slot that the interval cuts, commands count as spread evenly over the part of the slot in
    which the thread ran.
    """
    total = 0.0
    for slot, count in enumerate(thread.completed):
        begin_s = max(slot * SLOT_S, thread.started_s)
        end_s = min((slot + 1) * SLOT_S, max(thread.ended_s, begin_s))
        if end_s <= begin_s:
            total += count if started_s <= begin_s <= ended_s else 0
            continue
        overlap_s = min(end_s, ended_s) - max(begin_s, started_s)
        total += count * min(1.0, max(0.0, overlap_s) / (end_s - begin_s))
    return total
