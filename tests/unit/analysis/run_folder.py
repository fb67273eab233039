"""A made run of five hosts: one of them slow, a fault in the middle, and conflicts."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rdht.messages import Operation, Status
from rdht.records import SLOT_S, ClientRecord, Second, ThreadRecord
from rdht.traffic import Traffic

HOSTS = ("pi1", "pi2", "pi3", "pi4", "pi5")
SLOW, CUT = "pi4", "pi2"
START_UNIX_S = 1_795_745_435.0
DURATION_S = 20.0
CUT_S = (8.0, 13.0)
CLOCKS_S = {"pi1": 0.012, "pi2": -0.004, "pi3": 3.5, "pi4": 0.0, "pi5": -0.02}  # off the desk's
RATE_PER_S = 60.0  # of a thread at its best
THREADS = 8
PARAMETERS: dict[str, Any] = {
    "threads": THREADS,
    "seed": 1,
    "window": 1,
    "workload": "classic",
    "rate_per_s": None,
    "warmup_s": 1.0,
}


def write(folder: Path, **manifest: Any) -> Path:
    """Write the run as `fab collect` leaves it; `manifest` replaces fields of its manifest."""
    rng = random.Random(7)
    for host in HOSTS:
        (folder / "hosts" / host).mkdir(parents=True)
        _client(host, rng).write(folder / "hosts" / host / "results.json")
    samples = "".join(json.dumps(row) + "\n" for row in _samples())
    (folder / "samples.jsonl").write_text(samples, encoding="utf-8")
    document = json.dumps({**MANIFEST, **manifest})
    (folder / "manifest.json").write_text(document, encoding="utf-8")
    return folder


def _client(host: str, rng: random.Random) -> ClientRecord:
    seconds = [Second(ended_s=n + 1.0) for n in range(round(DURATION_S))]
    threads = [_thread(host, number, rng, seconds) for number in range(THREADS)]
    started_unix_s = START_UNIX_S + CLOCKS_S[host]
    return ClientRecord(
        host, "classic", PARAMETERS, started_unix_s, False, {}, [], threads, seconds
    )


def _thread(host: str, number: int, rng: random.Random, seconds: list[Second]) -> ThreadRecord:
    record = ThreadRecord(number, ended_s=DURATION_S, connections=5)
    for slot in range(round(DURATION_S / SLOT_S)):
        now_s = slot * SLOT_S
        cut = CUT_S[0] <= now_s < CUT_S[1]
        share = (0.1 if host == SLOW else 1.0) * (
            0.05 if cut and host == CUT else 0.6 if cut else 1
        )
        for _ in range(round(RATE_PER_S * SLOT_S * share * rng.uniform(0.5, 1.5))):
            operation = rng.choices((Operation.GET, Operation.PUT), (6, 4))[0]
            latency_s = rng.lognormvariate(-4.6, 0.5) * (3 if operation is Operation.PUT else 1)
            ended_s = now_s + rng.random() * SLOT_S
            record.count_done(operation, ended_s, latency_s / share, found=rng.random() < 0.7)
            second = seconds[min(int(ended_s), len(seconds) - 1)]
            second.commands += 1
            second.latency.add(int(1e6 * latency_s / share))
    record.conflicts = round(record.commands * rng.uniform(0.02, 0.06))
    record.aborted = 3 * (host == CUT)
    record.unknown = 1 * (host == CUT and number == 0)
    record.puts += record.aborted + record.unknown
    for server in HOSTS:
        messages = 4 * record.commands // len(HOSTS)
        waited_s = messages * (0.008 if SLOW in (host, server) else 0.002) * rng.uniform(0.9, 1.1)
        traffic = Traffic(segments_sent=messages, segments_received=messages, waited_s=waited_s)
        traffic.sent[Status.REQUEST] = traffic.received[Status.YES] = [messages, 256 * messages]
        record.traffic[server] = traffic
    return record


def _samples() -> Iterator[dict[str, Any]]:
    """Yield a line a host and second, from just before the start to just after the end."""
    counters = dict.fromkeys(("segments_sent", "segments_sent_again"), 0)
    for second in range(-1, round(DURATION_S) + 2):
        for number, host in enumerate(HOSTS):
            busy_s = (0.9 if host == SLOW else 0.5 + 0.05 * number) * 4 * (second + 1)
            yield {
                "host": host,
                "time_unix_s": START_UNIX_S + CLOCKS_S[host] + second,
                "cpu_s": {"busy": busy_s, "idle": 4 * (second + 1) - busy_s, "stolen": 0.0},
                "processes_cpu_s": {f"server {host}": busy_s / 2},
                "clock_khz": 1_500_000,
                "temperature_c": 48.0 + number + second / 4,
                "throttled": "0x0",
                "clock_offset_s": 0.0,
                "network": {},
                **counters,
            }


def _step(name: str, began_s: float, took_s: float) -> dict[str, str]:
    # The agreed start is at 02:10:35 of this day, UTC.
    began, ended = (f"2026-11-27T02:10:{35 + at:06.3f}+00:00" for at in (began_s, began_s + took_s))
    return {"step": name, "started": began, "ended": ended}


MANIFEST: dict[str, Any] = {
    "run": "20261127-021032-shelf-3fa9",
    "cluster": "shelf",
    "hosts": {
        host: {
            "model": "Raspberry Pi 4 Model B Rev 1.4",
            "cores": 4,
            "kernel": "6.6.51+rpt-rpi-v8",
            "python": "3.11.2",
            "clock_offset_s": CLOCKS_S[host],
        }
        for host in HOSTS
    },
    "release": "96616fb859e9",
    "git": {"commit": "6e98768aad256e27b79914c6f9ba946080bf244b", "changed": True},
    "started": "2026-11-27T02:10:28.132+00:00",
    "parameters": {"servers": {"workers": 8, "durable": False}, "clients": PARAMETERS},
    "steps": [
        _step("deploy", -7.0, 1.2),
        _step("start-servers", -5.0, 2.0),
        _step("wait", -1.5, 22.0),
        _step("start pi2 again", 13.5, 0.8),
    ],
    "servers": list(HOSTS),
    "roster": {"servers": [{"name": host, "host": host} for host in HOSTS]},
    "links": {
        host: {
            "in_bits_per_s": 10_000_000 + 9_000 * number,
            "out_bits_per_s": 9_990_000,
            "overhead_bytes": 90,
        }
        for number, host in enumerate(HOSTS)
    },
    "clients": list(HOSTS),
    "faults": [
        {
            "host": CUT,
            "text": "cut from pi3",
            "from_unix_s": START_UNIX_S + CUT_S[0],
            "until_unix_s": START_UNIX_S + CUT_S[1],
        }
    ],
    "replicas": {"keys": 8_952, "key_range": 10_000, "differing": []},
}
