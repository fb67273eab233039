"""What the wires would allow a run, from its own messages and the measured links; what was full."""

from collections import Counter
from typing import Any

from rdht.records import ClientRecord
from rdht.traffic import Traffic, total

FULL_SHARE = 0.9  # of a link or a processor: from there on it is what limits a run
MEASURED_SHARE = 1.05  # of a bound: more than a link's rate is known to
LATE_SHARE = 0.01  # of what was due: some commands always are just before the end
WAYS = {"out": "outward", "in": "inward"}
_End = tuple[str, str]  # a host's name, and "out" or "in"


def bound(
    found: list[tuple[str, ClientRecord]], manifest: dict[str, Any], throughput_per_s: float
) -> dict[str, Any] | None:
    """Return the most commands a second that the links allow, and how full each was.

    `found` has each client's host and record. The bound is where the fullest link is full, if a
    command's messages stay what they were in this run, in as many TCP segments with their headers.
    Acknowledgements that travel alone and messages between servers are left out, so it is rather
    too high than too low; too low it is where the links were measured too slow. None where the
    hosts have no links between them, or these were not measured.
    """
    links = manifest.get("links")
    commands = sum(thread.commands for _, record in found for thread in record.threads)
    if not links or not commands:
        return None
    spent_s = {  # of its link, for one command of the cluster
        (host, way): bits / commands / links[host][f"{way}_bits_per_s"]
        for (host, way), bits in _bits(found, manifest).items()
    }
    fullest_s = max(spent_s.values(), default=0.0)
    if not fullest_s:
        return None
    rows = [
        {
            "host": host,
            "way": way,
            "rate_bits_per_s": (rate := row[f"{way}_bits_per_s"]),
            "used_bits_per_s": round(spent_s.get((host, way), 0.0) * rate * throughput_per_s),
        }
        for host, row in links.items()
        for way in WAYS
    ]
    return {
        "throughput_per_s": round(1 / fullest_s, 1),
        "share": round(throughput_per_s * fullest_s, 4),
        "links": rows,
    }


def _bits(found: list[tuple[str, ClientRecord]], manifest: dict[str, Any]) -> Counter[_End]:
    """Return how many bits of all messages took each link."""
    host_of = {server["name"]: server["host"] for server in manifest["roster"]["servers"]}
    bits: Counter[_End] = Counter()
    for client_host, record in found:
        for server, server_host in host_of.items():
            if server_host == client_host:
                continue
            traffic = total(
                thread.traffic[server] for thread in record.threads if server in thread.traffic
            )
            overhead_bytes = manifest["links"][client_host]["overhead_bytes"]
            sent, received = (8 * size for size in _sizes(traffic, overhead_bytes))
            bits[client_host, "out"] += sent
            bits[server_host, "in"] += sent
            bits[client_host, "in"] += received
            bits[server_host, "out"] += received
    return bits


def _sizes(traffic: Traffic, overhead_bytes: int) -> tuple[int, int]:
    """Return what traffic takes of a link, in bytes, sent and received."""
    return (
        traffic.bytes_sent + overhead_bytes * traffic.segments_sent,
        traffic.bytes_received + overhead_bytes * traffic.segments_received,
    )


def limit(summary: dict[str, Any]) -> str:
    """Say in words what it was that could do no more, or that nothing was full."""
    full = [
        f"the link of {row['host']}, {WAYS[row['way']]}"
        for row in sorted(
            (summary["bound"] or {"links": []})["links"],
            key=lambda row: -row["used_bits_per_s"] / row["rate_bits_per_s"],
        )
        if row["used_bits_per_s"] >= FULL_SHARE * row["rate_bits_per_s"]
    ]
    if full:
        return _several(full, len(summary["bound"]["links"]), "all links")
    hosts = summary["hosts"]
    busy = {host: row["cpu_busy"] or 0.0 for host, row in hosts.items()}
    full = [f"the processor of {host}" for host in busy if busy[host] >= FULL_SHARE]
    if full:
        return _several(full, len(hosts), "the processors of all hosts")
    full = [
        f"the {name} on {host}, a process of Python, which uses no more than a core"
        for host, row in hosts.items()
        for name, cores in row["processes_cores"].items()
        if (cores or 0.0) >= FULL_SHARE
    ]
    if full:
        return _several(full, 0, "")
    due = summary["commands"] + summary["not_begun"]
    if summary["target_rate_per_s"] and summary["not_begun"] <= LATE_SHARE * due:
        return "the rate that was asked for"
    if not hosts or any(row["cpu_busy"] is None for row in hosts.values()):
        return "not known: not all hosts were watched, and no link was full"
    return "nothing was full: each thread waits for its answers"


def _several(what: list[str], number: int, everything: str) -> str:
    if len(what) > 1 and len(what) == number:
        return everything
    more = len(what) - 1
    return what[0] + (f", and {more} more" if more else "")
