"""The options of an experiment, as they are typed and as `python -m rdht` takes them."""

import math
import secrets
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.errors import UsageError
from cluster.roster import check_placement
from rdht.limits import (
    MAX_KEY_BYTES,
    MAX_RATE_PER_S,
    MAX_VALUE_BYTES,
    MAX_WARMUP_S,
    MAX_WINDOW,
    RECEIVE_BYTES,
)
from rdht.profiles import PROFILES
from rdht.roster import DEFAULT_KEY_RANGE, Roster
from rdht.workloads import CLASSIC, WORKLOADS
from rdht.ycsb import DEFAULT_RECORDS, DEFAULT_VALUE_BYTES, MIXES

DATA_FOLDER = "data"  # in a run's folder on a host: what durable servers keep
_KEY_SIZES = f"a number from 1 to {MAX_KEY_BYTES}"
_SCANS = "ycsb-e"
ALL, SAMPLE, OFF = "all", "sample", "off"
_HISTORIES = (ALL, SAMPLE, OFF)
_OF_CLASSIC = ("key_size", "get_ratio")
_OF_YCSB = ("records", "value_bytes")
_MIN_RATE_PER_S = 0.001
_RATES = f"a number from {_MIN_RATE_PER_S:g} to {MAX_RATE_PER_S:,g}"
_WARMUPS = f"a number of seconds up to {MAX_WARMUP_S:g}"
_WINDOWS = f"a number from 1 to {MAX_WINDOW - 1}"


def option(default: Any, text: str) -> Any:
    """Return a field that is an option of a task, with its help."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ServerOptions:
    """What every server is started with; each field is an option of `start-servers`."""

    workers: int = option(1, "threads of each server, each with its own share of the connections")
    trace: bool = option(False, "log every message")
    durable: bool = option(False, "keep on disk whatever is promised, until fab clean")

    def checked(self) -> "ServerOptions":
        """Return the options; UsageError names a wrong one, and what is right."""
        if self.workers < 1:
            why = f"--workers {self.workers} is not a number from 1 on"
            raise UsageError(why)
        return self

    def argv(self, name: str, roster: str) -> list[str]:
        """Return the command line of one server, as seen from its run's folder."""
        words = ["server", "--roster", roster, "--name", name, "--workers", str(self.workers)]
        durable = ["--durable", f"{DATA_FOLDER}/{name}"] if self.durable else []
        return [*words, *durable, *(["--trace"] if self.trace else [])]


