"""Faults in a run, as a plan made before it: deeds at given times, by chance or from a file.

A deed never takes what the table has only one copy of: in memory mode no two servers of a range are
down, or not yet back, at once. Every deed ends in time for the last seconds of the run to be whole.
"""

import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cluster.errors import UsageError
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
LEAD_S = 1.0  # whole seconds before the first deed
REJOIN_S = 3.0  # until a server that came back has its copies again, as planned
LONGEST_S = 600.0
_QUIET_SHARE, _LEAST_QUIET_S, _MOST_QUIET_S = 0.2, 2.0, 10.0
_SPARE_S = 0.5  # between two deeds at one place
_TRIES = 20


class _Preset(NamedTuple):
    """How often what is done; of a word a bag is filled, and drawn until it is empty."""

    gap_s: float  # between two deeds, on average
    most: int  # at the same time
    bag: Mapping[str, int]
    lasts: Mapping[str, tuple[float, float]]  # seconds, from and to
    rates: tuple[str, ...]
    percents: tuple[int, ...]


_GENTLE = _Preset(
    gap_s=6.0,
    most=1,
    bag={
        "kill server": 2,
        "kill client": 1,
        "pause server": 2,
        "pause client": 1,
        "cut host": 1,
        "slow": 1,
        "loss": 1,
    },
    lasts={
        KILL: (0.3, 1.0),
        PAUSE: (0.2, 1.0),
        CUT: (0.5, 2.0),
        SLOW: (2.0, 5.0),
        LOSS: (2.0, 5.0),
    },
    rates=("10mbit",),
    percents=(2, 5),
)
_ROUGH = _Preset(
    gap_s=3.0,
    most=3,
    bag={
        "kill server": 6,
        "kill client": 3,
        "kill all": 1,
        "pause server": 4,
        "pause client": 2,
        "cut host": 1,
        "cut pair": 2,
        "cut one way": 2,
        "cut halves": 2,
        "cut ring": 1,
        "slow": 2,
        "loss": 2,
        "power": 2,
    },
    lasts={
        KILL: (0.2, 3.0),
        PAUSE: (0.1, 4.0),
        CUT: (0.5, 6.0),
        SLOW: (2.0, 8.0),
        LOSS: (2.0, 8.0),
        POWER: (1.0, 5.0),
    },
    rates=("1mbit", "4mbit", "10mbit"),
    percents=(5, 20),
)
_HELL = _Preset(
    gap_s=1.5,
    most=4,
    bag={
        "kill server": 8,
        "kill client": 3,
        "kill all": 2,
        "pause server": 6,
        "pause client": 2,
        "cut host": 2,
        "cut pair": 3,
        "cut one way": 3,
        "cut halves": 3,
        "cut ring": 2,
        "slow": 2,
        "loss": 3,
        "power": 3,
        "clock": 1,
    },
    lasts={
        KILL: (0.0, 4.0),
        PAUSE: (0.05, 5.0),
        CUT: (0.3, 5.0),
        SLOW: (1.0, 5.0),
        LOSS: (1.0, 5.0),
        POWER: (0.5, 8.0),
        CLOCK: (2.0, 10.0),
    },
    rates=("256kbit", "1mbit", "4mbit"),
    percents=(10, 20, 40),
)
PRESETS = {"gentle": _GENTLE, "rough": _ROUGH, "hell": _HELL}
NAMES = ", ".join(PRESETS)


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
        return {name: value for name, value in asdict(self).items() if value or name in _NEEDED}

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
_NEEDED = ("at_s", "kind", "for_s")


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


def make(name: str, seed: int, duration_s: float, scene: Scene) -> Schedule:
    """Draw a preset's deeds; the same seed draws the same."""
    preset = PRESETS[name]
    end_s = duration_s - quiet_s(duration_s)
    rng = random.Random(f"{seed}/faults/{name}")  # noqa: S311 - no secret
    words = {word: times for word, times in preset.bag.items() if _can(word, scene)}
    bag = _bag(words, rng)
    deeds: list[Deed] = []
    beside: list[Deed] = []  # those that last, or that something has yet to come back from
    at_s = LEAD_S
    while words and at_s < end_s:
        beside = [deed for deed in beside if deed.until_s + REJOIN_S > at_s]
        for _ in range(_TRIES):
            deed = _draw(next(bag), at_s, end_s, preset, scene, rng)
            if deed is not None and _fits(deed, beside, preset.most, scene):
                deeds.append(deed)
                beside.append(deed)
                break
        at_s = round(at_s + preset.gap_s * rng.uniform(0.3, 1.7), 2)
    asked = {word.partition(" ")[0] for word in preset.bag}
    left_out = tuple(kind for kind in KINDS if kind in asked - scene.kinds)
    return Schedule(name, tuple(deeds), round(end_s, 3), left_out)


