"""Measure what a key costs in memory: in our servers and in Redis, by their resident memory.

    .venv/bin/python -m benchmarks.memory

Two servers of ours on the loopback, so that each holds every key; and one redis-server, which keeps
nothing on disk. Keys of 16 bytes, values of 64. table.py shows the ratio, too.
"""

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import interpreter
from benchmarks.interpreter import HOST_PYTHON
from benchmarks.keys import key, value
from cluster.command import ROOT
from rdht.records import write_json

KEYS = 1_000_000
_ADDRESS = "127.0.0.1"
_READY_TIMEOUT_S = 20.0
_POLL_S = 0.02
_REDIS = ["redis-server", "--save", "", "--appendonly", "no", "--bind", _ADDRESS, "--port"]


class Memory(NamedTuple):
    """Resident bytes that a server has grown by, a key that it holds."""

    ours: float
    redis: float

    @property
    def ratio(self) -> float:
        """Ours ÷ Redis."""
        return self.ours / self.redis


def measure(keys: int) -> Memory:
    """Fill ours, then Redis."""
    with tempfile.TemporaryDirectory() as folder:
        return Memory(_measure_ours(keys, Path(folder)), measure_redis(keys))


def missing() -> str | None:
    """Say what is not installed; None if all is."""
    needed = ["redis-server", "redis-cli"]
    lacking = [program for program in needed if shutil.which(program) is None]
    return f"there is no {', '.join(lacking)}" if lacking else interpreter.unfit()


def _measure_ours(keys: int, folder: Path) -> float:
    names = ["a", "b"]
    servers = [
        {"name": name, "host": name, "address": _ADDRESS, "port": port}
        for name, port in zip(names, _free_ports(len(names)), strict=True)
    ]
    roster = folder / "roster.json"
    write_json(roster, {"servers": servers})
    rdht = [HOST_PYTHON, "-m", "rdht"]
    words = [[*rdht, "server", "--roster", str(roster), "--name", name] for name in names]
    with _running(words[0]) as first, _running(words[1]) as second:
        _wait_for([*rdht, "ping", "--roster", str(roster)])
        before = resident_bytes(first) + resident_bytes(second)
        fill = ["-m", "benchmarks.keys", "fill", "--roster", str(roster), "--keys", str(keys)]
        subprocess.run([HOST_PYTHON, *fill], cwd=ROOT, check=True)
        grown = resident_bytes(first) + resident_bytes(second) - before
        held = 0
        for name in names:
            said = _said([*rdht, "status", "--roster", str(roster), "--name", name])
            held += json.loads(said)["keys"]
    return _each(grown, held, keys * len(names))


def measure_redis(keys: int) -> float:
    """Return what a key takes in Redis."""
    (port,) = map(str, _free_ports(1))
    ask = ["redis-cli", "-h", _ADDRESS, "-p", port]
    with _running([*_REDIS, port]) as server:
        _wait_for([*ask, "ping"])
        before = resident_bytes(server)
        commands = b"".join(
            b"SET %s %s\r\n" % (key(number), value(number)) for number in range(keys)
        )
        subprocess.run([*ask, "--pipe"], input=commands, stdout=subprocess.DEVNULL, check=True)
        grown = resident_bytes(server) - before
        held = int(_said([*ask, "dbsize"]))
    return _each(grown, held, keys)


def _each(grown: int, held: int, wanted: int) -> float:
    if held != wanted:
        why = f"the servers hold {held} keys, not {wanted}"
        raise RuntimeError(why)
    return grown / held


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody has: all are held until all are found."""
    sockets = [socket.create_server((_ADDRESS, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def _running(words: list[str]) -> Iterator[int]:
    """Have a server meanwhile; nobody needs what it holds at the end."""
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(words, cwd=ROOT, stdout=quiet, stderr=quiet)
    try:
        yield server.pid
    finally:
        server.kill()
        server.wait()


def _wait_for(words: list[str]) -> None:
    """Repeat a command until it ends well."""
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    while (done := subprocess.run(words, cwd=ROOT, capture_output=True, check=False)).returncode:
        if time.monotonic() > deadline_s:
            why = f"no server within {_READY_TIMEOUT_S:.0f} s: {(done.stderr or done.stdout)!r}"
            raise TimeoutError(why)
        time.sleep(_POLL_S)


def _said(words: list[str]) -> str:
    return subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def resident_bytes(pid: int) -> int:
    """Return what a process has in memory."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    why = f"process {pid} has ended"
    raise RuntimeError(why)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what a key costs in memory.")
    parser.add_argument("--keys", type=int, default=KEYS)
    options = parser.parse_args()
    if why := missing():
        sys.exit(f"{why}: see the top of table.py")
    found = measure(options.keys)
    print(  # noqa: T201 - a command prints
        f"{options.keys:,} keys, bytes a key on a server that holds it: "
        f"ours {found.ours:.0f}, Redis {found.redis:.0f}, ratio {found.ratio:.2f}"
    )


if __name__ == "__main__":
    main()
