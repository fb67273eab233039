"""The table in virtual time: the real protocol core among servers, clients and faults, by a seed.

Five servers and some sessions of clients run in one thread. What they say travels through `_Pipe`s,
which keep the order within one connection and lose what follows a break. A seed gives all: sizes,
delays, what the clients want, what fails and when. All faults are healed in the end; then every
command must have ended, new ones must succeed, and nothing that was held may be left.

    python -m tests.model.simulator --seeds 1000            a summary
    python -m tests.model.simulator --seed 17 --trace       one run, an event a line
"""

import argparse
import gc
import heapq
import os
import random
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple, TextIO
from unittest import mock

from analysis.disorder import explain_disorder
from analysis.linearizability import UndecidedError, find_order
from analysis.register import NEVER, Call, Transaction
from rdht import memory, parts
from rdht.coordinator import Command
from rdht.execution import Execution, Outcome
from rdht.limits import MAX_NEWS_RETRY_S, MAX_WINDOW, PREPARED_TIMEOUT_S, RESUME_TIMEOUT_S
from rdht.memory import Memory
from rdht.messages import Flag, Message, Operation, Outgoing, Status
from rdht.participant import Participant
from rdht.parts import Result
from rdht.profiles import PROFILES
from rdht.rejoin import Rejoin
from rdht.replica import Mode, pack_pages
from rdht.ring import Ring
from rdht.roster import Roster, ServerAddress
from rdht.transitions import State
from tests.model.specification import may_be_partial

SERVERS = tuple(f"s{number}" for number in range(5))
KEY_RANGE = 100
ROSTER = Roster(
    tuple(ServerAddress(name, f"host-{name}", "127.0.0.1", 1) for name in SERVERS),
)
RING = Ring(ROSTER, KEY_RANGE)
_REJOIN_STATUSES = {Status.JOIN, Status.COPY, Status.JOINED, Status.KNOWN}

SPAN_S = 3.0  # in which commands begin and faults happen
LONGEST_COMMAND_S = 5.0
FINISH_S = 60.0  # more than enough for a session's last commands
SETTLE_S = 10.0  # after the last fault, for the ranges to be served again
FINAL_S = 10.0  # a command's time after that
TICK_S = 0.2
COOL_TICK_S = 4.0
LONG_LOG = 30  # records, to be replaced by a snapshot
MOST_EVENTS = 200_000  # more is a loop

# What is forgotten within a run where the limits are small.
SMALL_RESUME_TIMEOUT_S = 0.5
SMALL_WINDOW = 8
SMALL_SPAN_S = 6.0
FORGETFUL_SHARE = 0.15  # of the seeds


@dataclass
class Config:
    """What a seed has chosen."""

    durable: bool
    risky: bool  # in memory: both replicas of a range may be lost
    early: bool  # commands and faults begin before the ranges are founded
    keys: int
    sessions: int
    commands: int  # of each session
    window: int  # at most
    classic: float  # share of the sessions
    many: float  # share of the commands
    base_delay_s: float
    tail: float  # share of messages that are much slower
    breaks: float  # chance of a message to be the last on its connection
    late: float  # chance that others overtake what a call of the core has returned
    sync_s: float
    faults: tuple[tuple[float, str], ...]
    forgetful: bool  # small limits: what is over is forgotten, and clients that stay away, too

    @property
    def span_s(self) -> float:
        """In which commands begin and faults happen."""
        return SMALL_SPAN_S if self.forgetful else SPAN_S

    @property
    def resume_timeout_s(self) -> float:
        """After which a client that is away is forgotten."""
        return SMALL_RESUME_TIMEOUT_S if self.forgetful else RESUME_TIMEOUT_S

    @property
    def window_limit(self) -> int:
        """After how many commands what is over is forgotten."""
        return SMALL_WINDOW if self.forgetful else MAX_WINDOW

    @classmethod
    def choose(cls, rng: random.Random) -> "Config":
        durable = rng.random() < 0.45
        sessions = rng.choice([3, 6, 10, 16, 24])
        early = rng.random() < 0.2
        kinds = [kind for kind in _FAULTS if kind != "send away" and (durable or kind != "power")]
        chosen = rng.sample(kinds, rng.randint(1, len(kinds)))
        start_s = 0.0 if early else 0.6
        faults = [
            (rng.uniform(start_s, SPAN_S), rng.choice(chosen)) for _ in range(rng.randint(0, 10))
        ]
        config = cls(
            durable=durable,
            risky=not durable and rng.random() < 0.15,
            early=early,
            keys=rng.choice([3, 5, 5, 8, 20]),
            sessions=sessions,
            commands=rng.choice([80, 120, 160]) // sessions,
            window=rng.randint(1, 4),
            classic=rng.choice([0.0, 0.3, 0.5, 1.0]),
            many=rng.choice([0.0, 0.1, 0.3]),
            base_delay_s=10 ** rng.uniform(-3.3, -1.7),
            tail=rng.choice([0.0, 0.01, 0.05]),
            breaks=rng.choice([0.0, 0.0, 0.002, 0.01]),
            late=rng.choice([0.0, 0.0, 0.05]),
            sync_s=10 ** rng.uniform(-3, -1.3),
            faults=tuple(sorted(faults)),
            forgetful=False,
        )
        return cls._forgetful(config, rng) if rng.random() < FORGETFUL_SHARE else config

    @staticmethod
    def _forgetful(config: "Config", rng: random.Random) -> "Config":
        away = [(rng.uniform(0.6, SMALL_SPAN_S), "send away") for _ in range(rng.randint(1, 6))]
        return replace(config, forgetful=True, faults=tuple(sorted([*config.faults, *away])))


@dataclass
class Report:
    """What became of a run."""

    seed: int
    config: Config
    failure: str | None = None
    commands: int = 0
    done: int = 0
    aborted: int = 0
    unknown: int = 0
    untold: int = 0  # done, but the results are not known
    crashes: int = 0
    rejoins: int = 0
    resolves: int = 0
    lost: int = 0  # ranges
    refused: int = 0  # clients that were not let resume
    forgotten: int = 0  # transactions whose client was far enough on
    expired: int = 0  # clients that stayed away, and had left something
    undecided: int = 0  # keys whose history was not judged alone, only by its versions
    events: int = 0

    def text(self) -> str:
        """Return what to print of a run that failed."""
        rows = [f"seed {self.seed}: {self.failure or 'nothing failed'}"]
        rows += [f"    {name} = {value}" for name, value in asdict(self.config).items()]
        rows.append(f"replay: python -m tests.model.simulator --seed {self.seed} --trace")
        return "\n".join(rows)