def _can(word: str, scene: Scene) -> bool:
    kind = word.partition(" ")[0]
    if word == "kill all":
        return scene.durable
    if word.startswith("cut ") and len(scene.hosts) < _FEWEST.get(word, 2):
        return False
    return kind in scene.kinds and bool(scene.clients if word.endswith("client") else scene.servers)


_FEWEST = {"cut halves": 3, "cut ring": 4}  # hosts


def _bag(words: Mapping[str, int], rng: random.Random) -> Iterator[str]:
    """Draw words without end, every one before any comes again."""
    while True:
        bag = [word for word, times in words.items() for _ in range(times)]
        rng.shuffle(bag)
        yield from bag


def _draw(  # noqa: PLR0913, PLR0917 - what chance decides on
    word: str, at_s: float, end_s: float, preset: _Preset, scene: Scene, rng: random.Random
) -> Deed | None:
    """Return a deed of that word, or None if the run is too short for it."""
    kind, _, what = word.partition(" ")
    low_s, high_s = preset.lasts[kind]
    high_s = min(high_s, end_s - at_s)
    if high_s < low_s:
        return None
    # Short ones are more frequent.
    for_s = round(low_s + (high_s - low_s) * rng.random() ** 2, 2)
    deed = Deed(at_s, kind, for_s, hosts=(rng.choice(scene.hosts),))
    match kind:
        case "kill" | "pause":
            deed = _of_processes(deed, what, scene, rng)
        case "cut":
            deed = _of_links(deed, what, scene, rng)
        case "slow":
            deed = replace(deed, rate=rng.choice(preset.rates))
        case "loss":
            deed = replace(deed, percent=rng.choice(preset.percents))
        case "clock":
            jump_s = rng.choice((-1, 1)) * round(10 ** rng.uniform(0, 4), 1)
            deed = replace(deed, jump_s=jump_s)
    return deed


def _of_processes(deed: Deed, what: str, scene: Scene, rng: random.Random) -> Deed:
    if what == "client":
        return replace(deed, hosts=(), clients=(rng.choice(list(scene.clients)),))
    servers = tuple(scene.servers)
    return replace(deed, hosts=(), servers=servers if what == "all" else (rng.choice(servers),))


def _of_links(deed: Deed, what: str, scene: Scene, rng: random.Random) -> Deed:
    hosts = tuple(rng.sample(scene.hosts, len(scene.hosts)))
    few = (len(hosts) - 1) // 2
    match what:
        case "pair":
            return replace(deed, hosts=hosts[:1], peers=hosts[1:2])
        case "one way":
            return replace(deed, one_way=rng.choice(ONE_WAYS[1:]))
        case "halves":
            return replace(deed, hosts=hosts[:few], peers=hosts[few:])
        case "ring":
            return replace(deed, hosts=hosts, ring=True)
    return deed


def _fits(deed: Deed, beside: list[Deed], most: int, scene: Scene) -> bool:
    """Tell whether a deed may come beside those that were before it."""
    at_once = [other for other in beside if other.until_s > deed.at_s]
    if len(at_once) >= most:
        return False
    if any(
        scene.places(deed) & scene.places(other)
        for other in beside
        if other.until_s + _SPARE_S > deed.at_s
    ):
        return False
    down = scene.downed(deed)
    already = frozenset(name for other in beside for name in scene.downed(other))
    if scene.durable:
        return True
    return not (down & already) and not scene.loses(down | already)


# A file of deeds.

_FIELDS: dict[str, str | None] = {  # as typed → of a deed, where that is another
    **dict.fromkeys(("kind", "servers", "clients", "hosts", "one_way", "ring", "rate", "percent")),
    "at": "at_s",
    "for": "for_s",
    "from": "peers",
    "jump": "jump_s",
}
_OF_KIND = {
    KILL: {"servers", "clients"},
    PAUSE: {"servers", "clients"},
    CUT: {"hosts", "peers", "one_way", "ring"},
    SLOW: {"hosts", "rate"},
    LOSS: {"hosts", "percent"},
    POWER: {"hosts"},
    CLOCK: {"hosts", "jump_s"},
}
_LISTS = {"servers", "clients", "hosts", "peers"}
_DEFAULTS: dict[str, dict[str, Any]] = {SLOW: {"rate": "10mbit"}, LOSS: {"percent": 20}}


