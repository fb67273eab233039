"""Who takes part in a benchmark: how each one's servers and clients are started on the hosts."""

import json
import os
import shutil
import statistics
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks import interpreter
from benchmarks.interpreter import HOST_PYTHON, PEERS_PYTHON
from benchmarks.peers import GET_RATIO, KEY_SIZE
from benchmarks.stage import Stage, TrialError
from cluster.command import ROOT, STATE
from rdht import records
from rdht.authentication import make_secret
from rdht.records import Histogram, merged, write_json
from rdht.roster import DEFAULT_KEY_RANGE

PERCENTILES = 50, 90, 99, 99.9
_PORT = 7411
_YARDSTICK = ROOT / "benchmarks" / "yardstick"

Latency = dict[float, int]  # in us, by percentile


class Load(NamedTuple):
    """What each client runs."""

    threads: int
    warmup_s: float
    seconds: float
    seed: int


class Counted(NamedTuple):
    """What all clients together counted after the warm-up."""

    commands: int
    per_s: float
    messages: int  # requests and answers
    retries: int
    get: Latency
    put: Latency


class Contender(ABC):
    """A system with a client: what it is called, and what it does not guarantee."""

    needs: tuple[str, ...] = ()  # programs
    packages: tuple[str, ...] = ()  # in the peers' environment
    is_alone = False  # one client of one thread, instead of one on each host

    def __init__(self, name: str, title: str, lacks: str) -> None:
        """Take the name that is typed, the one that is shown, and what a reader must know."""
        self.name = name
        self.title = title
        self.lacks = lacks

    def missing(self) -> str | None:
        """Say what is not installed; None if all is."""
        programs = [program for program in self.needs if shutil.which(program) is None]
        if programs:
            return f"there is no {', '.join(programs)}"
        if self.packages:
            if why := interpreter.unlike():
                return why
            words = [PEERS_PYTHON, "-c", f"import {', '.join(self.packages)}"]
            if subprocess.run(words, capture_output=True, check=False).returncode:
                return f"{PEERS_PYTHON} has no {', '.join(self.packages)}"
        return None

    def clients(self, stage: Stage) -> list[str]:
        """Return the hosts that have a client."""
        return list(stage.hosts)[:1] if self.is_alone else list(stage.hosts)

    def threads(self, load: Load) -> int:
        """Return how many threads a client has."""
        return 1 if self.is_alone else load.threads

    @abstractmethod
    def serve(self, stage: Stage) -> None:
        """Start a server on each host; return once all serve."""

    @abstractmethod
    def start(self, stage: Stage, load: Load) -> float:
        """Start a client on each host; return the Unix time at which their warm-up begins."""

    @abstractmethod
    def count(self, stage: Stage) -> Counted:
        """Wait until the clients end; return what they counted."""


class Recorded(Contender):
    """A system whose clients are Python programs that leave result files of ours."""

    messages: tuple[int, int] | None = None  # of a get and of a put, where no file counts them

    @abstractmethod
    def client(self, stage: Stage, host: str) -> list[str]:
        """Return the command of one client, but for the load that all of them take."""

    def start(self, stage: Stage, load: Load) -> float:
        """Start the clients, which wait for each other."""
        for host in self.clients(stage):
            words = [
                *self.client(stage, host),
                *("--name", host, "--threads", str(self.threads(load)), "--seed", str(load.seed)),
                *("--warmup", str(load.warmup_s), "--duration", str(load.seconds)),
                *("--start-file", str(stage.start_file), "--results", str(stage.results(host))),
            ]
            stage.load(host, words)
        return stage.start_clients()

    def count(self, stage: Stage) -> Counted:
        """Read the result files."""
        stage.wait_for_clients()
        return _read(stage, self.clients(stage), self.messages)