class Failure(Exception):  # noqa: N818 - what the simulator looks for, no error of it
    """The protocol did what it must not."""


class _Pipe:
    """One direction of a connection: in order, and nothing after `cut_s`."""

    __slots__ = ("cut_s", "last_s", "stall_s")

    def __init__(self) -> None:
        self.last_s = 0.0  # arrival of the last message
        self.cut_s = NEVER
        self.stall_s = 0.0  # nothing arrives before


class _Connection:
    """A client's connection to a server."""

    __slots__ = ("client", "down", "is_broken", "is_open", "process", "server", "session", "up")

    def __init__(self, session: "_Session", server: str) -> None:
        self.session = session
        self.client = session.client
        self.server = server
        self.process: _Process | None = None  # the one that has accepted
        self.up = _Pipe()
        self.down = _Pipe()
        self.is_open = False  # at the client
        self.is_broken = False


class _PeerLink:
    """A server's own connection to another server, one way."""

    __slots__ = ("is_broken", "pipe", "source", "target")

    def __init__(self, source: "_Process", target: "_Process") -> None:
        self.source = source
        self.target = target
        self.pipe = _Pipe()
        self.is_broken = False


class _Disk:
    """A server's files: a snapshot, and the log since then; a part of it may not be synced."""

    def __init__(self) -> None:
        self.base: list[Message] = []
        self.log: list[Message] = []
        self.start = 0  # how many records were replaced by the snapshot
        self.synced = 0  # records on disk, those before `start` included

    @property
    def end(self) -> int:
        return self.start + len(self.log)

    def crash(self, rng: random.Random) -> None:
        """Lose some of what was not synced; the rest counts as synced."""
        unsynced = self.end - self.synced
        kept = self.synced + rng.choice([0, unsynced, rng.randint(0, unsynced)])
        del self.log[kept - self.start :]
        self.synced = self.end


class _Actor:
    """A process that can be paused: what comes meanwhile is handled afterwards."""

    def __init__(self) -> None:
        self.is_alive = True
        self.is_paused = False
        self.backlog: deque[Callable[[], None]] = deque()


_Bound = list[tuple[_Connection | str, Message]]


class _Process(_Actor):
    """A server's process."""

    def __init__(self, name: str, incarnation: int, participant: Participant, disk: _Disk) -> None:
        super().__init__()
        self.name = name
        self.incarnation = incarnation
        self.participant = participant
        self.rejoin: Rejoin
        self.disk = disk
        self.connections: dict[int, _Connection] = {}  # by client incarnation
        self.held: list[tuple[int, _Bound]] = []  # answers that wait for the disk, up to where
        self.must_reach = 0  # the log must be on disk up to here BEFORE anything more is sent
        self.is_syncing = False
        self.snapshot_s = 0.0  # when the last snapshot is written


class _Job:
    """A command of a session, and what is recorded of it."""

    __slots__ = (
        "begun_servers",
        "called_s",
        "commands",
        "ended_s",
        "execution",
        "results",
        "sequence",
        "wants",
        "why",
    )

    def __init__(self, commands: Sequence[Command], execution: Execution, called_s: float) -> None:
        self.commands = commands
        self.execution = execution
        self.sequence = execution.sequence
        self.called_s = called_s
        self.ended_s = NEVER
        self.results: list[Result] = []  # of what is done
        self.wants = False  # connections, to begin
        self.begun_servers: tuple[str, ...] = ()
        self.why = ""

    @property
    def is_told(self) -> bool:
        """Whether all is known that the command found; another participant may know less."""
        return len(self.results) == len(self.commands)


class _Session(_Actor):
    """A client's thread."""

    def __init__(self, name: str, client: int, profile: str, window: int) -> None:
        super().__init__()
        self.name = name
        self.client = client
        self.profile = PROFILES[profile]
        self.window = window
        self.epochs: dict[int, int] = {}
        self.sequence = 0
        self.todo: deque[tuple[tuple[Command, ...], float]] = deque()
        self.running: dict[int, _Job] = {}
        self.connections: dict[str, _Connection] = {}
        self.known: dict[str, int] = {}  # incarnations of the servers that were connected
        self.is_draining = False
        self.held_back = 0  # commands that may not begin yet, whatever the window


class Variant(NamedTuple):
    """What a mutant changes: the classes of the core, or what a server's process must do."""

    participant_class: type[Participant] = Participant
    rejoin_class: type[Rejoin] = Rejoin
    execution_class: type[Execution] = Execution
    holds_votes: bool = True  # a durable yes leaves once it is on disk
    binds_answers: bool = True  # to the connection there was when they were decided


