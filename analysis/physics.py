"""How the hosts were while a run went on, and what of it makes the run's figures doubtful."""

import json
from pathlib import Path
from typing import Any

SAMPLES = "samples.jsonl"  # in a run's folder: a line a host and second, as rdht.node.watch has it
MAX_STOLEN_SHARE = 0.02
MAX_SENT_AGAIN_SHARE = 0.01
_NOW = 0xF  # of a Pi's throttling bits: the others tell of any time since it was booted
# Of all packets. Linux also counts as dropped what it has no use for, of which any home network has
# some now and then: discovery of neighbours, of televisions.
MAX_DROPPED_SHARE = 0.001
MAX_CLOCK_OFFSET_S = 0.5
_Sample = dict[str, Any]


def read_samples(folder: Path) -> dict[str, list[_Sample]]:
    """Return each host's samples of a run, in their order; of a run that nobody watched, none."""
    samples: dict[str, list[_Sample]] = {}
    path = folder / SAMPLES
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        row = json.loads(line)
        samples.setdefault(row.pop("host"), []).append(row)
    return samples


def within(samples: list[_Sample], begin_unix_s: float, end_unix_s: float) -> list[_Sample]:
    """Return the samples between two times, or all if these are too few for a difference."""
    chosen = [one for one in samples if begin_unix_s <= one["time_unix_s"] <= end_unix_s]
    return chosen if len(chosen) > 1 else samples


def host_figures(samples: list[_Sample]) -> dict[str, Any]:
    """Return how a host was from its first to its last sample; None for what it cannot tell.

    Shares are of the time of all its cores; `processes_cores` is how many cores each process kept
    busy.
    """
    first, last = samples[0], samples[-1]
    duration_s = last["time_unix_s"] - first["time_unix_s"]
    spent_s = {name: last["cpu_s"][name] - first["cpu_s"][name] for name in first["cpu_s"]}
    sent, again = (_grown(first, last, name) for name in ("segments_sent", "segments_sent_again"))
    return {
        "watched_s": round(duration_s, 3),
        "cpu_busy": _share(spent_s["busy"], sum(spent_s.values())),
        "cpu_stolen": _share(spent_s["stolen"], sum(spent_s.values())),
        "processes_cores": {
            name: _share(used_s - first["processes_cpu_s"][name], duration_s)
            for name, used_s in last["processes_cpu_s"].items()
            if name in first["processes_cpu_s"]
        },
        "clock_offset_s": max(_seen(samples, "clock_offset_s"), default=None),
        "clock_khz_min": min(_seen(samples, "clock_khz"), default=None),
        "temperature_c_max": max(_seen(samples, "temperature_c"), default=None),
        "throttled": _throttled(_seen(samples, "throttled")),
        "packets": _counted(first, last, "packets"),
        "dropped": _counted(first, last, "dropped"),
        "sent_again": None if sent is None or again is None else _share(again, sent),
    }


def _counted(first: _Sample, last: _Sample, what: str) -> int:
    """Return what all network cards together have counted of something, both ways."""
    return sum(
        (card[name] or 0) - (first["network"][card_name][name] or 0)
        for card_name, card in last["network"].items()
        if card_name in first["network"]
        for name in (f"rx_{what}", f"tx_{what}")
    )


def _throttled(seen: list[str]) -> list[str]:
    """Return the bits of the samples in which a Pi was throttled, or had been since the first."""
    before = int(seen[0], 16) if seen else 0
    return sorted({bits for bits in seen if int(bits, 16) & (_NOW | ~before)})


def _grown(first: _Sample, last: _Sample, name: str) -> int | None:
    return None if None in (first[name], last[name]) else last[name] - first[name]


def _seen(samples: list[_Sample], name: str) -> list[Any]:
    return [sample[name] for sample in samples if sample[name] is not None]


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole > 0 else None


def marks(hosts: dict[str, dict[str, Any]], *, with_faults: bool = False) -> list[str]:
    """Return a line for each thing that makes figures doubtful, with the hosts that it befell.

    `with_faults` if links or hosts were troubled on purpose, which a line may then be due to.
    """
    befallen: dict[str, list[str]] = {}
    for host, figures in hosts.items():
        for what in _doubts(figures, with_faults=with_faults):
            befallen.setdefault(what, []).append(host)
    return [f"{', '.join(names)}: {what}" for what, names in befallen.items()]


def _doubts(figures: dict[str, Any], *, with_faults: bool) -> list[str]:
    found = []
    if figures["throttled"]:
        found.append(
            f"throttled ({', '.join(figures['throttled'])}): look at power supply and cooling"
        )
    if abs(offset_s := figures["clock_offset_s"] or 0.0) > MAX_CLOCK_OFFSET_S:
        found.append(f"its clock is {offset_s:+.1f} s off the desk's: enable NTP")
    if (stolen := figures["cpu_stolen"] or 0) > MAX_STOLEN_SHARE:
        found.append(f"{stolen:.0%} of the processor went to other guests of the same machine")
    if figures["dropped"] > MAX_DROPPED_SHARE * figures["packets"]:
        found.append(f"network cards dropped {figures['dropped']:,} packets")
    if (again := figures["sent_again"] or 0) > MAX_SENT_AGAIN_SHARE:
        why = "faults on purpose may be why" if with_faults else "look at the cables"
        found.append(f"{again:.0%} of the TCP segments had to be sent again: {why}")
    return found


def busiest(hosts: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the host whose processor was busiest, and the process that was; None if unknown."""
    shares = {host: row["cpu_busy"] for host, row in hosts.items() if row["cpu_busy"] is not None}
    if not shares:
        return None
    host = max(shares, key=lambda name: shares[name])
    cores = {
        f"{name} on {host}": used or 0.0
        for host, row in hosts.items()
        for name, used in row["processes_cores"].items()
    }
    process = max(cores, key=lambda name: cores[name], default=None)
    return {"host": host, "cpu_busy": shares[host], "process": process}
