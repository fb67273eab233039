"""The result format: what a client process leaves behind, one JSON file each.

The operator's side reads it with these same classes.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rdht.errors import ConfigurationError
from rdht.messages import Operation
from rdht.traffic import Traffic, total

FORMAT = 3
_LINEAR_BITS = 8
SLOT_S = 0.1  # width of the slots in which completed commands are counted


class Histogram:
    """Latencies in whole microseconds, log-linear as in HdrHistogram; merges without loss.

    Below 256 us a bucket is 1 us wide; from there on each power of two is cut into 128 buckets,
    so a value is known to within 1/128 of itself.
    """

    def __init__(self, counts: dict[int, int] | None = None, max_us: int = 0) -> None:
        """Start empty, or with the counts of a recorded histogram by bucket number."""
        self.counts: dict[int, int] = dict(counts or {})
        self.max_us = max_us

    def add(self, value_us: int) -> None:
        """Count one value."""
        shift = value_us.bit_length() - _LINEAR_BITS
        bucket = (shift << _LINEAR_BITS - 1) + (value_us >> shift) if shift > 0 else value_us
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.max_us = max(self.max_us, value_us)

    def merge(self, other: "Histogram") -> None:
        """Add all of another histogram's values; a thread may be adding to that one."""
        for bucket, count in other.counts.copy().items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.max_us = max(self.max_us, other.max_us)

    def since(self, before: "Histogram") -> "Histogram":
        """Return what was counted since `before`, which was this one then."""
        grown = {bucket: n - before.counts.get(bucket, 0) for bucket, n in self.counts.items()}
        counts = {bucket: n for bucket, n in grown.items() if n}
        largest_us = self.upper_us(max(counts)) if counts else 0
        return Histogram(counts, min(largest_us, self.max_us))

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.counts.values())

    def percentile(self, percent: float) -> int | None:
        """Return the smallest recorded value (us) that `percent` of all do not exceed.

        It is the upper end of that value's bucket, so it never flatters; None if there are none.
        """
        needed = -(-self.total * round(percent * 1000) // 100_000)  # rounded up, without floats
        reached = 0
        for bucket in sorted(self.counts):
            reached += self.counts[bucket]
            if reached >= needed:
                return min(self.upper_us(bucket), self.max_us)
        return None

    @staticmethod
    def upper_us(bucket: int) -> int:
        """Return the largest value that a bucket counts."""
        half = 1 << _LINEAR_BITS - 1
        shift = max(0, bucket // half - 1)
        return ((bucket - shift * half + 1) << shift) - 1

    def to_json(self) -> dict[str, Any]:
        """Return the document that `from_json` reads."""
        return {"max_us": self.max_us, "counts": dict(sorted(self.counts.items()))}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read a recorded histogram."""
        counts = {int(bucket): count for bucket, count in document["counts"].items()}
        return cls(counts, document["max_us"])


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """Return all values of several histograms in one."""
    together = Histogram()
    for one in histograms:
        together.merge(one)
    return together


@dataclass
class ThreadRecord:
    """What one client thread did; times are seconds after the agreed start."""

    thread: int
    joined: bool = False  # in the place of one that was killed, while others ran
    started_s: float = 0.0
    ended_s: float = 0.0
    gets: int = 0
    puts: int = 0
    succeeded: int = 0
    not_found: int = 0
    already_there: int = 0
    conflicts: int = 0
    aborted: int = 0
    unknown: int = 0
    not_begun: int = 0  # at a fixed rate: that were due and found no room in the window
    connections: int = 0
    traffic: dict[str, Traffic] = field(default_factory=dict)  # by server
    completed: list[int] = field(default_factory=list)  # commands in each slot of SLOT_S
    latency_get: Histogram = field(default_factory=Histogram)
    latency_put: Histogram = field(default_factory=Histogram)

    def count_done(
        self, operation: Operation, ended_s: float, latency_s: float, *, found: bool
    ) -> None:
        """Count a command that was carried out; `found` tells status 7 from status 9."""
        slot = int(ended_s / SLOT_S)
        while slot >= len(self.completed):
            self.completed.append(0)
        self.completed[slot] += 1
        self.succeeded += found
        if operation is Operation.GET:
            self.gets += 1
            self.not_found += not found
            self.latency_get.add(int(latency_s * 1e6))
        else:
            self.puts += 1
            self.already_there += not found
            self.latency_put.add(int(latency_s * 1e6))

    def count_failure(self, operation: Operation, *, unknown: bool) -> None:
        """Count a command that was aborted, or whose outcome is unknown."""
        self.gets += operation is Operation.GET
        self.puts += operation is not Operation.GET
        self.aborted += not unknown
        self.unknown += unknown

    @property
    def commands(self) -> int:
        """How many commands ended, in whichever way."""
        return self.gets + self.puts

    @property
    def bytes_sent(self) -> int:
        """What went to all servers, in bytes."""
        return total(self.traffic.values()).bytes_sent

    @property
    def bytes_received(self) -> int:
        """What came from all servers, in bytes."""
        return total(self.traffic.values()).bytes_received

    def latency(self) -> Histogram:
        """Return the latencies of gets and puts together."""
        return merged([self.latency_get, self.latency_put])


@dataclass
class Second:
    """What all threads of a client completed since the row before, about a second earlier."""

    ended_s: float = 0.0  # after the agreed start
    commands: int = 0
    conflicts: int = 0
    aborted: int = 0
    unknown: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def since(self, before: "Second") -> "Second":
        """Return what came to these totals since `before`, which they were then."""
        return Second(
            self.ended_s,
            self.commands - before.commands,
            self.conflicts - before.conflicts,
            self.aborted - before.aborted,
            self.unknown - before.unknown,
            self.latency.since(before.latency),
        )


@dataclass
class ClientRecord:
    """What one client process did.

    `lost` has the servers that it lost, and how; `errors` whatever else ended a thread early.
    """

    client: str
    profile: str
    parameters: dict[str, Any]
    started_unix_s: float
    interrupted: bool
    lost: dict[str, str]
    errors: list[str]
    threads: list[ThreadRecord]
    seconds: list[Second]

    def write(self, path: Path) -> None:
        """Write the record; the file is there whole or not at all."""
        document = {"format": FORMAT, **vars(self)}
        document["threads"] = [_thread_to_json(thread) for thread in self.threads]
        document["seconds"] = [
            {**vars(second), "latency": second.latency.to_json()} for second in self.seconds
        ]
        write_json(path, document)


def read(path: Path) -> ClientRecord:
    """Read a result file; ConfigurationError if it is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            why = f"{path}: not a result file of format {FORMAT}"
            raise ConfigurationError(why)
        threads = [_thread_from_json(thread) for thread in document.pop("threads")]
        seconds = [
            Second(**{**second, "latency": Histogram.from_json(second["latency"])})
            for second in document.pop("seconds")
        ]
        return ClientRecord(**document, threads=threads, seconds=seconds)
    except OSError as error:
        why = f"{path}: cannot read the results: {error.strerror}"
        raise ConfigurationError(why) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{path}: not a result file: {error}"
        raise ConfigurationError(why) from error


def write_json(path: Path, document: object) -> None:
    """Write a JSON file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document) + "\n", encoding="utf-8")
    temporary.replace(path)


def _thread_to_json(record: ThreadRecord) -> dict[str, Any]:
    histograms = {
        "latency_get": record.latency_get.to_json(),
        "latency_put": record.latency_put.to_json(),
        "traffic": {server: traffic.to_json() for server, traffic in record.traffic.items()},
    }
    return {**vars(record), **histograms}


def _thread_from_json(document: dict[str, Any]) -> ThreadRecord:
    histograms = {
        name: Histogram.from_json(document[name]) for name in ("latency_get", "latency_put")
    }
    traffic = {server: Traffic.from_json(one) for server, one in document["traffic"].items()}
    return ThreadRecord(**{**document, **histograms, "traffic": traffic})