class Simulation:
    """One run."""

    def __init__(
        self, seed: int, variant: Variant, trace: TextIO | None, settings: Mapping[str, Any]
    ) -> None:
        self.rng = random.Random(seed)
        self.config = replace(Config.choose(self.rng), **settings)
        self.report = Report(seed, self.config)
        self.now_s = 0.0
        self.heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.count = 0
        self.trace = trace
        self.variant = variant
        self.tick_s = TICK_S
        self.is_healed = False
        self.processes: dict[str, _Process | None] = dict.fromkeys(SERVERS)
        self.disks = {name: _Disk() for name in SERVERS}
        self.links: dict[tuple[str, str], _PeerLink] = {}
        self.retries: dict[tuple[str, str], float] = {}  # when such a link is tried again
        self.walls: dict[frozenset[str], float] = {}  # between two, and until when
        self.jobs: list[_Job] = []
        self.sessions: list[_Session] = []
        self.served: set[int] = set()  # ranges that were ever served
        self.bereft: set[int] = set()  # ranges of which no process was left with a complete copy
        self.unborn: set[int] = set()  # ranges that were about to be served first, in a crash
        self.values = 0
        self.keys = self._choose_keys()
        self._random = self.rng.random
        self._base_delay_s = self.config.base_delay_s
        self._tail, self._breaks = self.config.tail, self.config.breaks
        self._late = self.config.late

    # The world's clock.

    def at(self, when_s: float, do: Callable[..., None], *arguments: Any) -> None:
        self.count += 1
        heapq.heappush(self.heap, (when_s, self.count, do, arguments))

    def run_until(self, end_s: float, is_over: Callable[[], bool] | None = None) -> None:
        heap = self.heap
        while heap and heap[0][0] <= end_s:
            self.now_s, _, do, arguments = heapq.heappop(heap)
            do(*arguments)
            if is_over is not None and is_over():
                return
            if self.count > MOST_EVENTS:
                why = f"{MOST_EVENTS} events: somebody goes round in circles"
                raise Failure(why)
        self.now_s = end_s

    def log(self, text: str) -> None:
        print(f"{self.now_s:10.6f} {text}", file=self.trace)

    def soon(self, longest_s: float) -> float:
        return self.now_s + longest_s * self._random()

    def to_actor(self, actor: _Actor, do: Callable[..., None], *arguments: Any) -> None:
        """Let something happen to a process or session, unless it is gone; later if paused."""
        if not actor.is_alive:
            return
        if actor.is_paused:
            actor.backlog.append(partial(do, *arguments))
        else:
            do(*arguments)

    # The network.

    def arrival(self, pipe: _Pipe) -> float:
        delay_s = self._base_delay_s * (0.5 + self._random())
        if self._random() < self._tail:
            delay_s /= 0.002 + self._random()
        when_s = self.now_s + delay_s
        when_s = max(when_s, pipe.last_s)
        when_s = max(when_s, pipe.stall_s)
        pipe.last_s = when_s
        return when_s

    def wall(self, one: str, other: str) -> float:
        """Return until when the two cannot reach each other."""
        return self.walls.get(frozenset((one, other)), 0.0) if self.walls else 0.0

    def send_up(self, connection: _Connection, message: Message) -> None:
        self.at(self.arrival(connection.up), self._up_arrives, connection, message)
        if self._breaks and self._random() < self._breaks:
            self.break_connection(connection)

    def _up_arrives(self, connection: _Connection, message: Message) -> None:
        process = connection.process
        if self.now_s <= connection.up.cut_s and process is not None:
            self.to_actor(process, self._handle_client, process, connection, message)

    def send_down(self, connection: _Connection, message: Message) -> None:
        self.at(self.arrival(connection.down), self._down_arrives, connection, message)
        if self._breaks and self._random() < self._breaks:
            self.break_connection(connection)

    def _down_arrives(self, connection: _Connection, message: Message) -> None:
        if self.now_s <= connection.down.cut_s:
            self.to_actor(connection.session, self._handle_answer, connection, message)

    def break_connection(self, connection: _Connection, *, process_died: bool = False) -> None:
        """Lose an end of what is on its way in both directions; both sides learn of it later."""
        if connection.is_broken:
            return
        connection.is_broken = True
        if self.trace:
            self.log(f"break {connection.session.name}-{connection.server}")
        for pipe in (connection.up, connection.down):
            last_s = max(self.now_s, pipe.last_s)
            cut_s = self.rng.choice([self.now_s, last_s, self.rng.uniform(self.now_s, last_s)])
            pipe.cut_s = min(pipe.cut_s, cut_s)
        process = connection.process
        if process is not None and not process_died:
            when_s = max(connection.up.cut_s, self.soon(0.3))
            self.at(when_s, self.to_actor, process, self._server_ends, process, connection)
        when_s = max(connection.down.cut_s, self.soon(0.1))
        self.at(when_s, self.to_actor, connection.session, self._client_loses, connection)

    # Servers.

    def start(self, name: str) -> None:
        """Start a server's process: with what is on its disk, or with nothing."""
        if self.processes[name] is not None:
            return
        disk = self.disks[name]
        incarnation = self.rng.getrandbits(60)
        participant = self.variant.participant_class(name, RING.ranges, durable=self.config.durable)
        participant.replay(disk.base + disk.log, self.now_s)
        process = _Process(name, incarnation, participant, disk)
        process.rejoin = self.variant.rejoin_class(participant, SERVERS, incarnation)
        self.processes[name] = process
        if self.trace:
            self.log(f"start {name}, {len(disk.base)} + {len(disk.log)} records")
        self.at(self.soon(0.01), self._tick, process)

    def crash(self, name: str) -> None:
        process = self.processes[name]
        if process is None:
            return
        if self.trace:
            self.log(f"crash {name}")
        self.report.crashes += 1
        self.processes[name] = None
        process.is_alive = False
        for connection in process.connections.values():
            self.break_connection(connection, process_died=True)
        for link in self.links.values():
            if link.source is process:
                self._break_link(link)
        process.disk.crash(self.rng)
        self.unborn |= process.participant.replicas.keys() - self.served
        if not self.config.durable:
            self._bereave(process)

    def _bereave(self, crashed: _Process) -> None:
        for number in self.served & crashed.participant.replicas.keys():
            replica = crashed.participant.replicas[number]
            partner = self.processes[replica.partner]
            if partner is None or not partner.participant.replicas[number].intact:
                self.bereft.add(number)

    def _tick(self, process: _Process) -> None:
        if process.is_alive:
            self.to_actor(process, self._tick_now, process)
            self.at(self.now_s + self.tick_s, self._tick, process)

    def _tick_now(self, process: _Process) -> None:
        participant = process.participant
        self._route(process, participant.tick(self.now_s) + process.rejoin.tick(self.now_s))
        if len(process.disk.log) > LONG_LOG and process.snapshot_s <= self.now_s:
            self._begin_snapshot(process)

    def _accepts(self, connection: _Connection, known: int | None) -> None:
        """Let a connection's beginning arrive at its server."""
        process = self.processes[connection.server]
        if process is None:
            self.at(self.soon(0.01), self._connect_fails, connection)
            return
        self.to_actor(process, self._accept, process, connection, known)

    def _accept(self, process: _Process, connection: _Connection, known: int | None) -> None:
        client = connection.client
        older = process.connections.get(client)
        if older is not None:
            older.up.cut_s = min(older.up.cut_s, self.now_s)
            self.break_connection(older)
        resume = known == process.incarnation
        out = process.participant.connect(client, self.now_s, resume=resume)
        if out is None:
            self.report.refused += 1
            if self.trace:
                self.log(f"{process.name} refuses {connection.session.name}")
            when_s = self.arrival(connection.down)
            self.at(when_s, self.to_actor, connection.session, self._refused, connection)
            return
        process.connections.pop(client, None)
        self._route(process, out)
        process.connections[client] = connection
        connection.process = process
        epochs = {number: one.epoch for number, one in process.participant.replicas.items()}
        self.at(
            self.arrival(connection.down),
            self.to_actor,
            connection.session,
            self._welcomed,
            connection,
            epochs,
            process.incarnation,
        )

    def _server_ends(self, process: _Process, connection: _Connection) -> None:
        """Let a server learn that a connection is over."""
        if process.connections.get(connection.client) is connection:
            if self.trace:
                self.log(f"{process.name}: {connection.session.name} is gone")
            del process.connections[connection.client]
            self._route(process, process.participant.disconnect(connection.client, self.now_s))

    def _handle_client(self, process: _Process, connection: _Connection, message: Message) -> None:
        if process.connections.get(connection.client) is not connection:
            return
        if self.trace:
            self.log(f"{connection.session.name}->{process.name} {show(message)}")
        self._route(process, process.participant.handle(message, self.now_s))

    def _route(self, process: _Process, out: Outgoing) -> None:
        """Send what a call to the core has returned, once what it must have is on disk."""
        participant = process.participant
        connections = process.connections
        bound: _Bound = [
            (one, message)
            for to, message in out
            if (one := to if isinstance(to, str) else connections.get(to)) is not None
        ]
        if self.config.durable:
            disk = process.disk
            records, must_sync = participant.write_ahead.take()
            if records:
                told = [one.status in {Status.DONE, Status.JOINED} for one in records]
                if any(told):  # decided without a client: a read may tell of it
                    process.must_reach = disk.end + len(told)
                disk.log += records
                if not process.is_syncing:
                    process.is_syncing = True
                    self.at(self.soon(2 * self.config.sync_s), self._synced, process, disk.end)
            reach = disk.end if must_sync else process.must_reach
            if reach > disk.synced and self.variant.holds_votes:
                if bound:
                    process.held.append((reach, bound))
                return
        self._send(process, bound)

    def _synced(self, process: _Process, end: int) -> None:
        if not process.is_alive:
            return
        disk = process.disk
        disk.synced = max(disk.synced, end)
        process.is_syncing = disk.end > end
        if process.is_syncing:
            self.at(self.soon(2 * self.config.sync_s), self._synced, process, disk.end)
        free = [out for reach, out in process.held if reach <= end]
        process.held = [held for held in process.held if held[0] > end]
        for out in free:
            self._send(process, out)

    def _begin_snapshot(self, process: _Process) -> None:
        """Write what the state is now, beside a log that goes on."""
        participant = process.participant
        intact = [one for one in participant.replicas.values() if one.intact]
        pages = [page for one in intact for page in pack_pages(one.number, one.table.pages())]
        base = [*pages, *participant.snapshot()]
        process.snapshot_s = max(self.soon(10 * self.config.sync_s), process.snapshot_s)
        self.at(process.snapshot_s, self._end_snapshot, process, base, process.disk.end)

    def _end_snapshot(self, process: _Process, base: list[Message], end: int) -> None:
        if process.is_alive:
            disk = process.disk
            del disk.log[: end - disk.start]
            disk.start, disk.base = end, base
            disk.synced = max(disk.synced, end)

    def _send(self, process: _Process, out: _Bound) -> None:
        if self._late and out and self._random() < self._late:
            self.at(self.soon(2 * self._base_delay_s), self._send_now, process, out)
        else:
            self._send_now(process, out)

    def _send_now(self, process: _Process, out: _Bound) -> None:
        if not process.is_alive:
            return
        for to, message in out:
            if isinstance(to, str):
                self._send_peer(process, to, message)
                continue
            current = process.connections.get(to.client)
            if current is to or (current is not None and not self.variant.binds_answers):
                self.send_down(current, message)

    def _send_peer(self, process: _Process, name: str, message: Message) -> None:
        if message.status is Status.RESOLVE:
            self.report.resolves += 1
        link = self.links.get((process.name, name))
        if link is None or link.source is not process or link.is_broken:
            link = self._open_link(process, name)
        if link is None:
            return
        if not link.target.is_alive:
            self._break_link(link)
            return
        self.at(self.arrival(link.pipe), self._peer_arrives, link, message)
        if self._breaks and self._random() < self._breaks:
            self._break_link(link)

    def _open_link(self, process: _Process, name: str) -> _PeerLink | None:
        ends = process.name, name
        target = self.processes[name]
        if self.retries.get(ends, 0.0) > self.now_s:
            return None
        if target is None or self.wall(*ends) > self.now_s:
            self.retries[ends] = self.soon(0.2)
            return None
        link = _PeerLink(process, target)
        accepted_s = self.arrival(link.pipe)
        older = self.links.get(ends)
        if older is not None:
            older.pipe.cut_s = min(older.pipe.cut_s, accepted_s)
        self.links[ends] = link
        return link

    def _break_link(self, link: _PeerLink) -> None:
        """Lose an end of what is on its way; the link is opened again after a while."""
        if link.is_broken:
            return
        link.is_broken = True
        last_s = max(self.now_s, link.pipe.last_s)
        cut_s = self.rng.choice([self.now_s, last_s, self.rng.uniform(self.now_s, last_s)])
        link.pipe.cut_s = min(link.pipe.cut_s, cut_s)
        self.retries[link.source.name, link.target.name] = self.soon(0.2)

    def _peer_arrives(self, link: _PeerLink, message: Message) -> None:
        if self.now_s <= link.pipe.cut_s:
            self.to_actor(link.target, self._handle_peer, link.target, link.source.name, message)

    def _handle_peer(self, process: _Process, source: str, message: Message) -> None:
        status = message.status
        if self.trace and status is not Status.KNOWN:
            self.log(f"{source}->{process.name} {show(message)}")
        if status not in _REJOIN_STATUSES:
            self._route(process, process.participant.handle_peer(source, message, self.now_s))
            return
        replica = process.participant.replicas.get(message.range)
        was_giving = replica is not None and replica.mode is Mode.GIVING
        self._route(process, process.rejoin.handle(source, message, self.now_s))
        if replica is not None and replica.mode is Mode.SERVING:
            self.served.add(replica.number)
            self.report.rejoins += was_giving

    # Clients.

    def jitter(self, pause_s: float) -> float:
        return pause_s * self._random()

    def add_session(self, name: str, profile: str, window: int) -> _Session:
        session = _Session(name, self.rng.getrandbits(60), profile, window)
        self.sessions.append(session)
        return session

    def issue(self, session: _Session) -> None:
        """Begin the session's next command, if it may."""
        if (
            not session.is_alive
            or session.is_draining
            or not session.todo
            or len(session.running) >= session.window
        ):
            return
        if self._must_wait(session):
            session.held_back += 1
            return
        commands, time_s = session.todo.popleft()
        session.sequence += 1
        execution = self.variant.execution_class(
            session.client,
            session.sequence,
            commands,
            RING,
            session.profile,
            session.epochs,
            self.now_s,
        )
        execution.deadline_s = self.now_s + time_s
        job = _Job(commands, execution, self.now_s)
        self.jobs.append(job)
        session.running[session.sequence] = job
        if self.trace:
            self.log(f"{session.name} begins {describe(session, job)}")
        self.at(execution.deadline_s, self.to_actor, session, self._time_is_up, session, job)
        self._try(session, job)

    def _must_wait(self, session: _Session) -> bool:
        """Return whether the servers might forget what runs already; as `rdht.session` does."""
        if not session.running:
            return False
        return session.sequence + 2 - min(session.running) >= self.config.window_limit

    def _try(self, session: _Session, job: _Job) -> None:
        """Begin the command's next attempt, once its servers are connected."""
        execution = job.execution
        job.wants = True
        servers = execution.servers
        ready = True
        for server in servers:
            connection = session.connections.get(server)
            if connection is None:
                self._connect(session, server)
                ready = False
            elif not connection.is_open:
                ready = False
        if ready:
            job.wants = False
            job.begun_servers = servers
            self._speak(session, job, execution.begin())
            self._check(session, job)

    def _due(self, session: _Session, job: _Job, due_s: float) -> None:
        if job.execution.outcome is None and job.execution.due_s == due_s and not job.wants:
            self._try(session, job)

    def _speak(self, session: _Session, job: _Job, out: Iterable[tuple[str, Message]]) -> None:
        waiting = deque(out)
        while waiting:
            server, message = waiting.popleft()
            connection = session.connections.get(server)
            if connection is not None and connection.is_open:
                self.send_up(connection, message)
            else:
                waiting += job.execution.lost(server, self.now_s, self.jitter, reached=False)

    def _check(self, session: _Session, job: _Job) -> None:
        """Take note of a command that is over, or of when it goes on."""
        execution = job.execution
        if execution.outcome is None:
            if execution.due_s is not None and not job.wants:
                when_s = max(execution.due_s, self.now_s)
                self.at(when_s, self.to_actor, session, self._due, session, job, execution.due_s)
            return
        if session.running.pop(job.sequence, None) is None:
            return
        job.ended_s = self.now_s
        if execution.outcome is Outcome.DONE:
            job.results = execution.results()
            if not job.is_told and not may_be_partial(execution):
                why = f"{job.commands} were done, and told no more than {job.results}"
                raise Failure(why)
        job.why = execution.why
        if self.trace:
            self.log(f"{session.name} ends {describe(session, job)}")
        session.is_draining |= execution.is_unsettled or execution.outcome is Outcome.UNKNOWN
        if session.is_draining and not session.running:
            self._renew(session)
        for _ in range(1 + session.held_back):
            self.at(self.soon(self._think_s()), self.to_actor, session, self.issue, session)
        session.held_back = 0

    def _think_s(self) -> float:
        if self.is_healed:
            return 0.01
        return 2 * self.config.span_s / self.config.commands

    def _renew(self, session: _Session) -> None:
        """Leave, and go on as a new client."""
        if self.trace:
            self.log(f"{session.name} goes on as a new client")
        self._leave(session)
        session.client = self.rng.getrandbits(60)
        session.known.clear()
        session.is_draining = False

    def _leave(self, session: _Session) -> None:
        for connection in session.connections.values():
            self._hang_up(connection)
        session.connections.clear()

    def _hang_up(self, connection: _Connection) -> None:
        """Close a connection in order: what was sent still arrives."""
        connection.is_open = False
        connection.down.cut_s = min(connection.down.cut_s, self.now_s)
        if not connection.is_broken:
            connection.is_broken = True
            self.at(self.arrival(connection.up), self._hung_up, connection)

    def _hung_up(self, connection: _Connection) -> None:
        if connection.process is not None:
            process = connection.process
            self.to_actor(process, self._server_ends, process, connection)
        elif (waiting := self.processes[connection.server]) is not None:  # not accepted yet
            self.to_actor(waiting, self._server_ends, waiting, connection)

    def _connect(self, session: _Session, server: str) -> None:
        connection = session.connections[server] = _Connection(session, server)
        known = session.known.get(server)
        patience_s = self.soon(0.5)
        if self.wall(session.name, server) <= self.now_s:
            self.at(self.arrival(connection.up), self._accepts, connection, known)
            patience_s = self.now_s + 1.0
        self.at(patience_s, self.to_actor, session, self._connect_fails, connection)

    def _welcomed(self, connection: _Connection, epochs: dict[int, int], incarnation: int) -> None:
        session, server = connection.session, connection.server
        if session.connections.get(server) is not connection or self.now_s > connection.down.cut_s:
            return
        connection.is_open = True
        session.known[server] = incarnation
        for number, epoch in epochs.items():
            session.epochs[number] = max(epoch, session.epochs.get(number, 0))
        for job in list(session.running.values()):
            self._speak(session, job, job.execution.resend(server))
            self._check(session, job)
        for job in list(session.running.values()):
            if job.wants:
                self._try(session, job)

    def _connect_fails(self, connection: _Connection) -> None:
        session, server = connection.session, connection.server
        if connection.is_open or session.connections.get(server) is not connection:
            return
        del session.connections[server]
        self._hang_up(connection)
        for job in list(session.running.values()):
            if job.wants and server in job.execution.servers:
                job.wants = False
                job.execution.postpone(f"no connection to {server}", self.now_s, self.jitter)
                self._check(session, job)
        self.at(self.soon(0.1), self.to_actor, session, self._reconnect, session, server)

    def _client_loses(self, connection: _Connection) -> None:
        """Let a client learn that a connection is over."""
        session, server = connection.session, connection.server
        if session.connections.get(server) is not connection:
            return
        connection.is_open = False
        del session.connections[server]
        for job in list(session.running.values()):
            self._speak(session, job, job.execution.lost(server, self.now_s, self.jitter))
            self._check(session, job)
        self.at(self.soon(0.1), self.to_actor, session, self._reconnect, session, server)

    def _reconnect(self, session: _Session, server: str) -> None:
        """Connect again to a server that may still owe an answer."""
        if server in session.connections:
            return
        if any(
            server in job.begun_servers or (job.wants and server in job.execution.servers)
            for job in session.running.values()
        ):
            self._connect(session, server)

    def _refused(self, connection: _Connection) -> None:
        """Give up all, and begin as a new client: the server has forgotten this one."""
        session = connection.session
        if session.connections.get(connection.server) is not connection:
            return
        for job in list(session.running.values()):
            if job.execution.is_in_flight:
                job.execution.give_up()
                self._check(session, job)
        self._renew(session)
        for job in list(session.running.values()):
            job.execution.client = session.client
            if job.wants:
                self._try(session, job)

    def _time_is_up(self, session: _Session, job: _Job) -> None:
        if job.execution.outcome is None:
            job.execution.give_up()
            self._check(session, job)

    def _handle_answer(self, connection: _Connection, message: Message) -> None:
        session, server = connection.session, connection.server
        if session.connections.get(server) is not connection or not connection.is_open:
            return
        if self.trace:
            self.log(f"{session.name}<-{server} {show(message)}")
        job = session.running.get(message.name.sequence)
        if job is None or message.name.client != session.client:
            return
        out = job.execution.receive(server, message, self.now_s, self.jitter)
        if out:
            self._speak(session, job, out)
        self._check(session, job)

    # Faults.

    def pause(self, actor: _Actor, end_s: float) -> None:
        if actor.is_alive and not actor.is_paused:
            actor.is_paused = True
            self.at(end_s, self._go_on, actor)

    def _go_on(self, actor: _Actor) -> None:
        actor.is_paused = False
        while actor.backlog and actor.is_alive and not actor.is_paused:
            actor.backlog.popleft()()

    def fault(self, kind: str) -> None:
        if not self.is_healed:
            if self.trace:
                self.log(f"fault: {kind}")
            _FAULTS[kind](self)

    def crash_one(self) -> None:
        name = self.rng.choice(SERVERS)
        process = self.processes[name]
        if process is None or (self._is_dear(process) and not self.config.risky):
            return
        self.crash(name)
        self.at(self.now_s + 10 ** self.rng.uniform(-2, 0), self.start, name)

    def _is_dear(self, process: _Process) -> bool:
        """Return whether the process, in memory, has the only copy of a range."""
        partners = [
            (self.processes[one.partner], number)
            for number, one in process.participant.replicas.items()
        ]
        return not self.config.durable and not all(
            one is not None and one.participant.replicas[number].mode is Mode.SERVING
            for one, number in partners
        )

    def power_loss(self) -> None:
        for name in SERVERS:
            self.crash(name)
            self.at(self.soon(0.5), self.start, name)

    def pause_server(self) -> None:
        process = self.processes[self.rng.choice(SERVERS)]
        if process is not None:
            self.pause(process, self.now_s + 10 ** self.rng.uniform(-1.5, 0.5))

    def pause_client(self) -> None:
        session = self.rng.choice(self.sessions)
        self.pause(session, self.now_s + 10 ** self.rng.uniform(-1.5, 0.5))

    def send_away(self) -> None:
        """Keep a client from all servers until they have forgotten it."""
        session = self.rng.choice(self.sessions)
        if session.is_paused:
            return
        for connection in session.connections.values():
            if connection.is_open and self._random() < 0.8:
                self.break_connection(connection)
        away_s = PREPARED_TIMEOUT_S + self.config.resume_timeout_s + self._random()
        self.pause(session, self.now_s + away_s)

    def crash_client(self) -> None:
        session = self.rng.choice(self.sessions)
        session.is_alive = False
        for connection in session.connections.values():
            if connection.is_open:
                self.break_connection(connection)
            else:
                self._hang_up(connection)
        session.connections.clear()

    def part_servers(self) -> None:
        one, other = self.rng.sample(SERVERS, 2)
        self.part(one, other)

    def part_client(self) -> None:
        self.part(self.rng.choice(self.sessions).name, self.rng.choice(SERVERS))

    def isolate_server(self) -> None:
        name = self.rng.choice(SERVERS)
        end_s = self.now_s + 10 ** self.rng.uniform(-1.5, 0.3)
        for other in [*SERVERS, *(session.name for session in self.sessions)]:
            if other != name:
                self.part(name, other, end_s)

    def part(self, one: str, other: str, end_s: float = 0.0) -> None:
        """Let nothing through between the two for a while; some connections do not outlive it."""
        end_s = end_s or self.now_s + 10 ** self.rng.uniform(-1.5, 0.5)
        self.walls[frozenset((one, other))] = end_s
        for ends in ((one, other), (other, one)):
            link = self.links.get(ends)
            if link is not None:
                link.pipe.stall_s = end_s
                if self._random() < 0.5:
                    self._break_link(link)
        for session in self.sessions:
            if session.name in (one, other):
                connection = session.connections.get(other if session.name == one else one)
                if connection is not None:
                    connection.up.stall_s = connection.down.stall_s = end_s
                    if connection.is_open and self._random() < 0.5:
                        self.break_connection(connection)

    def break_some(self) -> None:
        open_ones = [
            connection
            for session in self.sessions
            for connection in session.connections.values()
            if connection.is_open
        ]
        if open_ones:
            for connection in self.rng.sample(open_ones, self.rng.randint(1, len(open_ones))):
                self.break_connection(connection)
        for link in list(self.links.values()):
            if self._random() < 0.2:
                self._break_link(link)

    # A run.

    def _choose_keys(self) -> list[bytes]:
        return [b"k%d" % self.rng.randrange(1000) for _ in range(self.config.keys)]

    def run(self) -> None:
        for name in SERVERS:
            self.at(self.soon(0.05), self.start, name)
        begin_s = 0.0 if self.config.early else 0.5
        for number in range(self.config.sessions):
            profile = "classic" if self._random() < self.config.classic else "fast"
            session = self.add_session(
                f"c{number}", profile, self.rng.randint(1, self.config.window)
            )
            session.todo.extend(self._wish() for _ in range(self.config.commands))
            for _ in range(session.window):
                self.at(begin_s + 0.2 * self._random(), self.to_actor, session, self.issue, session)
        for when_s, kind in self.config.faults:
            self.at(when_s, self.fault, kind)
        self.run_until(self.config.span_s)
        self._heal()
        self._finish_sessions()
        self._wait_for_ranges()
        self._finish()

    def _wish(self) -> tuple[tuple[Command, ...], float]:
        """Return a command, and how long it may take."""
        rng = self.rng
        time_s = rng.choice([0.3, 1.0, LONGEST_COMMAND_S, LONGEST_COMMAND_S])
        if self._random() < self.config.many:
            keys = rng.sample(self.keys, rng.randint(1, min(4, len(self.keys))))
            operation = rng.choice([Operation.PUT, Operation.PUT, Operation.GET])
            return tuple(self._command(operation, key) for key in dict.fromkeys(keys)), time_s
        operation = rng.choice(
            [
                Operation.GET,
                Operation.GET,
                Operation.PUT,
                Operation.PUT,
                Operation.ADD,
                Operation.DELETE,
                Operation.CAS,
            ]
        )
        return (self._command(operation, rng.choice(self.keys)),), time_s

    def _command(self, operation: Operation, key: bytes) -> Command:
        version = self.rng.randint(0, 8) if operation is Operation.CAS else 0
        value = b""
        if operation in {Operation.PUT, Operation.ADD, Operation.CAS}:
            self.values += 1
            value = b"v%d" % self.values
        return Command(operation, key, value, version)

    def _heal(self) -> None:
        if self.trace:
            self.log("all faults are healed")
        self.is_healed = True
        self._tail = self._breaks = self._late = 0.0
        self.walls.clear()
        for name in SERVERS:
            self.start(name)
        for actor in [*self.sessions, *self.processes.values()]:
            if actor is not None and actor.is_paused:
                self._go_on(actor)

    def _finish_sessions(self) -> None:
        """Let all commands end in the time that they have."""
        self.run_until(self.now_s + FINISH_S, self._are_sessions_done)
        if not self._are_sessions_done():
            why = "sessions have not come to an end"
            raise Failure(why)

    def _are_sessions_done(self) -> bool:
        return not any(one.is_alive and (one.running or one.todo) for one in self.sessions)

    def _wait_for_ranges(self) -> None:
        self.run_until(self.now_s + SETTLE_S, self._are_ranges_settled)
        if not self._are_ranges_settled():
            modes = {
                name: {
                    number: str(one.mode) for number, one in process.participant.replicas.items()
                }
                for name, process in self.processes.items()
                if process is not None
            }
            why = f"ranges are not served {SETTLE_S} s after the last fault: {modes}"
            raise Failure(why)

    def _replicas_of(self, number: int) -> list[Any]:
        return [
            process.participant.replicas[number]
            for name in RING.ranges[number]
            if (process := self.processes[name]) is not None
        ]

    def _are_ranges_settled(self) -> bool:
        for number in range(len(RING.ranges)):
            replicas = self._replicas_of(number)
            if {one.mode for one in replicas} == {Mode.LOST}:
                continue
            if any(one.mode is not Mode.SERVING for one in replicas) or len(replicas) < 2:
                return False
        return True

    def _finish(self) -> None:
        lost = self._judge_ranges()
        self._ask_all(lost)
        for session in self.sessions:
            self._leave(session)
        self.run_until(self.now_s + PREPARED_TIMEOUT_S + 1.5)
        self._judge_left()
        self._judge_replicas(lost)
        self._judge_histories(lost)
        self.tick_s = COOL_TICK_S
        # What the others have confirmed is forgotten when they would be told of it again.
        forgotten_s = self.config.resume_timeout_s + 2 * MAX_NEWS_RETRY_S
        self.run_until(self.now_s + forgotten_s + 3 * COOL_TICK_S)
        self._judge_memory()

    def _judge_ranges(self) -> set[int]:
        lost = set()
        for number in range(len(RING.ranges)):
            replicas = self._replicas_of(number)
            if replicas[0].mode is Mode.LOST:
                lost.add(number)
                if number not in self.bereft | self.unborn:
                    why = f"range {number} is lost, but never was without a complete copy"
                    raise Failure(why)
            elif replicas[0].epoch != replicas[1].epoch:
                why = f"the replicas of range {number} are at different epochs"
                raise Failure(why)
        self.report.lost = len(lost)
        return lost

    def _ask_all(self, lost: set[int]) -> None:
        """Read all keys, write them, read them again; refused where they are lost."""
        first = len(self.jobs)
        for profile in ("fast", "classic", "fast"):
            session = self.add_session(f"final-{profile}", profile, 4)
            operation = Operation.PUT if profile == "classic" else Operation.GET
            session.todo.extend(
                ((self._command(operation, key),), FINAL_S) for key in dict.fromkeys(self.keys)
            )
            for _ in range(session.window):
                self.issue(session)
            self.run_until(self.now_s + 60.0, self._are_sessions_done)
        for job in self.jobs[first:]:
            is_lost = RING.range_of(job.commands[0].key) in lost
            expected = Outcome.ABORTED if is_lost else Outcome.DONE
            if job.execution.outcome is not expected:
                why = f"after all was healed {job.commands} was {job.execution.outcome}: {job.why}"
                raise Failure(why)

    def _judge_left(self) -> None:
        for process in self.processes.values():
            assert process is not None
            participant = process.participant
            busy = [
                one
                for one in participant.transactions.values()
                if one.state in {State.PREPARED, State.WAITING}
            ]
            locks = participant.locks
            if busy or locks.holders or locks.queues:
                why = (
                    f"{process.name} is left with {len(busy)} transactions "
                    f"({[(tuple(one.name), str(one.state), one.ranges) for one in busy][:3]}), "
                    f"locks {list(locks.holders)}, queues {list(locks.queues)}"
                )
                raise Failure(why)

    def _judge_replicas(self, lost: set[int]) -> None:
        for number in set(range(len(RING.ranges))) - lost:
            one, other = self._replicas_of(number)
            if one.table != other.table:
                keys = {
                    key
                    for key in one.table.keys() | other.table.keys()
                    if one.table.get(key) != other.table.get(key)
                }
                why = f"the replicas of range {number} differ: " + ", ".join(
                    f"{key!r} {one.table.get(key)} {other.table.get(key)}" for key in sorted(keys)
                )
                raise Failure(why)

    def _judge_histories(self, lost: set[int]) -> None:
        by_key: dict[bytes, list[Call]] = {key: [] for key in self.keys}
        transactions = []
        for job in self.jobs:
            self._count(job)
            for call in self._calls(job, lost, sure=True):
                by_key[call.key].append(call)
            calls = self._calls(job, lost, sure=False)
            if calls:
                transactions.append(Transaction(tuple(calls)))
        for key, calls in by_key.items():
            if not self._is_linearizable(calls):
                rows = "\n".join(map(str, sorted(calls, key=attrgetter("called_s"))))
                why = f"the history of {key!r} is not linearizable:\n{rows}"
                raise Failure(why)
        disorder = explain_disorder(transactions)
        if disorder is not None:
            why = f"the history is not serializable: {disorder}"
            raise Failure(why)

    def _is_linearizable(self, calls: list[Call]) -> bool:
        try:
            return find_order(calls) is not None
        except UndecidedError:
            self.report.undecided += 1
            return True

    def _count(self, job: _Job) -> None:
        report = self.report
        report.commands += 1
        outcome = job.execution.outcome
        report.done += outcome is Outcome.DONE
        report.untold += outcome is Outcome.DONE and not job.is_told
        report.aborted += outcome is Outcome.ABORTED
        report.unknown += outcome not in {Outcome.DONE, Outcome.ABORTED}

    def _calls(self, job: _Job, lost: set[int], *, sure: bool) -> list[Call]:
        """Return what the command did to keys that are to be judged.

        Unless `sure`, one that was told too little may be undone: `Transaction` has all or none.
        """
        outcome = job.execution.outcome
        if outcome is Outcome.ABORTED:
            return []
        commands = sorted(job.commands, key=attrgetter("key"))
        told: list[Result] | list[None] = [None] * len(commands)
        ended_s = NEVER
        numbers = {RING.range_of(command.key) for command in commands}
        # A range that was lost may have taken the yes with it that the others waited for.
        if outcome is Outcome.DONE and not (lost & numbers and len(numbers) > 1):
            if job.is_told:
                told, ended_s = job.results, job.ended_s
            elif sure:
                ended_s = job.ended_s
        return [
            Call(
                command.key,
                command.operation,
                job.called_s,
                ended_s,
                command.value,
                command.version,
                result,
            )
            for command, result in zip(commands, told, strict=True)
            if RING.range_of(command.key) not in lost
        ]

    def _judge_memory(self) -> None:
        for process in self.processes.values():
            assert process is not None
            participant = process.participant
            memory = participant.memory
            if participant.transactions or memory.clients or memory.remembered:
                states = [
                    (tuple(name), str(one.state), one.ranges)
                    for name, one in participant.transactions.items()
                ]
                why = (
                    f"{process.name} still remembers {states[:3]} ({len(states)}), "
                    f"clients {memory.clients}"
                )
                raise Failure(why)


