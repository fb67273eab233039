"""The members of a small world: servers and clients, made of the real protocol core.

Time is no part of their state: every call is made at the same instant, and timeouts are actions of
their own.
"""

import sys
from collections import deque
from typing import Any, NamedTuple

from rdht import coordinator
from rdht.coordinator import Command
from rdht.execution import Execution, Outcome
from rdht.limits import RESOLVE_RETRY_S
from rdht.messages import Message
from rdht.participant import Participant
from rdht.parts import Result
from rdht.profiles import PROFILES
from rdht.rejoin import Rejoin
from rdht.replica import Mode
from rdht.ring import Ring
from rdht.roster import Roster, ServerAddress
from rdht.table import Entry, Table
from rdht.transaction import Transaction
from rdht.transitions import State
from tests.model.specification import may_be_partial

NOW_S = 0.0
HURRIED_S = 0.9  # when a server asks about what it need not ask about yet
_NEVER_S = 1e9
SERVERS = "abcd"
CLIENTS = "vwxyz"
FIRST_PROCESS, PROCESSES = 10, 100  # incarnations of servers: 1000, 1001…, 1100, 1101…

Programme = tuple[tuple[Command, ...], ...]  # commands one after the other; several keys are one


class Configuration(NamedTuple):
    """A small world, and what may befall it."""

    name: str
    programmes: tuple[Programme, ...]  # a client each
    servers: int = 2
    ranges: int = 1  # of the ring's ranges, only the first so many are used
    profile: str = "fast"
    attempts: int = 2  # a command that would need more is aborted
    client_crashes: int = 0
    crashing_clients: str = CLIENTS
    server_crashes: int = 0
    crashing_servers: str = SERVERS
    prelude: tuple[str, ...] = ()  # what has happened already: how lines of a trace begin
    breaks: int = 0  # connections of clients that break
    give_ups: int = 0  # commands that are given up while they run
    hurries: int = 0  # times that a server asks the others although the client is there
    stopping: str = ""  # servers that may begin to refuse all requests
    slow_links: bool = False  # what is sent to a server that was started anew may still be lost
    founding: bool = False  # start with servers that have never served
    may_lose: bool = False  # a range may end as lost

    @property
    def has_news(self) -> bool:
        """Whether servers tell each other which ranges are served: it matters only here."""
        return self.founding or self.may_lose


# A client and a server.


class ClientStep(NamedTuple):
    """What came of a client's step."""

    sends: tuple[tuple[str, Message], ...] = ()
    called: bool = False
    returned: tuple[Outcome, tuple[Result, ...], bool] | None = None  # as `Called` has it
    closes: bool = False


