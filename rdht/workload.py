"""Seeded commands, one client process of an experiment.

In a closed loop, as the original's, a thread begins a command when it has room for one in its
window. At a fixed rate each command has its time, known beforehand, and its latency counts from
there: if the table stands still for a second, all that were to begin in it have waited, and not
only the few that were in flight (coordinated omission, as Gil Tene calls that mistake).
"""

import functools
import json
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path

from rdht import ycsb
from rdht.coordinator import Command
from rdht.errors import ConfigurationError, DeadlineError, RdhtError
from rdht.execution import Execution, Outcome
from rdht.history import Recorder
from rdht.loop import Loop, Programme
from rdht.messages import Operation
from rdht.parts import Result
from rdht.profiles import PROFILES
from rdht.records import ClientRecord, Histogram, Second, ThreadRecord
from rdht.ring import Ring
from rdht.roster import Roster
from rdht.session import Session
from rdht.traffic import Traffic
from rdht.workloads import MIXED, Parameters, commands_of

PROGRESS_INTERVAL_S = 1.0
START_TIMEOUT_S = 120.0
_POLL_S = 0.005
_MOST_AT_A_RATE = 900  # connections: what waits for them takes no descriptor from 1,024 on
_DONE = Outcome.DONE
_logger = logging.getLogger("rdht")


class Pace:
    """When each command of a thread is to begin, at a fixed rate."""

    def __init__(self, parameters: Parameters, client: str, thread: int, begin_s: float) -> None:
        """Spread the threads' times over the interval by chance, the same for the same seed."""
        assert parameters.rate_per_s is not None
        self.interval_s = parameters.threads / parameters.rate_per_s
        rng = random.Random(f"{parameters.seed}/{client}/{thread}/pace")  # noqa: S311 - no secret
        self._first_s = begin_s + rng.random() * self.interval_s

    def begin_s(self, number: int) -> float:
        """Return when command `number` is to begin, counted from 0."""
        return self._first_s + number * self.interval_s

    def due(self, end_s: float) -> int:
        """Return how many commands are to begin before a time."""
        return max(0, math.ceil((end_s - self._first_s) / self.interval_s))