_FAULTS: dict[str, Callable[[Simulation], None]] = {
    "crash": Simulation.crash_one,
    "power": Simulation.power_loss,
    "pause server": Simulation.pause_server,
    "pause client": Simulation.pause_client,
    "crash client": Simulation.crash_client,
    "part servers": Simulation.part_servers,
    "part client": Simulation.part_client,
    "isolate server": Simulation.isolate_server,
    "break": Simulation.break_some,
    "send away": Simulation.send_away,
}


def show(message: Message) -> str:
    """Return a message in a few words."""
    client, sequence, attempt = message.name
    words = [message.status.name]
    if message.name.client:
        words.append(f"{client % 10_000:04}.{sequence % 1_000_000}.{attempt}")
    if message.operation:
        words.append(message.operation.name)
    if message.reason:
        words.append(f"({message.reason.name})")
    if message.flags:
        words.append(str(Flag(message.flags)))
    words.append(f"r{message.range}e{message.epoch}v{message.version}")
    if message.operation is Operation.MANY and message.status is Status.REQUEST:
        ranges, rows = parts.unpack(message.value, message.name)
        words.append(f"{ranges} {[(row.operation.name, row.key, row.value) for row in rows]}")
    elif message.key or message.value:
        words.append(f"{message.key!r} {message.value[:20]!r}")
    return " ".join(words)


