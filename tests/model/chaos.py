"""Real processes on loopback that are killed and stopped under load, and a judge of what they did.

Five `python -m rdht server` and some clients run; a seeded schedule sends them SIGKILL, SIGSTOP and
SIGCONT. Each client writes down when each command began and ended, and what it was told, so that
what a killed one had in flight is known too. All is healed in the end; then every command must
succeed again, the replicas must be equal, and the histories linearizable.

To lose power means SIGKILL to all servers here. What a process has written outlives it in the
kernel, synced or not; so a missing fdatasync cannot show, but only a record that was still in the
process: `rdht/store.py` keeps them until it syncs. The simulator's disks lose what is not synced.

    python -m tests.model.chaos --mode memory --seconds 600 --seed 1
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from analysis.disorder import explain_disorder
from analysis.linearizability import find_order
from analysis.register import NEVER, Call, Transaction
from rdht import log, roster
from rdht.authentication import make_secret
from rdht.client import Client, Pipeline, observe
from rdht.coordinator import Command
from rdht.errors import AbortedError, RdhtError, UnknownOutcomeError
from rdht.execution import Execution, Outcome
from rdht.messages import Message, Operation, Status
from rdht.parts import Result
from rdht.profiles import PROFILES
from rdht.ring import Ring
from rdht.roster import DEFAULT_KEY_RANGE, Roster, ServerAddress
from rdht.session import Session
from rdht.transport import read_json

ROOT = Path(__file__).parents[2]
SERVERS = tuple(f"s{number}" for number in range(5))
CLIENTS = (  # profile and window of each
    *(("fast", 8), ("classic", 1), ("fast", 1), ("classic", 8)),
    *(("fast", 8), ("classic", 1), ("fast", 1)),
)
KEYS = 8  # in use at the same time
ROUND_S = 4.0  # then other keys are taken, so that no history of a key grows without end
BATCH = 40  # commands of one pipeline
LARGE_BYTES = 100_000

# The schedule.
GAP_S = 0.35  # between two faults, on average
DEEDS = {"kill server": 8, "kill all": 1, "kill client": 4, "pause server": 6, "pause client": 3}
PAUSE_S = (0.05, 3.0)
DOWN_S = (0.0, 0.6)
MOST_PAUSED = 3  # at the same time, of all processes
LOOK_S = 0.05

# What counts as a failure; generous, for two cores that others load too.
SERVED_TIMEOUT_S = 60.0
SETTLED_TIMEOUT_S = 30.0
EXIT_TIMEOUT_S = 40.0
VERIFY_TIMEOUT_S = 60.0
REPORT_S = 5.0

_ALARMING = re.compile(r"CRITICAL|ERROR|Traceback|closed the connection from")
_PORTS = range(20_000, 32_000)  # below those that the kernel gives to clients


class Failure(Exception):  # noqa: N818 - what the experiment is there to find
    """The table broke a promise, or a process ended that was not to end."""


def fail(why: str) -> NoReturn:
    """End the experiment."""
    raise Failure(why)


# What a client does, and how it is written down.


class History:
    """A file of what was begun and what ended, a line each, which outlives its process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def begin(self, number: int, commands: Sequence[Command]) -> None:
        rows = [
            [one.operation.name, one.key.decode(), _mark(one.value), one.version]
            for one in commands
        ]
        self._write({"begin": number, "ns": time.monotonic_ns(), "commands": rows})

    def end(self, execution: Execution) -> None:
        row: dict[str, Any] = {"end": execution.sequence, "ns": time.monotonic_ns()}
        row["outcome"] = execution.outcome
        if execution.outcome is Outcome.DONE:
            results = execution.results()
            row["told"] = [[one.found, one.version, _mark(one.value)] for one in results]
        else:
            row["why"] = execution.why
        self._write(row)

    def _write(self, row: dict[str, Any]) -> None:
        os.write(self._descriptor, json.dumps(row).encode() + b"\n")  # one call: all or nothing


def make_value(mark: str, size: int) -> bytes:
    """Return a value of about so many bytes that can be told from all others, whole or cut."""
    return f"{mark}:{size}".encode().ljust(size, b"~")


