"""The load on a peer, through the Python client that its users have; table.py starts it.

    .rdht/peers/bin/python -m benchmarks.peers redis --servers ADDRESS:PORT,… --name pi1 …

It runs the commands that our own client runs for the same seed, and leaves a result file as that
one does. A thread has connections of its own, which all these clients are fastest with. Where the
client places keys it does as ours: on the server that the key's CRC-32 says and on the next one;
a get asks the first.
"""

import argparse
import importlib
import json
import os
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.echo import Echo
from rdht.messages import Operation
from rdht.records import ClientRecord, ThreadRecord
from rdht.roster import DEFAULT_KEY_RANGE
from rdht.workloads import Parameters, classic_commands

KEY_SIZE = 4
GET_RATIO = 0.6
READY = "ready"
_START_TIMEOUT_S = 60.0
_POLL_S = 0.005
_WAIT_MS = 1000
_Server = tuple[str, int]


class Adapter(Protocol):
    """One thread's way to a peer."""

    def get(self, key: bytes) -> bool:
        """Read a key; was it there?"""

    def put(self, key: bytes, value: bytes) -> None:
        """Write a key; return once it has been done as surely as the peer can say."""


class Redis:
    """Writes to two servers by two calls, one after the other, as everybody would."""

    def __init__(self, servers: Sequence[_Server]) -> None:
        """Connect to all."""
        redis = importlib.import_module("redis")
        self._clients = [
            redis.Redis(host=host, port=port, protocol=2, single_connection_client=True)
            for host, port in servers
        ]
        _require_hiredis(self._clients[0].connection)

    def get(self, key: bytes) -> bool:
        """Read the first copy."""
        return self._holders(key)[0].get(key) is not None

    def put(self, key: bytes, value: bytes) -> None:
        """Write one copy, then the other."""
        for client in self._holders(key):
            client.set(key, value)

    def _holders(self, key: bytes) -> tuple[Any, Any]:
        return holders(key, self._clients)


class RedisTogether(Redis):
    """Sends to both servers before it reads an answer, on the connections that redis-py keeps.

    It has no call for that; two threads a put, or asyncio, cost more.
    """

    def put(self, key: bytes, value: bytes) -> None:
        """Write both copies at once."""
        holders = self._holders(key)
        for client in holders:
            client.connection.send_command("SET", key, value)
        for client in holders:
            client.parse_response(client.connection, "SET")


class RedisCluster:
    """Writes to a key's primary and waits for one replica's acknowledgement.

    SET and WAIT go in one pipeline to the primary: one round trip, and surely one connection.
    """

    def __init__(self, servers: Sequence[_Server]) -> None:
        """Connect, and ask who holds what."""
        cluster = importlib.import_module("redis.cluster")
        (host, port), *_ = servers
        self._cluster = cluster.RedisCluster(host=host, port=port, protocol=2)
        self.get(b"")  # so that there is a connection to look at
        node = self._cluster.get_redis_connection(self._cluster.get_node_from_key(b""))
        connection = node.connection_pool.get_connection()
        _require_hiredis(connection)
        node.connection_pool.release(connection)

    def get(self, key: bytes) -> bool:
        """Read from the key's primary."""
        return self._cluster.get(key) is not None

    def put(self, key: bytes, value: bytes) -> None:
        """Write to the key's primary; RuntimeError if no replica has it in time."""
        node = self._cluster.get_redis_connection(self._cluster.get_node_from_key(key))
        pipeline = node.pipeline(transaction=False)
        pipeline.set(key, value)
        pipeline.execute_command("WAIT", 1, _WAIT_MS)
        if pipeline.execute()[1] < 1:
            why = f"no replica acknowledged a SET within {_WAIT_MS} ms"
            raise RuntimeError(why)


class Memcached:
    """Writes to two servers, one after the other, and waits for each answer."""

    def __init__(self, servers: Sequence[_Server]) -> None:
        """Prepare a client a server; it connects with its first command."""
        pymemcache = importlib.import_module("pymemcache")
        self._clients = [
            pymemcache.Client(server, no_delay=True, default_noreply=False) for server in servers
        ]

    def get(self, key: bytes) -> bool:
        """Read the first copy."""
        return holders(key, self._clients)[0].get(key) is not None

    def put(self, key: bytes, value: bytes) -> None:
        """Write one copy, then the other."""
        for client in holders(key, self._clients):
            client.set(key, value)


