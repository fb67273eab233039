"""Watch a run's clients, and how this host is meanwhile."""

import json
import os
import time
from pathlib import Path
from typing import Any

from rdht.node.host import (
    Folders,
    is_alive,
    read_json,
    read_text,
    records,
    temperature,
    throttled,
)

_POLL_S = 0.25  # a watching step must not take the time of what it watches
_COUNTED = ("bytes", "packets", "dropped")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STATISTICS = tuple(f"{way}_{what}" for way in ("rx", "tx") for what in _COUNTED)


def watch(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Print a line of JSON a second while any of the run's clients is alive, those that join too.

    Where no client of it runs, that is for `clientless_s`, and everywhere for `at_least_s`.

    It has `progress`, what the clients report, and `sample`, as `sample` returns it.
    """
    folder = folders.run(arguments["run"])
    here = records(folders, arguments["run"])
    clients = [row for row in here if row["role"] == "client"]
    next_s = time.monotonic()
    end_s = next_s + (0.0 if clients else arguments["clientless_s"])
    end_s = max(end_s, next_s + arguments.get("at_least_s", 0.0))
    while any(is_alive(record) for record in clients) or time.monotonic() < end_s:
        if time.monotonic() >= next_s:
            next_s += 1.0
            here = records(folders, arguments["run"])
            clients = [row for row in here if row["role"] == "client"]
            progress = [read_json(folder / f"{record['file']}.progress.json") for record in clients]
            shown = {"progress": [row for row in progress if row], "sample": sample(here)}
            print(json.dumps(shown), flush=True)
        time.sleep(_POLL_S)
    return {}


def sample(processes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return this host's counters, which only grow, and its state; None for what it has not.

    Times of the processor are in seconds, of all its cores together: `busy`, `idle`, `stolen` (by
    other guests of the same machine), and `processes` by role and name.
    """
    return {
        "time_unix_s": time.time(),
        "cpu_s": _processor(),
        "processes_cpu_s": {
            f"{record['role']} {record['name']}": used_s
            for record in processes
            if is_alive(record) and (used_s := _used(record["pid"])) is not None
        },
        "clock_khz": _number("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"),
        "temperature_c": temperature(),
        "throttled": throttled(),
        "network": {
            path.name: {name: _number(f"{path}/statistics/{name}") for name in _STATISTICS}
            for path in sorted(Path("/sys/class/net").iterdir())
            if path.name != "lo"
        },
        **_segments(),
    }


def _number(path: str) -> int | None:
    text = read_text(path)
    return int(text) if text else None


def _processor() -> dict[str, float]:
    """Return what /proc/stat tells of all cores; see proc_stat(5)."""
    words = (read_text("/proc/stat") or "cpu" + " 0" * 8).splitlines()[0].split()
    user, nice, system, idle, waiting, interrupts, soft, stolen = map(int, words[1:9])
    ticks = {
        "busy": user + nice + system + interrupts + soft,
        "idle": idle + waiting,
        "stolen": stolen,
    }
    return {name: count / _TICKS_PER_S for name, count in ticks.items()}


def _used(pid: int) -> float | None:
    """Return a process's time on the processor (s), as /proc/PID/stat tells it."""
    text = read_text(f"/proc/{pid}/stat")
    if text is None:
        return None
    fields = text.rpartition(")")[2].split()  # its name may hold anything
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _segments() -> dict[str, int | None]:
    """Return how many TCP segments this host has sent, and sent again."""
    rows = [row.split() for row in (read_text("/proc/net/snmp") or "").splitlines()]
    names, numbers = ([row for row in rows if row[0] == "Tcp:"] + [["Tcp:"], ["Tcp:"]])[:2]
    found = dict(zip(names, numbers, strict=True))
    return {
        key: int(found[name]) if name in found else None
        for key, name in (("segments_sent", "OutSegs"), ("segments_sent_again", "RetransSegs"))
    }