def _mark(value: bytes) -> str:
    """Return what stands for a value in a history."""
    text = value.rstrip(b"~").decode()
    if text and make_value(*_split(text)) != value:
        return f"damaged {text}: {len(value)} bytes"
    return text


def _split(text: str) -> tuple[str, int]:
    mark, _, size = text.rpartition(":")
    return mark, int(size)


class RecordingSession(Session):
    """A session that writes down its commands."""

    history: History
    begun = 0

    def _begin(self, execution: Execution) -> None:
        if execution.sequence > self.begun:  # BEFORE anything of it is sent
            self.begun = execution.sequence
            self.history.begin(execution.sequence, execution.commands)
        super()._begin(execution)


class RecordingClient(Client):
    """A client whose one thread's commands are written down."""

    def __init__(
        self, servers: Roster, profile: str, name: str, path: Path, *, trace: bool = False
    ) -> None:
        super().__init__(servers, profile=profile, name=name)
        ring, secret = Ring(servers, DEFAULT_KEY_RANGE), servers.secret()
        self.session = RecordingSession(
            servers, ring, PROFILES[profile], name, 0, secret=secret, trace=trace
        )
        self.session.history = History(path)
        self.session.on_end = self.session.history.end

    def _session(self) -> Session:
        return self.session


class Load:
    """The random commands of one client process."""

    def __init__(self, client: RecordingClient, arguments: argparse.Namespace) -> None:
        self.stopping = False
        self._client = client
        self._name = arguments.name
        self._window = arguments.window
        self._origin_s = arguments.origin
        self._interval_s = 1 / arguments.rate
        self._rng = random.Random(arguments.seed)
        self._numbers = count(1)

    def run(self) -> None:
        """Issue commands at the rate, or as fast as it gets, until stopped."""
        next_s = time.monotonic()
        while not self.stopping:
            size = 1 if self._window == 1 else BATCH
            with contextlib.suppress(AbortedError, UnknownOutcomeError):
                if self._window == 1:
                    self._issue(self._client)
                else:
                    with self._client.pipeline(self._window) as pipeline:
                        self._issue_batch(pipeline)
            next_s = max(next_s + size * self._interval_s, time.monotonic() - 0.1)
            time.sleep(max(0.0, next_s - time.monotonic()))

    def _issue_batch(self, pipeline: Pipeline) -> None:
        for _ in range(BATCH):
            self._issue(pipeline)

    def _issue(self, target: Client | Pipeline) -> None:
        rng = self._rng
        number = int((time.monotonic() - self._origin_s) / ROUND_S)
        keys = [f"r{number}-k{at}" for at in range(KEYS)]
        key = rng.choice(keys)
        kind = rng.choices(range(7), (26, 24, 10, 10, 12, 10, 8))[0]
        if kind == 0:
            target.get(key)
        elif kind == 1:
            target.put(key, self._value())
        elif kind == 2:
            target.add(key, self._value())
        elif kind == 3:
            target.delete(key)
        elif kind == 4:
            target.cas(key, self._value(), self._guess_version(key))
        elif kind == 5:
            chosen = rng.sample(keys, rng.randint(2, 4))
            self._many([Command(Operation.PUT, one.encode(), self._value()) for one in chosen])
        else:
            self._many([Command(Operation.GET, one.encode()) for one in rng.sample(keys, 3)])

    def _many(self, commands: list[Command]) -> None:
        if self._window == 1 and commands[0].operation is Operation.PUT:
            self._client.put_many({one.key: one.value for one in commands})
        elif self._window == 1:
            self._client.get_many(one.key for one in commands)
        else:
            self._client.session.submit(commands, self._window)

    def _value(self) -> bytes:
        size = self._rng.choices((0, 500, LARGE_BYTES), (80, 18, 2))[0]
        return make_value(f"{self._name}-{next(self._numbers)}", size)

    def _guess_version(self, key: str) -> int:
        """Return the key's version if nobody else is at it, or a wrong one."""
        if self._window > 1 or self._rng.random() < 0.3:
            return self._rng.randint(0, 20)
        return self._client.get_versioned(key).version