class Etcd:
    """Speaks gRPC to one member: it took a tenth less CPU than the JSON gateway."""

    def __init__(self, servers: Sequence[_Server]) -> None:
        """Connect to the first of the members."""
        # BEFORE the import: the package is older than the C code of today's protobuf.
        os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
        (host, port), *_ = servers
        self._client = importlib.import_module("etcd3").client(host, port)

    def get(self, key: bytes) -> bool:
        """Read, linearizably, as is the default."""
        return self._client.get(key)[0] is not None

    def put(self, key: bytes, value: bytes) -> None:
        """Write; a majority has it on disk then."""
        self._client.put(key, value)


ADAPTERS = {
    "redis": Redis,
    "redis-together": RedisTogether,
    "redis-cluster": RedisCluster,
    "memcached": Memcached,
    "etcd": Etcd,
    "echo": Echo,
}


def _require_hiredis(connection: Any) -> None:
    parser = type(connection._parser).__name__  # noqa: SLF001 - nothing else tells
    if parser != "_HiredisParser":
        why = f"redis-py parses with {parser}: pip install hiredis in the peers' venv"
        raise RuntimeError(why)


def holders(key: bytes, clients: Sequence[Any]) -> tuple[Any, Any]:
    """Return the clients of the two servers that hold a key."""
    at = zlib.crc32(key) % len(clients)
    return clients[at], clients[(at + 1) % len(clients)]


def _run(
    adapter: Adapter, parameters: Parameters, record: ThreadRecord, name: str, start_s: float
) -> None:
    """Run one command after the other; those that begin after the warm-up count."""
    assert parameters.duration_s is not None
    commands = classic_commands(parameters, name, record.thread)
    time.sleep(max(0.0, start_s - parameters.warmup_s - time.monotonic()))
    end_s = start_s + parameters.duration_s
    while True:
        command = next(commands)
        begun_s = time.monotonic()
        if begun_s >= end_s:
            break
        found = True
        if command.operation is Operation.GET:
            found = adapter.get(command.key)
        else:
            adapter.put(command.key, command.value)
        if begun_s >= start_s:
            done_s = time.monotonic()
            record.count_done(command.operation, done_s - start_s, done_s - begun_s, found=found)
    record.ended_s = time.monotonic() - start_s


def _wait_for_start(path: Path) -> float:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline_s:
            why = f"no start within {_START_TIMEOUT_S:.0f} s"
            raise TimeoutError(why)
        time.sleep(_POLL_S)
    start_unix_s: float = json.loads(path.read_text(encoding="utf-8"))["start_unix_s"]
    return start_unix_s


def main() -> None:
    """Connect all threads, say so, wait for the start, run, write what came of it."""
    parser = argparse.ArgumentParser(description="Put a load on a peer.")
    parser.add_argument("system", choices=ADAPTERS)
    parser.add_argument("--servers", required=True, type=_servers, metavar="ADDRESS:PORT,…")
    parser.add_argument("--name", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--warmup", type=float, required=True, metavar="S")
    parser.add_argument("--duration", type=float, required=True, metavar="S")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--start-file", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    parameters = Parameters(
        threads=options.threads,
        key_size=KEY_SIZE,
        key_range=DEFAULT_KEY_RANGE,
        get_ratio=GET_RATIO,
        commands=None,
        duration_s=options.duration,
        seed=options.seed,
        profile=options.system,
        window=1,
        warmup_s=options.warmup,
    )
    adapters = [ADAPTERS[options.system](options.servers) for _ in range(options.threads)]
    records = [ThreadRecord(thread) for thread in range(options.threads)]
    print(READY, flush=True)  # noqa: T201 - table.py waits for it
    start_unix_s = _wait_for_start(options.start_file) + options.warmup
    start_s = time.monotonic() + start_unix_s - time.time()
    errors: list[str] = []

    def run(adapter: Adapter, record: ThreadRecord) -> None:
        try:
            _run(adapter, parameters, record, options.name, start_s)
        except Exception as error:  # noqa: BLE001 - each client has errors of its own
            errors.append(f"{type(error).__name__}: {error}")

    threads = [
        threading.Thread(target=run, args=pair) for pair in zip(adapters, records, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ClientRecord(
        options.name, options.system, {}, start_unix_s, False, {}, errors, records, []
    ).write(options.results)


def _servers(text: str) -> list[_Server]:
    pairs = (one.rsplit(":", 1) for one in text.split(","))
    return [(host, int(port)) for host, port in pairs]


if __name__ == "__main__":
    main()