def read(path: Path, duration_s: float, scene: Scene) -> Schedule:
    """Read a file of deeds, YAML or JSON; UsageError names the first that cannot be."""
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = (
            f"--faults {path}: neither {NAMES.replace(', ', ' nor ')}, nor a file: {error.strerror}"
        )
        raise UsageError(why) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = f"--faults {path}: no YAML: {' '.join(str(error).split())}"
        raise UsageError(why) from error
    if not isinstance(rows, list) or not rows:
        why = f"--faults {path}: expected a list of deeds, such as {_EXAMPLE}"
        raise UsageError(why)
    end_s = round(duration_s - quiet_s(duration_s), 3)
    deeds = []
    for number, row in enumerate(rows, start=1):
        try:
            deed = _deed(row)
            _check(deed, end_s, scene)
        except ValueError as error:
            why = f"--faults {path}: deed {number}: {error}"
            raise UsageError(why) from error
        deeds.append(deed)
    return Schedule(str(path), tuple(sorted(deeds, key=lambda deed: deed.at_s)), end_s)


_EXAMPLE = "- {at: 5, kind: kill, servers: [pi1], for: 2}"


def recorded(document: Mapping[str, Any]) -> Schedule:
    """Return the schedule that a manifest has."""
    deeds = [
        Deed(**{**row, **{key: tuple(row[key]) for key in _LISTS & row.keys()}})
        for row in document["deeds"]
    ]
    return Schedule(document["name"], tuple(deeds), document["end_s"], tuple(document["left_out"]))


def _deed(row: Any) -> Deed:
    """Return the deed of one entry; ValueError for what is none."""
    if not isinstance(row, dict):
        why = f"{row!r} is no deed, such as {_EXAMPLE[2:]}"
        raise ValueError(why)  # noqa: TRY004 - one kind of mistake
    if strange := [key for key in row if key not in _FIELDS]:
        why = f"no such field {strange[0]!r}; there are {', '.join(_FIELDS)}"
        raise ValueError(why)
    named = {_FIELDS[key] or key: value for key, value in row.items()}
    if missing := [key for key in ("at", "kind", "for") if key not in row]:
        why = f"does not say {missing[0]!r}"
        raise ValueError(why)
    kind = named["kind"]
    if kind not in KINDS:
        why = f"kind {kind!r} is none of {', '.join(KINDS)}"
        raise ValueError(why)
    if foreign := named.keys() - _OF_KIND[kind] - set(_NEEDED):
        why = f"a {kind} has no {', '.join(sorted(foreign))}"
        raise ValueError(why)
    values = {**_DEFAULTS.get(kind, {}), **named}
    for field in fields(Deed):
        if field.name in values:
            values[field.name] = _value(field.name, values[field.name])
    made = Deed(**values)
    for right, why in (
        (made.one_way in ONE_WAYS, f"one_way {made.one_way} is neither in nor out"),
        (kind != LOSS or 0 < made.percent < 100, f"percent {made.percent} is not 1 to 99"),  # noqa: PLR2004
        (kind != SLOW or made.rate_bits, f"rate {made.rate!r} is not written like 10mbit"),
        (kind != CLOCK or made.jump_s, "says no 'jump': seconds, forward or back"),
    ):
        if not right:
            raise ValueError(why)
    return made


def _value(field: str, value: Any) -> Any:
    if field in _LISTS:
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
        why = f"{field}: {value!r} is no list of names"
        raise ValueError(why)
    expected = {"ring": bool, "percent": int, "kind": str, "one_way": str, "rate": str}
    wanted = expected.get(field)
    if wanted is None and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if wanted is not None and type(value) is wanted:
        return value
    why = f"{field}: {value!r} is no {wanted.__name__ if wanted else 'number'}"
    raise ValueError(why)


def _check(deed: Deed, end_s: float, scene: Scene) -> None:
    """Raise ValueError for a deed that cannot be in this run, on this cluster."""
    if deed.kind not in scene.kinds:
        why = f"this cluster can do no {deed.kind}; it can {', '.join(sorted(scene.kinds))}"
        raise ValueError(why)
    if deed.at_s < 0 or not 0 <= deed.for_s <= LONGEST_S or deed.until_s > end_s:
        why = (
            f"from {deed.at_s:g} s for {deed.for_s:g} s: all is to end by {end_s:g} s, so that the "
            "run ends healed"
        )
        raise ValueError(why)
    for names, known, what in (
        (deed.servers, scene.servers, "server"),
        (deed.clients, scene.clients, "client"),
        (deed.hosts, scene.hosts, "host"),
        (deed.peers, scene.hosts, "host"),
    ):
        if unknown := [name for name in names if name not in known]:
            why = f"there is no {what} {unknown[0]}; there are {', '.join(known)}"
            raise ValueError(why)
    if not (deed.servers or deed.clients or deed.hosts):
        why = f"a {deed.kind} needs {' or '.join(sorted(_OF_KIND[deed.kind] & _LISTS - {'peers'}))}"
        raise ValueError(why)
    if lost := scene.loses(scene.downed(deed)):
        why = f"{' and '.join(sorted(lost))} hold a range together, and nothing on disk: --durable"
        raise ValueError(why)