class Ours(Recorded):
    """The table of this project."""

    def __init__(
        self,
        name: str,
        profile: str,
        window: int,
        *,
        durable: bool = False,
        is_alone: bool = False,
    ) -> None:
        """Take how the clients speak, whether the servers write to disk, and the load."""
        kind = "durable" if durable else profile
        load = "one thread" if is_alone else f"window {window}"
        lacks = "linearizable, on two disks" if durable else "linearizable, in two memories"
        super().__init__(name, f"rdht {kind}, {load}", lacks)
        self.is_alone = is_alone
        self.profile = profile
        self.window = window
        self.durable = durable

    def serve(self, stage: Stage) -> None:
        """Start one server a host, with the workers that it has by default."""
        secret = stage.folder / "secret"
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(make_secret())
        servers = [
            {"name": host, "host": host, "address": address, "port": _PORT}
            for host, address in stage.hosts.items()
        ]
        write_json(self.roster(stage), {"servers": servers, "secret_file": secret.name})
        for host in stage.hosts:
            self.start_server(stage, host)
        stage.wait_until_listening(_PORT)
        stage.run([HOST_PYTHON, "-m", "rdht", "ping", "--roster", str(self.roster(stage))])

    def start_server(self, stage: Stage, host: str) -> None:
        """Start the server of one host."""
        words = [HOST_PYTHON, "-m", "rdht", "server", "--name", host, "--ready-fd", "1"]
        words += ["--roster", str(self.roster(stage))]
        if self.is_durable(stage, host):
            words += ["--durable", str(self.files(stage, host))]
        stage.serve(host, words)

    def is_durable(self, stage: Stage, host: str) -> bool:
        """Return whether a host's server writes to disk."""
        del stage, host
        return self.durable

    @staticmethod
    def roster(stage: Stage) -> Path:
        """Return where the roster is."""
        return stage.folder / "roster.json"

    @staticmethod
    def files(stage: Stage, host: str) -> Path:
        """Return where a durable server keeps what it has promised."""
        return stage.folder / f"{host}.data"

    def workload(self) -> list[str]:
        """Return the options that say what commands the clients run."""
        return ["--key-size", str(KEY_SIZE), "--get-ratio", str(GET_RATIO)]

    def client(self, stage: Stage, host: str) -> list[str]:
        """Return a client of an experiment."""
        del host
        return [
            *(HOST_PYTHON, "-m", "rdht", "client", "--ready-fd", "1"),
            *("--roster", str(self.roster(stage)), *self.workload()),
            *("--profile", self.profile, "--window", str(self.window)),
        ]


class Peer(Recorded):
    """A system with a Python client, which peers.py runs on each host."""

    messages = (2, 4)
    python = PEERS_PYTHON
    ports: tuple[int, ...] = (_PORT,)

    def serve(self, stage: Stage) -> None:
        """Start the servers, and wait for all ports."""
        for host in stage.hosts:
            for port in self.ports:
                stage.serve(host, self.server(stage, host, port))
        stage.wait_until_listening(*self.ports)

    @abstractmethod
    def server(self, stage: Stage, host: str, port: int) -> list[str]:
        """Return the command of one server."""

    def asked_by(self, stage: Stage, host: str) -> list[str]:
        """Return the servers that a host's client connects to."""
        del host
        return [f"{address}:{self.ports[0]}" for address in stage.hosts.values()]

    def client(self, stage: Stage, host: str) -> list[str]:
        """Return peers.py."""
        servers = ",".join(self.asked_by(stage, host))
        return [self.python, "-m", "benchmarks.peers", self.name, "--servers", servers]


class Echo(Peer):
    """The code that ours speaks with, and a server that does nothing; see echo.py."""

    is_alone = True
    messages = (2, 2)
    python = HOST_PYTHON

    def server(self, stage: Stage, host: str, port: int) -> list[str]:
        """Return a server that writes each message back."""
        where = ["--address", stage.hosts[host], "--port", str(port)]
        return [self.python, "-m", "benchmarks.echo", *where]


