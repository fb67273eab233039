"""Faults in a run, as a plan made before it: deeds at given times, and where they are done.

A deed never takes what the table has only one copy of: in memory mode no two servers of a range are
down, or not yet back, at once. Every deed ends in time for the last seconds of the run to be whole.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cluster.inventory import Cluster
from cluster.roster import roster
from rdht.ring import layout

KILL, PAUSE, CUT, SLOW, LOSS, POWER, CLOCK = (
    "kill",
    "pause",
    "cut",
    "slow",
    "loss",
    "power",
    "clock",
)
KINDS = (KILL, PAUSE, CUT, SLOW, LOSS, POWER, CLOCK)
ONE_WAYS = ("", "in", "out")
FEWEST_OF_A_RING = 4  # hosts: of three each is a neighbour of both others
_QUIET_SHARE, _LEAST_QUIET_S, _MOST_QUIET_S = 0.2, 2.0, 10.0
LISTS = {"servers", "clients", "hosts", "peers"}  # fields of a deed that are names


@dataclass(frozen=True)
class Deed:
    """Something that is done on purpose, and undone after a while."""

    at_s: float  # after the run's start, which is when warm-up is over
    kind: str
    for_s: float
    servers: tuple[str, ...] = ()  # of a kill or pause
    clients: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()  # of all else
    peers: tuple[str, ...] = ()  # of a cut: only from these; none are all
    one_way: str = ""  # of a cut: in or out
    ring: bool = False  # of a cut: each of the hosts from all but its two neighbours
    rate: str = ""
    percent: int = 0
    jump_s: float = 0.0  # of the clock

    @property
    def until_s(self) -> float:
        """When it is undone."""
        return self.at_s + self.for_s

    @property
    def rate_bits(self) -> int:
        """The rate in bits a second; 0 for what is none."""
        found = _RATE.fullmatch(self.rate)
        return int(found[1]) * _BITS[found[2]] if found else 0

    def cuts(self) -> dict[str, tuple[str, ...]]:
        """Return the hosts that a cut is made at, each with those it is cut from; none are all."""
        if not self.ring:
            return dict.fromkeys(self.hosts, self.peers)
        count = len(self.hosts)
        return {
            host: tuple(self.hosts[(at + step) % count] for step in range(2, count - 1))
            for at, host in enumerate(self.hosts)
        }

    def to_json(self) -> dict[str, Any]:
        """Return it without what it does not have."""
        return {name: value for name, value in asdict(self).items() if value or name in NEEDED}

    def __str__(self) -> str:
        """Say what is done."""
        processes = " and ".join(
            f"{role}{'s' * (len(names) > 1)} {', '.join(names)}"
            for role, names in (("server", self.servers), ("client", self.clients))
            if names
        )
        hosts, others = ", ".join(self.hosts), ", ".join(self.peers) or "all"
        if self.ring:
            others = "all but their neighbours"
        way = f", {self.one_way} only" * bool(self.one_way)
        said = {
            CUT: f"cut of {hosts} from {others}{way}",
            SLOW: f"slow link of {hosts}, {self.rate}",
            LOSS: f"loss of {self.percent} % at {hosts}",
            POWER: f"power cut of {hosts}",
            CLOCK: f"clock of {hosts} {self.jump_s:+g} s",
        }
        return said.get(self.kind, f"{self.kind} of {processes}")


_RATE = re.compile(r"(\d+)(k|m|g)bit")
_BITS = {"k": 10**3, "m": 10**6, "g": 10**9}
NEEDED = ("at_s", "kind", "for_s")  # fields that every deed has


@dataclass(frozen=True)
class Schedule:
    """What is to be done in a run."""

    name: str
    deeds: tuple[Deed, ...]
    end_s: float  # by then all is healed
    left_out: tuple[str, ...] = ()  # what this cluster cannot do

    def to_json(self) -> dict[str, Any]:
        """Return it as manifests have it."""
        deeds = [deed.to_json() for deed in self.deeds]
        return {**vars(self), "deeds": deeds, "left_out": list(self.left_out)}


@dataclass(frozen=True)
class Scene:
    """Where it is done: a cluster's processes, and what can be done to them."""

    hosts: tuple[str, ...]
    servers: Mapping[str, str]  # name → host
    clients: Mapping[str, str]
    neighbours: Mapping[str, frozenset[str]]  # servers with which a server shares a range
    durable: bool
    kinds: frozenset[str]

    @classmethod
    def of(cls, cluster: Cluster, *, durable: bool, kinds: frozenset[str]) -> "Scene":
        """Return the scene of a run on a cluster that can do these kinds."""
        servers = roster(cluster)
        neighbours = {
            server.name: frozenset(
                name for pair in layout(servers) if server.name in pair for name in pair
            )
            - {server.name}
            for server in servers.servers
        }
        clients = {
            name: host.name
            for host in cluster.hosts
            for name in host.process_names(host.clients_per_host)
        }
        return cls(
            tuple(host.name for host in cluster.hosts),
            {server.name: server.host for server in servers.servers},
            clients,
            neighbours,
            durable,
            kinds,
        )

    def downed(self, deed: Deed) -> frozenset[str]:
        """Return the servers that a deed takes down."""
        if deed.kind == KILL:
            return frozenset(deed.servers)
        if deed.kind == POWER:
            return frozenset(name for name, host in self.servers.items() if host in deed.hosts)
        return frozenset()

    def loses(self, down: frozenset[str]) -> frozenset[str]:
        """Return the servers among these that would take the last copy of a range, in memory."""
        if self.durable:
            return frozenset()
        return frozenset(name for name in down if self.neighbours[name] & down)

    def places(self, deed: Deed) -> frozenset[tuple[str, str]]:
        """Return what a deed occupies: its kind at a host, and processes; a power cut all."""
        found = {(deed.kind, host) for host in deed.hosts}
        found |= {("server", name) for name in deed.servers}
        found |= {("client", name) for name in deed.clients}
        if deed.kind == PAUSE:  # a host has one at a time
            found |= {(PAUSE, self.servers[name]) for name in deed.servers}
            found |= {(PAUSE, self.clients[name]) for name in deed.clients}
        if deed.kind == CLOCK:  # BEFORE the clock is right, no client can join there
            found |= {("client", name) for name, host in self.clients.items() if host in deed.hosts}
        if deed.kind == POWER:
            found |= {(kind, host) for kind in KINDS for host in deed.hosts}
            found |= {("server", name) for name in self.downed(deed)}
            found |= {("client", name) for name in self.ended(deed)}
        return frozenset(found)

    def ended(self, deed: Deed) -> frozenset[str]:
        """Return the clients that a deed ends; others take their place."""
        if deed.kind == KILL:
            return frozenset(deed.clients)
        if deed.kind == POWER:
            return frozenset(name for name, host in self.clients.items() if host in deed.hosts)
        return frozenset()


def quiet_s(duration_s: float) -> float:
    """Return how long the end of a run is left alone."""
    return min(_MOST_QUIET_S, max(_LEAST_QUIET_S, _QUIET_SHARE * duration_s))


def recorded(document: Mapping[str, Any]) -> Schedule:
    """Return the schedule that a manifest has."""
    deeds = [
        Deed(**{**row, **{key: tuple(row[key]) for key in LISTS & row.keys()}})
        for row in document["deeds"]
    ]
    return Schedule(document["name"], tuple(deeds), document["end_s"], tuple(document["left_out"]))