class ClientProcess:
    """The threads of one client, from their connections to their record."""

    def __init__(
        self,
        servers: Roster,
        name: str,
        parameters: Parameters,
        *,
        trace: bool,
        recorder: Recorder | None = None,
    ) -> None:
        """Prepare one session a thread; ConfigurationError for a parameter that cannot be.

        The history of all commands, those of the warm-up too, goes to `recorder`.
        """
        ring = Ring(servers, parameters.key_range)
        self._name = name
        self._parameters = parameters
        self._recorder = recorder
        self._stop = threading.Event()
        self._lost: dict[str, str] = {}
        self._errors: list[str] = []
        # Of each session, its conflicts and traffic when its warm-up ended; until then None.
        none = None if parameters.warmup_s else (0, dict[str, Traffic]())
        self._before: list[tuple[int, dict[str, Traffic]] | None] = [none] * parameters.threads
        self._versions = [dict[bytes, int]() for _ in range(parameters.threads)]
        self._records = [ThreadRecord(thread) for thread in range(parameters.threads)]
        if parameters.workload in ycsb.MIXES and ycsb.MIXES[parameters.workload].reads_latest:
            ycsb.weights_of(parameters.records)  # BEFORE the start, and once for all threads
        if parameters.rate_per_s and parameters.threads * len(servers.servers) > _MOST_AT_A_RATE:
            why = (
                f"{parameters.threads} threads with {len(servers.servers)} servers: a client that "
                f"keeps a rate has at most {_MOST_AT_A_RATE} connections"
            )
            raise ConfigurationError(why)
        profile = PROFILES[parameters.profile]
        if parameters.frame_bytes is not None:
            profile = profile._replace(frame_bytes=parameters.frame_bytes)
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

    def run(
        self,
        start_unix_s: float,
        report: Callable[[dict[str, object]], None],
        *,
        joins: bool = False,
    ) -> ClientRecord:
        """Run all threads to their end, with a warm-up from `start_unix_s` on; return the record.

        The record's times begin when the warm-up is over. One that `joins` others begins now, and
        ends with them. `report` gets the figures so far every PROGRESS_INTERVAL_S. Raises
        ConfigurationError for a start that is more than START_TIMEOUT_S away.
        """
        ahead_s = start_unix_s - time.time()
        if abs(ahead_s) > START_TIMEOUT_S and not joins:
            why = f"the start is {ahead_s:+.0f} s from now: is this host's clock right?"
            raise ConfigurationError(why)
        warmup_s = self._parameters.warmup_s
        now_s = time.monotonic()
        start_s = now_s + ahead_s + warmup_s
        from_s = max(now_s, start_s - warmup_s) if joins else start_s - warmup_s
        for record in self._records:
            record.joined = joins
        loop = Loop(
            (session, self._programme((from_s, start_s), session, record))
            for session, record in zip(self._sessions, self._records, strict=True)
        )

        def run() -> None:
            self._stop.wait(max(0.0, from_s - time.monotonic()))
            loop.run()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        next_s = max(start_s, from_s) + PROGRESS_INTERVAL_S
        seconds: list[Second] = []
        before = Second()
        while thread.is_alive():
            thread.join(max(_POLL_S, next_s - time.monotonic()))
            if time.monotonic() >= next_s:
                so_far = self._so_far(start_s)
                seconds.append(so_far.since(before))
                before = so_far
                report(self._progress(so_far, next_s - start_s))
                next_s += PROGRESS_INTERVAL_S
        seconds.append(self._so_far(start_s).since(before))
        for session in self._sessions:
            session.close()
        if self._recorder:
            self._recorder.close()
        return ClientRecord(
            self._name,
            self._parameters.profile,
            asdict(self._parameters),
            start_unix_s + warmup_s,
            self._stop.is_set(),
            self._lost,
            self._errors,
            self._records,
            seconds,
        )

    def _so_far(self, start_s: float) -> Second:
        """Return what all threads have done since the start."""
        latency = Histogram()
        for record in self._records:
            latency.merge(record.latency_get)
            latency.merge(record.latency_put)
        return Second(
            round(max(0.0, time.monotonic() - start_s), 6),
            sum(record.commands for record in self._records),
            sum(map(self._conflicts, range(self._parameters.threads))),
            sum(record.aborted for record in self._records),
            sum(record.unknown for record in self._records),
            latency,
        )

    def _progress(self, so_far: Second, elapsed_s: float) -> dict[str, object]:
        return {
            "client": self._name,
            "elapsed_s": round(elapsed_s, 3),
            "commands": so_far.commands,
            "conflicts": so_far.conflicts,
            "latency_us_p99": so_far.latency.percentile(99),
        }

    def _programme(
        self, times: tuple[float, float], session: Session, record: ThreadRecord
    ) -> Programme:
        """Run one thread, from where it begins, which is in its warm-up or later, to its record."""
        parameters, thread = self._parameters, record.thread
        begin_s, start_s = times
        record.started_s = max(0.0, time.monotonic() - start_s)
        session.on_end = functools.partial(self._note_end, record, start_s)
        if self._recorder:
            session.on_begin = functools.partial(self._recorder.begin, thread)
        try:
            if begin_s < start_s:  # with commands of its own, which are in flight when it ends
                try:
                    stream = f"{self._name}/warm-up"
                    span = begin_s, start_s
                    yield from self._commands(session, thread, stream, span, start_s, begin_s)
                finally:
                    self._before[thread] = (session.conflicts, session.traffic())
            else:
                self._before[thread] = (0, {})
            end_s = math.inf if parameters.duration_s is None else start_s + parameters.duration_s
            record.not_begun = yield from self._commands(
                session, thread, self._name, (max(start_s, begin_s), end_s), start_s
            )
            while session.is_busy:
                yield None
            session.drain()  # what is left to be sent
        except RdhtError as error:
            _logger.error("%s", error)  # noqa: TRY400 - the text says it all
            self._errors.append(str(error))
        for server, why in session.lost.items():
            _logger.error("lost server %s: %s", server, why)
            self._lost[server] = str(why)
        record.ended_s = max(0.0, time.monotonic() - start_s)  # some end in the warm-up
        record.connections = session.connections
        record.conflicts = self._conflicts(thread)
        record.traffic = session.traffic()
        for server, before in (self._before[thread] or (0, {}))[1].items():
            record.traffic[server].add(before, -1)

    def _conflicts(self, thread: int) -> int:
        """Return the conflicts of a session since its warm-up."""
        before = self._before[thread]
        return self._sessions[thread].conflicts - before[0] if before else 0

    def _note_end(self, record: ThreadRecord, start_s: float, execution: Execution) -> None:
        """Put down how a command has ended, but count none of the warm-up."""
        results = execution.results() if execution.outcome is _DONE else []
        if self._recorder:
            self._recorder.end(record.thread, execution, results)
        if self._parameters.workload == MIXED:
            _note_versions(self._versions[record.thread], execution.commands, results)
        if execution.begun_s < start_s:
            return
        operation = execution.commands[0].operation
        if execution.outcome is _DONE:
            done_s = time.monotonic()
            latency_s = done_s - execution.begun_s
            found = all(result.found for result in results)
            record.count_done(operation, done_s - start_s, latency_s, found=found)
        else:
            record.count_failure(operation, unknown=execution.outcome is Outcome.UNKNOWN)

    def _commands(  # noqa: PLR0913, PLR0917 - what tells one stream from another
        self,
        session: Session,
        thread: int,
        stream: str,
        span: tuple[float, float],
        start_s: float,
        stamp_s: float | None = None,
    ) -> Generator[float | None, None, int]:
        """Begin the commands of a stream between two times; return how many were due and were not.

        `stamp_s` marks them as begun then; without, they are what is limited to a number.
        """
        parameters, (begin_s, end_s) = self._parameters, span
        limit = parameters.commands if stamp_s is None else None
        commands = commands_of(
            parameters, stream, thread, lambda: time.monotonic() - start_s, self._versions[thread]
        )
        pace = Pace(parameters, stream, thread, begin_s) if parameters.rate_per_s else None
        command: Sequence[Command] | None = None
        begun = 0
        while (now_s := time.monotonic()) < end_s and begun != limit and not self._stop.is_set():
            intended_s = pace.begin_s(begun) if pace else stamp_s
            if pace and intended_s and now_s < intended_s:
                yield min(intended_s, end_s)
                continue
            command = command or next(commands)
            if not session.has_room([one.key for one in command], parameters.window):
                yield None
                continue
            session.submit(command, parameters.window, intended_s)
            command = None
            begun += 1
            if not session.is_busy:  # it ended at once, as its range is lost
                yield None
        if pace and limit is None and not self._stop.is_set():
            return pace.due(end_s) - begun
        return 0


def _note_versions(
    versions: dict[bytes, int], commands: Sequence[Command], results: Sequence[Result]
) -> None:
    """Remember at which version each key of a command is now, if all of it was told."""
    if len(results) == len(commands):
        ordered = sorted(commands, key=attrgetter("key"))
        for command, (found, version, _) in zip(ordered, results, strict=True):
            wrote = found and command.operation is not Operation.GET
            versions[command.key] = version + wrote