class Redis(Peer):
    """A server a host; the client writes to two."""

    needs: tuple[str, ...] = ("redis-server",)
    packages = ("redis", "hiredis")

    def server(self, stage: Stage, host: str, port: int) -> list[str]:
        """Return a server that keeps nothing on disk."""
        folder = stage.folder / f"{host}.{port}"
        folder.mkdir()
        return [
            *("redis-server", "--bind", stage.hosts[host], "--port", str(port)),
            *("--save", "", "--appendonly", "no", "--protected-mode", "no"),
            *("--dir", str(folder)),
        ]


class RedisCluster(Redis):
    """A primary and a replica of another's a host."""

    needs = ("redis-server", "redis-cli")
    ports = (_PORT, _PORT + 1)

    def server(self, stage: Stage, host: str, port: int) -> list[str]:
        """Return a server that can be one of a cluster."""
        return [*super().server(stage, host, port), "--cluster-enabled", "yes"]

    def serve(self, stage: Stage) -> None:
        """Make all servers one cluster, and wait until each primary has its replica."""
        super().serve(stage)
        every = [f"{address}:{port}" for port in self.ports for address in stage.hosts.values()]
        create = ["redis-cli", "--cluster", "create", *every, "--cluster-replicas", "1"]
        stage.run([*create, "--cluster-yes"])

        def replicates(address: str, port: int) -> bool:
            words = ["redis-cli", "-h", address, "-p", str(port)]
            state = stage.run([*words, "cluster", "info"])
            link = stage.run([*words, "info", "replication"])
            up = "master_link_status:up" in link or "state=online" in link
            return up and "cluster_state:ok" in state

        stage.wait_until_each(replicates, self.ports)


class Memcached(Peer):
    """A server a host; the client writes to two."""

    needs = ("memcached",)
    packages = ("pymemcache",)

    def server(self, stage: Stage, host: str, port: int) -> list[str]:
        """Return a server with room for all keys, so that it drops none."""
        where = ["-l", stage.hosts[host], "-p", str(port), "-U", "0"]
        return ["memcached", *where, "-m", "1024", "-u", "nobody"]


class Etcd(Peer):
    """A member a host, all of one cluster; a client asks the one on its host."""

    needs = ("etcd",)
    packages = ("grpc",)  # etcd3 needs it
    messages = (2, 2)

    def server(self, stage: Stage, host: str, port: int) -> list[str]:
        """Return a member as it is by default: what it acknowledges is on disk."""
        at = f"http://{stage.hosts[host]}"
        everybody = (f"{one}=http://{address}:{port + 1}" for one, address in stage.hosts.items())
        return [
            *("etcd", "--name", host, "--data-dir", str(stage.folder / f"{host}.data")),
            *("--listen-client-urls", f"{at}:{port}", "--advertise-client-urls", f"{at}:{port}"),
            *("--listen-peer-urls", f"{at}:{port + 1}"),
            *("--initial-advertise-peer-urls", f"{at}:{port + 1}"),
            *("--initial-cluster", ",".join(everybody), "--log-level", "error"),
        ]

    def serve(self, stage: Stage) -> None:
        """Wait until every member knows of a leader."""
        super().serve(stage)
        stage.wait_until_each(_is_healthy, self.ports)

    def asked_by(self, stage: Stage, host: str) -> list[str]:
        """Return the member on the same host."""
        return [f"{stage.hosts[host]}:{self.ports[0]}"]


def _is_healthy(address: str, port: int) -> bool:
    url = f"http://{address}:{port}/health"
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(json.load(answer)["health"] == "true")
    return False