def run_client(arguments: argparse.Namespace) -> int:
    """Be one client process, until TERM."""
    log.set_up(f"client {arguments.name}")
    servers = roster.load(arguments.roster)
    client = RecordingClient(
        servers, arguments.profile, arguments.name, arguments.history, trace=arguments.trace
    )
    load = Load(client, arguments)

    def stop(_number: int, _frame: FrameType | None) -> None:
        load.stopping = True

    signal.signal(signal.SIGTERM, stop)
    load.run()
    client.close()
    return 0


# The processes, and what is done to them.


@dataclass
class Process:
    """One process of the experiment."""

    name: str
    popen: subprocess.Popen[bytes]
    resume_s: float = 0.0  # until when it is stopped

    @property
    def is_paused(self) -> bool:
        """Whether it is stopped."""
        return self.resume_s > 0


@dataclass
class Report:
    """The figures of one experiment."""

    server_kills: int = 0
    client_kills: int = 0
    all_kills: int = 0  # of all servers at once, each a kill as well
    server_pauses: int = 0
    client_pauses: int = 0
    rejoins: int = 0
    worst_recovery_s: float = 0.0  # from the start of a killed server until all was served again
    outcomes: Counter[str] = field(default_factory=Counter)
    keys: int = 0

    def __str__(self) -> str:
        outcomes = " ".join(f"{name} {number}" for name, number in sorted(self.outcomes.items()))
        return (
            f"kills {self.server_kills} servers ({self.all_kills} x all) {self.client_kills} "
            f"clients; pauses {self.server_pauses} servers {self.client_pauses} clients; "
            f"rejoins {self.rejoins}, worst {self.worst_recovery_s:.1f} s; "
            f"keys {self.keys}; commands: {outcomes or '-'}"
        )