def describe(session: _Session, job: _Job) -> str:
    """Return a command in a few words."""
    commands = ", ".join(
        f"{one.operation.name} {one.key.decode()} {one.value.decode()}" for one in job.commands
    )
    client = session.client % 10_000
    text = f"{client:04}.{job.sequence}: {commands}"
    if job.execution.outcome is None:
        return text
    return f"{text}: {job.execution.outcome} {job.results or job.why}"


def simulate(
    seed: int,
    *,
    trace: TextIO | None = None,
    variant: Variant = Variant(),  # noqa: B008 - immutable
    **settings: Any,
) -> Report:
    """Run a seed; `settings` take the place of what it chooses. The report says what failed."""
    simulation = Simulation(seed, variant, trace, settings)
    limits = _small_limits(simulation.report) if simulation.config.forgetful else nullcontext()
    try:
        with limits:
            simulation.run()
    except Failure as failure:
        simulation.report.failure = str(failure)
    except Exception:  # noqa: BLE001 - the core is not to raise, whatever it is
        simulation.report.failure = f"an exception\n{traceback.format_exc()}"
    simulation.report.events = simulation.count
    return simulation.report


@contextmanager
def _small_limits(report: Report) -> Iterator[None]:
    """Let participants forget within a run, and count it."""
    original_forget, original_expire = Memory.forget, Memory._expire

    def forget(self: Memory, client: int, sequence: int) -> None:
        before = len(self.remembered[client])
        original_forget(self, client, sequence)
        report.forgotten += before - len(self.remembered.get(client, ()))

    def expire(self: Memory, client: int, now_s: float) -> None:
        had_left_something = client in self.remembered
        original_expire(self, client, now_s)
        report.expired += had_left_something and client not in self.clients

    with (
        mock.patch.object(memory, "RESUME_TIMEOUT_S", SMALL_RESUME_TIMEOUT_S),
        mock.patch.object(memory, "MAX_WINDOW", SMALL_WINDOW),
        mock.patch.object(Memory, "forget", forget),
        mock.patch.object(Memory, "_expire", expire),
    ):
        yield