class Yardstick(Contender):
    """The original's design in C++: the classic protocol, and nothing else."""

    needs = ("g++",)
    _program = STATE / "yardstick"
    _lead_s = 2.0  # for its clients to connect

    def missing(self) -> str | None:
        """Say what is not there; compile it if it is."""
        sources = sorted(_YARDSTICK.glob("*.cpp"))
        if not sources:
            return f"there is no {_YARDSTICK.relative_to(ROOT)}/*.cpp"
        if why := super().missing():
            return why
        words = ["g++", "-std=c++17", "-O2", "-pthread", "-o", str(self._program)]
        subprocess.run([*words, *map(str, sources)], check=True)
        return None

    def serve(self, stage: Stage) -> None:
        """Start one server a host."""
        for host, address in stage.hosts.items():
            stage.serve(host, [str(self._program), "server", address, str(_PORT)])
        stage.wait_until_listening(_PORT)

    def start(self, stage: Stage, load: Load) -> float:
        """Start one client a host, all with the same time to begin."""
        start_unix_s = time.time() + self._lead_s
        servers = ",".join(f"{address}:{_PORT}" for address in stage.hosts.values())
        for number, host in enumerate(stage.hosts):
            words = [
                *(str(self._program), "client", "--servers", servers, "--client", str(number)),
                *("--threads", str(load.threads), "--seed", str(load.seed)),
                *("--key-size", str(KEY_SIZE), "--key-range", str(DEFAULT_KEY_RANGE)),
                *("--get-share", str(GET_RATIO), "--start", f"{start_unix_s:.6f}"),
                *("--warmup", str(load.warmup_s), "--seconds", str(load.seconds)),
            ]
            stage.load(host, words)
        return start_unix_s

    def count(self, stage: Stage) -> Counted:
        """Read what the clients print; of their percentiles, the median client's."""
        rows = [json.loads(text) for text in stage.wait_for_clients()]
        latency = {
            kind: {
                percent: round(
                    statistics.median(row["latency_us"][kind][f"{percent:g}"] for row in rows)
                )
                for percent in PERCENTILES
            }
            for kind in ("get", "put")
        }
        return Counted(
            sum(row["gets"] + row["puts"] for row in rows),
            sum((row["gets"] + row["puts"]) / row["seconds"] for row in rows),
            sum(row["messages"] for row in rows),
            sum(row["retries"] for row in rows),
            latency["get"],
            latency["put"],
        )


def _read(stage: Stage, hosts: list[str], messages: tuple[int, int] | None) -> Counted:
    """Sum up result files; `messages` of a get and of a put where the files do not count them."""
    files = [records.read(stage.results(host)) for host in hosts]
    for file in files:
        if wrong := [*file.errors, *file.lost.values()]:
            why = f"client {file.client}: {wrong[0]}"
            raise TrialError(why)
    threads = [thread for file in files for thread in file.threads]
    get = merged(thread.latency_get for thread in threads)
    put = merged(thread.latency_put for thread in threads)
    if messages is None:
        traffic = [one for thread in threads for one in thread.traffic.values()]
        exchanged = sum(one.messages_sent + one.messages_received for one in traffic)
    else:
        exchanged = messages[0] * get.total + messages[1] * put.total
    return Counted(
        get.total + put.total,
        sum(thread.latency().total / thread.ended_s for thread in threads),
        exchanged,
        sum(thread.conflicts for thread in threads),
        _percentiles(get),
        _percentiles(put),
    )


def _percentiles(histogram: Histogram) -> Latency:
    return {percent: histogram.percentile(percent) or 0 for percent in PERCENTILES}


_APART = (
    "written to two servers by the client: where two clients write a key at once, or one dies, its "
    "copies may differ for good; in memory"
)
CONTENDERS: list[Contender] = [
    Ours("classic", "classic", 1),
    Ours("fast", "fast", 1),
    Ours("fast-8", "fast", 8),
    Ours("fast-32", "fast", 32),
    Ours("durable-32", "fast", 32, durable=True),
    Ours("alone", "fast", 1, is_alone=True),
    Echo("echo", "empty echo, one thread", "a server that keeps nothing"),
    Yardstick("yardstick", "C++, original's design", "in two memories; recovers from no crash"),
    Redis("redis", "Redis, one by one", _APART),
    Redis("redis-together", "Redis, both at once", _APART),
    RedisCluster(
        "redis-cluster",
        "Redis Cluster, WAIT 1",
        "in two memories; a failover may lose what was acknowledged, and who is cut off reads what "
        "is old",
    ),
    Memcached("memcached", "memcached, one by one", _APART),
    Etcd("etcd", "etcd, gRPC", "linearizable, on five disks"),
]