class Client:
    """A session that carries out a programme, one command at a time."""

    def __init__(self, number: int, setting: "Setting", epochs: dict[int, int]) -> None:
        """Be connected to all servers, and know the epochs of their ranges."""
        self.number = number
        self.at = 0
        self.epochs = epochs
        self.processes = {server: process_number(server, 0) for server in setting.ring.servers}
        self.down: list[str] = []
        self.execution: Execution | None = None
        self.setting = setting
        self._prepare()

    def _prepare(self) -> None:
        programme = self.setting.configuration.programmes[self.number - 1]
        self.execution = None
        if self.at < len(programme):
            self.execution = Execution(
                self.number,
                self.at + 1,
                programme[self.at],
                self.setting.ring,
                PROFILES[self.setting.configuration.profile],
                self.epochs,
                NOW_S,
            )

    @property
    def is_idle(self) -> bool:
        """Whether the next thing to do is to begin an attempt."""
        execution = self.execution
        return execution is not None and (execution.due_s is not None or not execution._attempt)

    def begin(self) -> ClientStep:
        """Begin a command, or its next attempt."""
        assert self.execution is not None
        is_first = not self.execution._attempt
        return self._end(self.execution.begin())._replace(called=is_first)

    def receive(self, server: str, message: Message) -> ClientStep:
        """Take an answer."""
        execution = self.execution
        if execution is None or message.name.sequence != execution.sequence:
            return ClientStep()
        return self._end(execution.receive(server, message, NOW_S, _no_jitter))

    def lose(self, server: str) -> ClientStep:
        """Take note that a connection has ended."""
        self.down = sorted([*self.down, server])
        if self.execution is None:
            return ClientStep()
        return self._end(self.execution.lost(server, NOW_S, _no_jitter))

    def connect(self, server: str, process: int, epochs: tuple[tuple[int, int], ...]) -> ClientStep:
        """Be connected again."""
        self.down.remove(server)
        self.processes[server] = process
        for number, epoch in epochs:
            self.epochs[number] = max(epoch, self.epochs.get(number, 0))
        if self.execution is None:
            return ClientStep()
        return self._end(self.execution.resend(server))

    def give_up(self) -> ClientStep:
        """End the command that is running."""
        assert self.execution is not None
        self.execution.give_up()
        return self._end([])

    def settle(self) -> None:
        """Make what nothing depends on no part of the state."""
        execution = self.execution
        attempt = None if execution is None else execution._coordinator
        if execution is None or attempt is None:
            return
        is_last = self.at + 1 == len(self.setting.configuration.programmes[self.number - 1])
        if is_last and execution._attempt >= self.setting.configuration.attempts:
            self.epochs.clear()  # no request will bear one any more
        _sort(attempt._votes)
        if attempt.state is not coordinator.State.VOTING:
            attempt._lost.clear()
            attempt._asked_again.clear()

    def _end(self, out: list[tuple[str, Message]]) -> ClientStep:
        """Send what can be sent, and see whether the command has ended."""
        execution = self.execution
        assert execution is not None
        sends = []
        while out:
            server, message = out.pop(0)
            if server in self.down:
                out += execution.lost(server, NOW_S, _no_jitter, reached=False)
            else:
                sends.append((server, message))
        attempts = self.setting.configuration.attempts
        if execution.due_s is not None and execution._attempt >= attempts:
            execution.give_up()
        if execution.outcome is None:
            return ClientStep(tuple(sends))
        is_done = execution.outcome is Outcome.DONE
        results = tuple(execution.results()) if is_done else ()
        is_partial = is_done and may_be_partial(execution)
        closes = execution.outcome is Outcome.UNKNOWN or execution.is_unsettled
        self.at = sys.maxsize if closes else self.at + 1
        self._prepare()
        return ClientStep(tuple(sends), False, (execution.outcome, results, is_partial), closes)


def _no_jitter(pause_s: float) -> float:
    return pause_s


def process_number(server: str, life: int) -> int:
    return (FIRST_PROCESS + SERVERS.index(server)) * PROCESSES + life


class Server:
    """A participant with its rejoining."""

    def __init__(self, me: str, life: int, setting: "Setting") -> None:
        """Start with nothing."""
        self.me = me
        self.life = life
        self.setting = setting
        self.participant = Participant(me, setting.layout)
        self.rejoin = Rejoin(self.participant, setting.ring.servers, process_number(me, life))

    def settle(self) -> None:
        """Make the times part of no state: only what may be asked about is due."""
        asked_s = {NOW_S, NOW_S + RESOLVE_RETRY_S, HURRIED_S + RESOLVE_RETRY_S, 2 * HURRIED_S}
        participant, memory = self.participant, self.participant.memory
        for tx in participant.transactions.values():
            client_left = memory.clients.get(tx.name.client) is not None
            tx.deadline_s = NOW_S if client_left or tx.deadline_s in asked_s else HURRIED_S
        self.rejoin._next_s = NOW_S if self.setting.configuration.has_news else _NEVER_S
        memory._strangers = dict.fromkeys(memory._strangers, NOW_S)
        for one in (memory.clients, participant.locks.holders, memory.remembered):
            _sort(one)
        for tx in participant.transactions.values():
            _sort(tx.answers)
        for replica in participant.replicas.values():
            replica.table = Table(sorted(replica.table.items()))


def _sort(unordered: dict[Any, Any]) -> None:
    """Make the order of a mapping, on which nothing depends, no part of the state."""
    pairs = sorted(unordered.items())
    unordered.clear()
    unordered.update(pairs)


class Setting:
    """What all states of a world have in common."""

    def __init__(self, configuration: Configuration) -> None:
        """Lay out the ring; each server stands on a host of its own."""
        self.configuration = configuration
        names = SERVERS[: configuration.servers]
        roster = Roster(
            tuple(
                ServerAddress(name, f"host-{name}", "127.0.0.1", 4000 + index)
                for index, name in enumerate(names)
            )
        )
        self.ring = Ring(roster, key_range=len(names))
        self.layout = self.ring.ranges[: configuration.ranges]
        self.ring.ranges = self.layout
        self.ring.lock_order = self.ring.lock_order[: configuration.ranges]