_COUNTS = [one.name for one in fields(Report) if one.name not in {"seed", "config", "failure"}]


@dataclass
class Summary:
    """What became of many runs."""

    seeds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        self.seeds += 1
        self.counts.update({name: getattr(report, name) for name in _COUNTS})
        if report.failure is not None:
            self.failures.append(report)

    def text(self) -> str:
        counts = ", ".join(f"{name} {self.counts[name]}" for name in _COUNTS)
        return f"{self.seeds} seeds, {len(self.failures)} failed: {counts}"


def _collect_rarely() -> None:
    """Look for garbage less often: what a seed leaves in circles is little."""
    gc.freeze()  # what the parent has loaded
    gc.set_threshold(200_000)


def simulate_all(
    seeds: Iterable[int], progress: Callable[[Summary], None] = lambda _: None
) -> Summary:
    """Run many seeds, on all processors."""
    summary = Summary()
    with ProcessPoolExecutor(os.cpu_count(), initializer=_collect_rarely) as pool:
        for report in pool.map(simulate, seeds, chunksize=10):
            summary.add(report)
            progress(summary)
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Simulate the table, by seeds.")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--seeds", type=int, default=100, help="how many to run")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--trace", action="store_true", help="print the events of --seed")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        report = simulate(options.seed, trace=sys.stdout if options.trace else None)
        _say(report.text())
        return int(report.failure is not None)
    started_s = time.monotonic()

    def show(summary: Summary) -> None:
        last = options.start + summary.seeds - 1
        if summary.failures and summary.failures[-1].seed == last:
            _say("\r" + summary.failures[-1].text())
        if summary.seeds % 50 == 0:
            sys.stderr.write(f"\r{summary.seeds} seeds, {len(summary.failures)} failed ")

    summary = simulate_all(range(options.start, options.start + options.seeds), show)
    sys.stderr.write("\r")
    _say(f"{summary.text()}; {time.monotonic() - started_s:.1f} s")
    return int(bool(summary.failures))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