@dataclass(frozen=True)
class ClientOptions:
    """What every client is started with; each field is an option of `run` and `start-clients`."""

    workload: str = option(CLASSIC, f"what the clients do: {', '.join(WORKLOADS)}")
    records: int = option(DEFAULT_RECORDS, "how many a YCSB workload has; they are written first")
    value_bytes: int = option(DEFAULT_VALUE_BYTES, "size of each record of a YCSB workload")
    threads: int = option(8, "threads of each client")
    key_size: int = option(4, "letters in a key")
    key_range: int = option(DEFAULT_KEY_RANGE, "buckets that are shared out over the servers")
    get_ratio: float = option(0.6, "share of gets, 0 to 1")
    commands: int = option(0, "end after so many commands a thread (default: by --duration)")
    duration: float = option(10.0, "end after so many seconds")
    target_rate: float = option(
        0.0, "commands a second of all clients together, at fixed times (default: a closed loop)"
    )
    warmup: float = option(1.0, "seconds before the figures begin")
    seed: int | None = option(None, "same seed, same commands (default: a new one)")
    profile: str = option("classic", f"how the protocol is spoken: {', '.join(sorted(PROFILES))}")
    window: int = option(1, "commands of a thread in flight")
    frame_bytes: int = option(0, "pad frames to so many bytes (default: the profile's)")
    history: str = option(ALL, f"which keys' history is kept and judged: {', '.join(_HISTORIES)}")
    trace: bool = option(False, "log every message")

    @property
    def duration_s(self) -> float | None:
        """How long the clients run; None if they end after a number of commands."""
        return None if self.commands else self.duration

    def checked(self, servers: Roster) -> "ClientOptions":
        """Return the options with a seed; UsageError names a wrong option, and what is right."""
        for option, value, right, expected in (
            ("threads", self.threads, self.threads >= 1, "a number from 1 on"),
            ("key-size", self.key_size, 1 <= self.key_size <= MAX_KEY_BYTES, _KEY_SIZES),
            ("commands", self.commands, self.commands >= 0, "a number from 1 on"),
            ("get-ratio", self.get_ratio, 0 <= self.get_ratio <= 1, "a number from 0 to 1"),
            (
                "duration",
                self.duration,
                0 < self.duration < math.inf,
                "a positive number of seconds",
            ),
            ("target-rate", self.target_rate, self._rate_can_be(), _RATES),
            ("warmup", self.warmup, 0 <= self.warmup <= MAX_WARMUP_S, _WARMUPS),
            ("records", self.records, self.records >= 1, "a number from 1 on"),
            (
                "value-bytes",
                self.value_bytes,
                1 <= self.value_bytes <= MAX_VALUE_BYTES,
                f"a number from 1 to {MAX_VALUE_BYTES:,}",
            ),
            ("profile", self.profile, self.profile in PROFILES, " or ".join(sorted(PROFILES))),
            (
                "frame-bytes",
                self.frame_bytes,
                0 <= self.frame_bytes <= RECEIVE_BYTES,
                f"a number up to {RECEIVE_BYTES:,}",
            ),
            ("history", self.history, self.history in _HISTORIES, " or ".join(_HISTORIES)),
            ("window", self.window, 1 <= self.window < MAX_WINDOW, _WINDOWS),
            ("seed", self.seed, self.seed is None or str(self.seed).isdecimal(), "a whole number"),
        ):
            if not right:
                why = f"--{option} {value} is not {expected}"
                raise UsageError(why)
        self._check_workload()
        check_placement(servers, self.key_range)
        return replace(self, seed=secrets.randbits(32) if self.seed is None else int(self.seed))

    def _check_workload(self) -> None:
        """Raise UsageError for a workload that is none, or an option that it has no use for."""
        if self.workload not in WORKLOADS:
            why = f"--workload {self.workload} is not {' or '.join(WORKLOADS)}"
            if self.workload == _SCANS:
                why += "; it scans keys in their order, and a hash table has none"
            raise UsageError(why)
        taken = {CLASSIC: _OF_CLASSIC}.get(
            self.workload, _OF_YCSB if self.workload in MIXES else ()
        )
        for name in {*_OF_YCSB, *_OF_CLASSIC} - {*taken}:
            if getattr(self, name) != getattr(ClientOptions, name):
                option = name.replace("_", "-")
                whose = "a YCSB workload" if name in _OF_YCSB else "the classic workload"
                why = f"--{option} is of {whose}: --workload {self.workload} has no use for it"
                raise UsageError(why)

    def argv_of_load(self, roster: str) -> list[str]:
        """Return the command line that writes the workload's records."""
        words = [
            *("load", "--roster", roster, "--key-range", self.key_range, "--seed", self.seed),
            *("--records", self.records, "--value-bytes", self.value_bytes),
        ]
        return [str(word) for word in words]

    def _rate_can_be(self) -> bool:
        return not self.target_rate or _MIN_RATE_PER_S <= self.target_rate <= MAX_RATE_PER_S

    def argv_of_history(self, stem: str) -> list[str]:
        """Return what a process with files of that stem is told to keep of its history."""
        if self.history == OFF:
            return []
        words = ["--history", stem.replace("client", "history") + ".bin"]
        return [*words, "--sample"] if self.history == SAMPLE else words

    def argv(self, name: str, stem: str, roster: str, clients: int) -> list[str]:
        """Return the command line of one of so many clients, whose files have the given stem."""
        share = self.target_rate / clients
        length = ["--commands", self.commands] if self.commands else ["--duration", self.duration]
        words = [
            "client",
            *("--roster", roster, "--name", name, "--profile", self.profile),
            *("--window", self.window),
            *(["--frame-bytes", self.frame_bytes] if self.frame_bytes else []),
            *("--threads", self.threads, "--key-size", self.key_size),
            *("--key-range", self.key_range, "--get-ratio", self.get_ratio),
            *length,
            *("--workload", self.workload),
            *("--records", self.records, "--value-bytes", self.value_bytes),
            *(["--rate", share] if share else []),
            *("--warmup", self.warmup),
            *("--seed", self.seed, "--start-file", "start.json"),
            *("--results", stem.replace("client", "results") + ".json"),
            *("--progress", f"{stem}.progress.json"),
            *self.argv_of_history(stem),
            *(["--trace"] if self.trace else []),
        ]
        return [str(word) for word in words]