def keys(servers: int, ranges: int) -> list[bytes]:
    """Return a key of each of the ranges that such a configuration uses."""
    ring = Setting(Configuration("", (), servers=servers, ranges=ranges)).ring
    found: dict[int, bytes] = {}
    for number in range(1000):
        key = b"k%d" % number
        found.setdefault(ring.range_of(key), key)
    return [found[number] for number in range(ranges)]


# What the search needs to know of their states.


class ServerTraits(NamedTuple):
    """What the search needs to know of a server's state."""

    life: int
    modes: tuple[tuple[int, Mode], ...]
    epochs: tuple[tuple[int, int], ...]
    founded: tuple[tuple[int, int], ...]  # the table of each complete copy
    knows: frozenset[int]  # ranges that it knows to have been served
    tables: dict[int, dict[bytes, Entry]]
    locked: frozenset[bytes]
    busy: str  # what is under way, if anything is
    may_settle: bool
    may_hurry: bool
    may_rejoin: bool
    may_stop: bool


class ClientTraits(NamedTuple):
    """What the search needs to know of a client's state."""

    number: int
    at: int
    begins: bool
    runs: bool
    reconnects: tuple[str, ...]
    processes: dict[str, int]
    down: tuple[str, ...]
    is_over: bool


def server_traits(server: Server) -> ServerTraits:
    participant, rejoin = server.participant, server.rejoin
    replicas = participant.replicas.values()
    busy = ""
    states = State
    transactions = participant.transactions.values()
    if any(tx.state is states.PREPARED for tx in transactions):
        busy = "holds something prepared"
    elif any(tx.state is states.WAITING for tx in transactions):
        busy = "has something that waits"
    elif participant.locks.holders:
        busy = "holds a lock"
    elif participant.locks.queues:
        busy = "has a queue"
    elif participant._unanswered:
        busy = "owes an answer to an abort"
    return ServerTraits(
        server.life,
        tuple((one.number, one.mode) for one in replicas),
        tuple((one.number, one.epoch) for one in replicas),
        tuple((one.number, one.founded) for one in replicas if one.intact),
        frozenset(rejoin._known_ranges()),
        {one.number: dict(one.table) for one in replicas},
        frozenset(participant.locks.holders),
        busy,
        bool(participant._unanswered) or any(_is_to_settle(participant, tx) for tx in transactions),
        any(tx.state is State.PREPARED and tx.deadline_s > NOW_S for tx in transactions),
        any(one.mode is Mode.JOINING for one in replicas) or bool(rejoin._joined),
        server.me in server.setting.configuration.stopping and not participant.stopping,
    )


def _is_to_settle(participant: Participant, tx: Transaction) -> bool:
    """Return whether a tick would ask others about the transaction, or tell them of it."""
    states = State
    if tx.deadline_s > NOW_S:
        return False
    if tx.state is states.PREPARED:
        return True
    is_gone = participant.memory.is_gone(tx.name.client)
    missing = participant.resolution.unconfirmed(tx)
    return tx.state is states.COMMITTED and is_gone and bool(missing)


def client_traits(client: Client) -> ClientTraits:
    execution = client.execution
    needed = () if execution is None else execution.servers
    down = set(client.down)
    return ClientTraits(
        client.number,
        client.at,
        client.is_idle and down.isdisjoint(needed),
        execution is not None and not client.is_idle,
        tuple(server for server in client.down if server in needed),
        dict(client.processes),
        tuple(client.down),
        execution is None,
    )


def found(servers: list[Server]) -> None:
    """Let new servers take up their ranges, one message after the other."""
    by_name = {server.me: server for server in servers}
    while any(
        replica.mode is not Mode.SERVING
        for server in servers
        for replica in server.participant.replicas.values()
    ) or any(server.rejoin._joined for server in servers):
        queue: deque[tuple[str, int | str, Message]] = deque()
        for server in servers:
            server.rejoin._next_s = NOW_S
            for joining in server.rejoin._joining.values():
                joining.next_s = NOW_S
            queue += [(server.me, *sent) for sent in server.rejoin.tick(NOW_S)]
        while queue:
            sender, target, message = queue.popleft()
            assert isinstance(target, str)
            sent = by_name[target].rejoin.handle(sender, message, NOW_S)
            queue += [(target, *one) for one in sent]
