"""Seeded commands in a closed loop: the original's experiment, one client process of it.

The classic mix draws keys of a fixed number of letters a to z, gets with a given probability and
otherwise puts if absent (the original's put) a value from 0 to 99.
"""

import functools
import json
import logging
import random
import string
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rdht.coordinator import Command
from rdht.errors import ConfigurationError, DeadlineError, RdhtError
from rdht.execution import Execution, Outcome
from rdht.messages import Operation
from rdht.profiles import PROFILES
from rdht.records import ClientRecord, Histogram, ThreadRecord
from rdht.ring import Ring
from rdht.roster import Roster
from rdht.session import Session

PROGRESS_INTERVAL_S = 1.0
START_TIMEOUT_S = 120.0
_POLL_S = 0.005
_LETTERS = string.ascii_lowercase.encode()
_VALUES = [str(number).encode() for number in range(100)]
_logger = logging.getLogger("rdht")


@dataclass(frozen=True)
class Parameters:
    """What a client process runs: `commands` a thread, or for `duration_s` if that is None."""

    threads: int
    key_size: int
    key_range: int
    get_ratio: float
    commands: int | None
    duration_s: float | None
    seed: int
    profile: str
    window: int  # commands of a thread in flight


def classic_commands(parameters: Parameters, client: str, thread: int) -> Iterator[Command]:
    """Yield the commands of one thread, the same for the same seed, client and thread."""
    rng = random.Random(f"{parameters.seed}/{client}/{thread}")  # noqa: S311 - no secret
    while True:
        key = bytes(rng.choices(_LETTERS, k=parameters.key_size))
        if rng.random() < parameters.get_ratio:
            yield Command(Operation.GET, key)
        else:
            yield Command(Operation.ADD, key, rng.choice(_VALUES))


class ClientProcess:
    """The threads of one client, from their connections to their record."""

    def __init__(self, servers: Roster, name: str, parameters: Parameters, *, trace: bool) -> None:
        """Prepare one session a thread; ConfigurationError for a parameter that cannot be."""
        ring = Ring(servers, parameters.key_range)
        self._name = name
        self._parameters = parameters
        self._stop = threading.Event()
        self._lost: dict[str, str] = {}
        self._errors: list[str] = []
        self._records = [ThreadRecord(thread) for thread in range(parameters.threads)]
        profile = PROFILES[parameters.profile]
        secret = servers.secret()
        self._sessions = [
            Session(servers, ring, profile, name, thread, secret=secret, trace=trace)
            for thread in range(parameters.threads)
        ]

    def connect(self) -> None:
        """Open every thread's connection to every server."""
        for session in self._sessions:
            session.connect()

    def stop(self) -> None:
        """End each thread after the command that it is at."""
        self._stop.set()

    def wait_for_start(self, path: Path) -> float:
        """Wait at the barrier: return the Unix time (s) that the start file names once it is there.

        Raises DeadlineError after START_TIMEOUT_S, and when stopped before.
        """
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s and not self._stop.wait(_POLL_S):
            if path.exists():
                return float(json.loads(path.read_text(encoding="utf-8"))["start_unix_s"])
        why = f"stopped, or not given the start within {START_TIMEOUT_S:.0f} s"
        raise DeadlineError(why)

    def run(self, start_unix_s: float, report: Callable[[dict[str, object]], None]) -> ClientRecord:
        """Run all threads from `start_unix_s` on to their end; return the record.

        `report` gets the figures so far every PROGRESS_INTERVAL_S. Raises ConfigurationError for
        a start that is more than START_TIMEOUT_S away.
        """
        ahead_s = start_unix_s - time.time()
        if abs(ahead_s) > START_TIMEOUT_S:
            why = f"the start is {ahead_s:+.0f} s from now: is this host's clock right?"
            raise ConfigurationError(why)
        start_s = time.monotonic() + ahead_s
        threads = [
            threading.Thread(target=self._run_thread, args=(start_s, *pair), daemon=True)
            for pair in zip(self._sessions, self._records, strict=True)
        ]
        for thread in threads:
            thread.start()
        next_s = start_s + PROGRESS_INTERVAL_S
        for thread in threads:
            while thread.is_alive():
                thread.join(max(_POLL_S, next_s - time.monotonic()))
                if time.monotonic() >= next_s:
                    report(self._progress(next_s - start_s))
                    next_s += PROGRESS_INTERVAL_S
        for session in self._sessions:
            session.close()
        return ClientRecord(
            self._name,
            self._parameters.profile,
            asdict(self._parameters),
            start_unix_s,
            self._stop.is_set(),
            self._lost,
            self._errors,
            self._records,
        )

    def _progress(self, elapsed_s: float) -> dict[str, object]:
        latency = Histogram()
        for record in self._records:
            latency.merge(record.latency())
        return {
            "client": self._name,
            "elapsed_s": round(elapsed_s, 3),
            "commands": sum(record.commands for record in self._records),
            "conflicts": sum(session.counters().conflicts for session in self._sessions),
            "latency_us_p99": latency.percentile(99),
        }

    def _run_thread(self, start_s: float, session: Session, record: ThreadRecord) -> None:
        time.sleep(max(0.0, start_s - time.monotonic()))
        record.started_s = time.monotonic() - start_s
        try:
            self._loop(start_s, session, record)
        except RdhtError as error:
            _logger.error("%s", error)  # noqa: TRY400 - the text says it all
            self._errors.append(str(error))
        for server, why in session.lost.items():
            _logger.error("lost server %s: %s", server, why)
            self._lost[server] = str(why)
        record.ended_s = time.monotonic() - start_s
        counters = session.counters()
        for name, value in asdict(counters).items():
            setattr(record, name, value)

    def _loop(self, start_s: float, session: Session, record: ThreadRecord) -> None:
        """Run commands until the end is reached."""
        limit = self._parameters.commands
        window = self._parameters.window
        duration_s = self._parameters.duration_s
        end_s = float("inf") if duration_s is None else start_s + duration_s
        commands = classic_commands(self._parameters, self._name, record.thread)
        session.on_end = functools.partial(_count, record, start_s)
        begun = 0
        while time.monotonic() < end_s and begun != limit and not self._stop.is_set():
            session.submit((next(commands),), window)
            begun += 1
        session.drain()


def _count(record: ThreadRecord, start_s: float, execution: Execution) -> None:
    """Put down how a command has ended."""
    (command,) = execution.commands
    if execution.outcome is Outcome.DONE:
        done_s = time.monotonic()
        latency_s = done_s - execution.begun_s
        found = execution.results()[0].found
        record.count_done(command.operation, done_s - start_s, latency_s, found=found)
    else:
        record.count_failure(command.operation, unknown=execution.outcome is Outcome.UNKNOWN)