class Experiment:
    """One run: processes, faults, healing and judgement."""

    def __init__(  # noqa: PLR0913 - what an experiment can be given
        self,
        folder: Path,
        *,
        durable: bool,
        seed: int,
        rate: float = 100.0,
        gap_s: float = GAP_S,
        trace: bool = False,
    ) -> None:
        """Keep all files in `folder`."""
        self.report = Report()
        self.folder = folder
        self.rng = random.Random(seed)
        self.origin_s = time.monotonic()
        self._durable = durable
        self._rate = rate
        self._gap_s = gap_s
        self._trace = ["--trace"] if trace else []
        self._servers: dict[str, Process] = {}
        self._clients: list[Process] = []  # one each of CLIENTS
        self._numbers = count(1)
        self._restart_s: dict[str, float] = {}  # servers that are down, and until when
        self._recovering: dict[str, float] = {}  # servers that were started, and when
        self._deeds: list[str] = []  # those to come, every one before any comes again
        self._is_kill_due = False  # as soon as it may be
        self._events = (folder / "events.log").open("a", encoding="utf-8")
        (folder / "histories").mkdir()
        self.roster_path = folder / "roster.json"
        self.roster = self._make_roster()

    def _make_roster(self) -> Roster:
        secret = self.folder / "secret"
        secret.touch(0o600)
        secret.write_text(make_secret(), encoding="utf-8")
        address, ports = _free_ports(len(SERVERS))
        rows = [
            ServerAddress(name, f"host-{name}", address, port)
            for name, port in zip(SERVERS, ports, strict=True)
        ]
        document = Roster(tuple(rows), Path("secret")).to_json()
        self.roster_path.write_text(json.dumps(document), encoding="utf-8")
        return roster.load(self.roster_path)

    # Single deeds.

    def log(self, text: str) -> None:
        """Note what was done, with the time that the histories have too."""
        self._events.write(f"{time.monotonic():.6f} {text}\n")
        self._events.flush()

    def _start(self, name: str, words: Sequence[object]) -> Process:
        self.log(f"start {name}")
        command = [sys.executable, "-m", *map(str, words)]
        with (self.folder / f"{name}.log").open("ab") as output:
            popen = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        return Process(name, popen)

    def _start_server(self, name: str) -> None:
        words = ["rdht", "server", "--roster", self.roster_path, "--name", name]
        if self._durable:
            words += ["--durable", self.folder / f"data-{name}"]
        self._servers[name] = self._start(name, [*words, *self._trace])
        self._restart_s.pop(name, None)
        self._recovering[name] = time.monotonic()

    def _start_client(self, slot: int) -> Process:
        profile, window = CLIENTS[slot]
        name = f"c{next(self._numbers)}"
        words: list[object] = ["tests.model.chaos", "client", "--roster", self.roster_path]
        words += ["--name", name, "--profile", profile, "--window", window, "--rate", self._rate]
        words += ["--seed", self.rng.getrandbits(32), "--origin", self.origin_s]
        words += ["--history", self.folder / "histories" / f"{name}.jsonl"]
        return self._start(name, [*words, *self._trace])

    def _processes(self) -> list[Process]:
        return [*self._servers.values(), *self._clients]

    def _kill(self, processes: Iterable[Process]) -> None:
        killed = list(processes)
        for process in killed:
            self.log(f"kill {process.name}")
            process.popen.kill()
        for process in killed:
            process.popen.wait()

    def _pause(self, process: Process) -> None:
        pause_s = self.rng.uniform(*PAUSE_S) ** 2 / PAUSE_S[1]  # short ones are more frequent
        self.log(f"stop {process.name} for {pause_s:.3f} s")
        process.popen.send_signal(signal.SIGSTOP)
        process.resume_s = time.monotonic() + pause_s

    def _resume(self, process: Process) -> None:
        self.log(f"continue {process.name}")
        process.popen.send_signal(signal.SIGCONT)
        process.resume_s = 0.0

    def figures(self, name: str) -> dict[str, Any] | None:
        """Return a server's figures, unless it does not answer."""
        process = self._servers.get(name)
        if process is None or process.is_paused:
            return None
        try:
            with observe(self.roster, name) as connection:
                return read_json(connection.ask(Message(Status.STATS)))
        except RdhtError:
            return None

    def is_served(self) -> bool:
        """Whether all servers run and serve all ranges."""
        for name in SERVERS:
            figures = self.figures(name)
            if figures is None:
                return False
            modes = {one["mode"] for one in figures["ranges"].values()}
            if "lost" in modes:
                fail(f"{name} has lost a range: {figures['ranges']}")
            if modes != {"serving"}:
                return False
        return True

    # The schedule.

    def run(self, seconds: float, say: Callable[[str], None], *, final: bool = True) -> None:
        """Do everything; raise Failure. No process of the experiment is left afterwards."""
        try:
            for name in SERVERS:
                self._start_server(name)
            self._wait_until("all ranges are served", self._look, SERVED_TIMEOUT_S)
            self.report.rejoins = 0
            self.report.worst_recovery_s = 0.0
            self._clients = [self._start_client(slot) for slot in range(len(CLIENTS))]
            self._make_faults(time.monotonic() + seconds, say)
            self._heal()
            if final and self._durable:
                self._lose_power_at_last()
            self._stop_servers()
        finally:
            self.end()
        self._read_logs()
        say("judging the histories")
        self.report.keys = judge(self.folder / "histories", self.report.outcomes)

    def end(self) -> None:
        """Let no process live on."""
        processes = self._processes()
        for process in processes:
            process.popen.kill()
        for process in processes:
            process.popen.wait()
        self._events.close()

    def _make_faults(self, end_s: float, say: Callable[[str], None]) -> None:
        next_s = say_s = look_s = time.monotonic()
        while (now_s := time.monotonic()) < end_s:
            self._act_on_time(now_s)
            if self._recovering and now_s >= look_s:
                self._look()
                look_s = now_s + 2 * LOOK_S
            if self._is_kill_due and not (self._restart_s or self._recovering):
                self._kill_server()
            if now_s >= next_s:
                self._do_something()
                next_s = now_s + self.rng.uniform(0, 2 * self._gap_s)
            if now_s >= say_s:
                say(f"{end_s - now_s:4.0f} s left: {self.report}")
                say_s = now_s + REPORT_S
            time.sleep(0.01)

    def _act_on_time(self, now_s: float) -> None:
        for process in self._processes():
            if process.is_paused and process.resume_s <= now_s:
                self._resume(process)
            if (code := process.popen.poll()) is not None:
                fail(f"{process.name} ended by itself with code {code}, see its log")
        for name, restart_s in list(self._restart_s.items()):
            if restart_s <= now_s:
                self._start_server(name)
        for name, start_s in self._recovering.items():
            if now_s - start_s > SERVED_TIMEOUT_S:
                fail(f"{name} did not come back within {SERVED_TIMEOUT_S} s")

    def _look(self) -> bool:
        """Find out whether those that were started have taken their place."""
        if self._restart_s or not self.is_served():
            return False
        now_s = time.monotonic()
        for name, start_s in self._recovering.items():
            self.log(f"back {name}")
            self.report.worst_recovery_s = max(self.report.worst_recovery_s, now_s - start_s)
            self.report.rejoins += 1
        self._recovering.clear()
        return True

    def _do_something(self) -> None:
        if not self._deeds:
            self._deeds = [deed for deed, times in DEEDS.items() for _ in range(times)]
            self.rng.shuffle(self._deeds)
        deed = self._deeds.pop()
        if deed == "kill server":
            self._kill_server()
        elif deed == "kill all" and self._durable:
            self.report.all_kills += 1
            self._kill_servers(list(self._servers))
        elif deed == "kill client":
            slot = self.rng.randrange(len(self._clients))
            self._kill([self._clients[slot]])
            self._clients[slot] = self._start_client(slot)
            self.report.client_kills += 1
        elif deed == "pause client":
            self.report.client_pauses += self._pause_one(self._clients)
        else:
            self.report.server_pauses += self._pause_one(list(self._servers.values()))

    def _pause_one(self, pool: list[Process]) -> bool:
        paused = sum(process.is_paused for process in self._processes())
        running = [process for process in pool if not process.is_paused]
        if paused >= MOST_PAUSED or not running:
            return False
        self._pause(self.rng.choice(running))
        return True

    def _kill_server(self) -> None:
        """Kill one, or that again which is coming back; in memory only if others have all."""
        up = list(self._servers)
        if self._restart_s or self._recovering:
            if self._durable and self.rng.random() < 0.5 and up:
                self._kill_servers([self.rng.choice(up)])
            elif self.rng.random() < 0.2 and not self._restart_s:
                self._kill_servers(list(self._recovering))
            else:
                self._is_kill_due = True
            return
        self._is_kill_due = False
        self._kill_servers([self.rng.choice(up)])

    def _kill_servers(self, names: list[str]) -> None:
        self._kill(self._servers.pop(name) for name in names)
        self.report.server_kills += len(names)
        for name in names:
            self._recovering.pop(name, None)
            self._restart_s[name] = time.monotonic() + self.rng.uniform(*DOWN_S)

    # The end.

    def _wait_until(self, what: str, is_so: Callable[[], bool], timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not is_so():
            for process in self._processes():
                # A client that is told to end before it has begun, ends by the signal itself.
                if process.popen.poll() not in {None, 0, -signal.SIGTERM}:
                    fail(f"{process.name} ended with code {process.popen.returncode}")
            if time.monotonic() > deadline_s:
                figures = {name: self.figures(name) for name in SERVERS}
                fail(f"it took longer than {timeout_s} s until {what}: {figures}")
            time.sleep(LOOK_S)

    def _heal(self) -> None:
        """Let all run, and end the clients; then nothing may be left, and all keys be usable."""
        self.log("heal")
        for process in self._processes():
            if process.is_paused:
                self._resume(process)
        for name in list(self._restart_s):
            self._start_server(name)
        self._wait_until("all ranges are served", self._look, SERVED_TIMEOUT_S)
        for process in self._clients:
            process.popen.terminate()
        self._wait_until(
            "all clients have ended",
            lambda: all(process.popen.poll() is not None for process in self._clients),
            EXIT_TIMEOUT_S,
        )
        self._clients = []
        self._wait_until("nothing is locked or in doubt", self._is_settled, SETTLED_TIMEOUT_S)
        self._use_all_keys(write=True)
        self._verify()

    def _is_settled(self) -> bool:
        all_figures = [self.figures(name) for name in SERVERS]
        return all(one and not one["in_doubt"] and not one["locks"] for one in all_figures)

    def _use_all_keys(self, *, write: bool) -> None:
        """Read all keys and write new values through a fresh client; all of it must succeed."""
        histories = self.folder / "histories"
        keys = sorted({key for path in histories.iterdir() for key in _keys_in(path)})
        name = f"final{next(self._numbers)}"
        path = histories / f"{name}.jsonl"
        try:
            with RecordingClient(self.roster, "fast", name, path) as client:
                for number, key in enumerate(keys):
                    client.get(key)
                    if write:
                        client.put(key, make_value(f"{name}-{number}", 0))
                        client.get(key)
        except RdhtError as error:
            fail(f"after all was healed: {error}")

    def _verify(self) -> None:
        words = [sys.executable, "-m", "rdht", "verify", "--roster", str(self.roster_path)]
        done = subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=VERIFY_TIMEOUT_S
        )
        self.log(f"verify: {done.stdout}{done.stderr}")
        if done.returncode or json.loads(done.stdout)["differing"]:
            fail(f"rdht verify: {done.stdout}{done.stderr}")

    def _lose_power_at_last(self) -> None:
        """Kill all servers once more, and find everything there again."""
        self.report.all_kills += 1
        self._kill_servers(list(self._servers))
        for name in list(self._restart_s):
            self._start_server(name)
        self._wait_until("all ranges are served", self._look, SERVED_TIMEOUT_S)
        self._use_all_keys(write=False)
        self._verify()

    def _stop_servers(self) -> None:
        for process in self._servers.values():
            process.popen.terminate()
        for process in self._servers.values():
            try:
                code = process.popen.wait(EXIT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                fail(f"{process.name} did not stop")
            if code:
                fail(f"{process.name} stopped with code {code}, see its log")

    def _read_logs(self) -> None:
        for path in sorted(self.folder.glob("*.log")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                # Who is killed within its handshake looks like one with another secret.
                if _ALARMING.search(line) and "its secret may be another one" not in line:
                    fail(f"{path.name} says: {line}")


def _free_ports(number: int) -> tuple[str, list[int]]:
    """Return a loopback address of this process's own, and ports that are free there.

    A server that comes back finds its port free: nobody else uses the address.
    """
    address = f"127.{os.getpid() >> 16 & 127 | 128}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
    ports: list[int] = []
    start = random.SystemRandom().choice(_PORTS)
    for port in (*range(start, _PORTS.stop), *range(_PORTS.start, start)):
        with contextlib.suppress(OSError), socket.create_server((address, port)):
            ports.append(port)
        if len(ports) == number:
            return address, ports
    why = "no ports are free"
    raise RuntimeError(why)


# Judgement.


@dataclass
class Record:
    """One command of a history."""

    commands: list[Command]
    begin_s: float
    end_s: float = NEVER
    outcome: str = "unknown"
    told: list[Result] | None = None

    def calls(self) -> list[Call]:
        """Return it as calls; one that was told too little was told nothing."""
        rows = sorted(self.commands, key=attrgetter("key"))
        told: list[Result] | list[None] = [None] * len(rows)
        end_s = NEVER
        if self.outcome == Outcome.DONE:
            end_s = self.end_s
            if self.told is not None and len(self.told) == len(rows):
                told = self.told
        return [
            Call(row.key, row.operation, self.begin_s, end_s, row.value, row.version, result)
            for row, result in zip(rows, told, strict=True)
        ]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):  # not the last one of a process that was killed
            yield json.loads(line)


def _keys_in(path: Path) -> set[str]:
    return {row[1] for line in _lines(path) if "begin" in line for row in line["commands"]}


def read_history(path: Path) -> Iterator[Record]:
    """Yield the commands of one client."""
    open_: dict[int, Record] = {}
    for line in _lines(path):
        at_s = line["ns"] / 1e9
        if "begin" in line:
            commands = [
                Command(Operation[operation], key.encode(), value.encode(), version)
                for operation, key, value, version in line["commands"]
            ]
            open_[line["begin"]] = Record(commands, at_s)
            continue
        record = open_.pop(line["end"])
        record.outcome, record.end_s = line["outcome"], at_s
        if "told" in line:
            record.told = [
                Result(found, version, value.encode()) for found, version, value in line["told"]
            ]
        yield record
    for record in open_.values():
        record.outcome = "open"
        yield record


def judge(folder: Path, outcomes: Counter[str]) -> int:
    """Count the outcomes and return how many keys there are; Failure shows what cannot be."""
    by_round: dict[str, list[Record]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        for record in read_history(path):
            outcomes[record.outcome] += 1
            if record.outcome == Outcome.DONE and len(record.told or ()) < len(record.commands):
                outcomes["done, but told too little"] += 1
            if record.outcome != Outcome.ABORTED:
                by_round[record.commands[0].key.decode().partition("-")[0]].append(record)
    return sum(map(_judge_round, by_round.values()))


def _judge_round(records: list[Record]) -> int:
    """Judge commands that share no key with others; return how many keys they have."""
    by_key: dict[bytes, list[Call]] = defaultdict(list)
    for record in records:
        for call in record.calls():
            by_key[call.key].append(call)
    for key, calls in by_key.items():
        if find_order(calls) is None:
            fail(f"{key!r} is not linearizable\n{show(calls)}")
    why = explain_disorder([Transaction(tuple(one.calls())) for one in records])
    if why is not None:
        concerned = [show(calls) for key, calls in by_key.items() if repr(key) in str(why)]
        fail("\n\n".join([f"not serializable: {why}", *concerned]))
    return len(by_key)


def show(calls: list[Call]) -> str:
    """Return a key's history, a call a line."""
    rows = []
    for call in sorted(calls, key=attrgetter("called_s")):
        told = f"{call.told.found} {call.told.version} {call.told.value!r}" if call.told else "?"
        rows.append(
            f"{call.called_s:.6f} {call.ended_s:.6f} {call.operation.name:6} "
            f"{call.value.decode()} v{call.version} -> {told}"
        )
    return "\n".join(rows)


def experiment(
    *,
    durable: bool,
    seconds: float,
    seed: int,
    say: Callable[[str], None],
    **more: Any,
) -> Report:
    """Run one experiment in a temporary folder, which is kept if it fails."""
    folder = Path(tempfile.mkdtemp(prefix="rdht-chaos-"))
    run = Experiment(folder, durable=durable, seed=seed, **more)
    try:
        run.run(seconds, say)
    except Failure as failure:
        text = f"{failure}\nseed {seed}; {run.report}\nlogs and histories: {folder}"
        raise Failure(text) from failure
    shutil.rmtree(folder)
    return run.report


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the experiment that was typed, or be one of its clients."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.chaos", description=__doc__)
    if sys.argv[1:2] == ["client"]:
        parser.add_argument("client")
        for word in ("--roster", "--name", "--profile"):
            parser.add_argument(word, required=True)
        parser.add_argument("--history", required=True, type=Path)
        for word in ("--window", "--seed"):
            parser.add_argument(word, required=True, type=int)
        for word in ("--origin", "--rate"):
            parser.add_argument(word, required=True, type=float)
        parser.add_argument("--trace", action="store_true")
        return run_client(parser.parse_args())
    parser.add_argument("--mode", choices=("memory", "durable"), required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100.0, help="commands a second and client")
    parser.add_argument("--trace", action="store_true", help="servers log every message")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        report = experiment(
            durable=arguments.mode == "durable",
            seconds=arguments.seconds,
            seed=arguments.seed,
            rate=arguments.rate,
            trace=arguments.trace,
            say=_say,
        )
    except Failure as failure:
        _say(f"FAILED: {failure}")
        return 1
    _say(f"{arguments.mode}, seed {arguments.seed}: {report}")
    _say("verdict: nothing lost, replicas equal, linearizable")
    return 0


if __name__ == "__main__":
    sys.exit(main())
