"""What this host is and how it is: for the preflight table and a run's manifest."""

import os
import platform
import selectors
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from rdht.node.host import (
    Folders,
    boot_id,
    is_alive,
    read_text,
    records,
    secret_digest,
    temperature,
    throttled,
)

REACH_TIMEOUT_S = 4.0  # and REACH_PER_PEER_S for each: not all hosts begin at one instant
REACH_PER_PEER_S = 0.1
_CONNECT_TIMEOUT_S = 1.0


def facts(folders: Folders, _arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Return the host's hardware, software and state; None where there is no such reading."""
    disk = shutil.disk_usage(Path.home())
    return {
        "model": _model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "boot_id": boot_id(),
        "current": folders.linked(folders.current),
        "memory_free_bytes": _memory_free(),
        "disk_free_bytes": disk.free,
        "load_1min": os.getloadavg()[0],
        "governor": read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "temperature_c": temperature(),
        "throttled": throttled(),
        "network": _network(),
        "time_unix_s": time.time(),
    }


def clock(_folders: Folders, _arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Return what the clock shows that histories have the times of."""
    return {"monotonic_s": time.monotonic(), "boot_id": boot_id()}


def check(folders: Folders, arguments: dict[str, Any], payload: bytes) -> dict[str, Any]:
    """Return the facts, and which of the other hosts this one reaches on their server ports.

    All hosts do this at the same time: each listens on its own ports (`listen`, [address, port])
    where nothing else does, connects to all `peers` ({name: [address, port]}), and stays until
    every peer has come or REACH_TIMEOUT_S is over, with some more for each peer. `secret` is the
    digest of the cluster's, and `serves` tells whether it is servers of ours that hold the ports.
    """
    listeners, ports = _listen(arguments["listen"])
    reached = _reach(listeners, arguments["peers"], arguments["name"])
    for listener in listeners:
        listener.close()
    serves = any(one["role"] == "server" and is_alive(one) for one in records(folders))
    found = {"ports": ports, "serves": serves, "reached": reached}
    return {**found, "secret": secret_digest(folders), **facts(folders, {}, payload)}


def _listen(addresses: list[tuple[str, int]]) -> tuple[list[socket.socket], dict[str, str]]:
    listeners, ports = [], {}
    for address, port in addresses:
        try:
            listeners.append(socket.create_server((address, port)))
            ports[str(port)] = "free"
        except OSError as error:
            # create_server adds words of its own to the system's; a name's look-up has no errno.
            code = error.errno or 0
            ports[str(port)] = os.strerror(code) if code > 0 else str(error.strerror)
    return listeners, ports


def _reach(
    listeners: list[socket.socket], peers: dict[str, tuple[str, int]], name: str
) -> dict[str, bool]:
    """Connect to each peer until it answers, while others connect to us."""
    reached = dict.fromkeys(peers, False)
    came: set[bytes] = set()
    with selectors.DefaultSelector() as selector:
        for number, listener in enumerate(listeners):
            listener.setblocking(False)
            selector.register(listener, selectors.EVENT_READ, number)
        deadline_s = time.monotonic() + REACH_TIMEOUT_S + REACH_PER_PEER_S * len(peers)
        while time.monotonic() < deadline_s:
            for peer, (address, port) in peers.items():
                reached[peer] = reached[peer] or _greet(address, port, name)
            for key, _ in selector.select(0.1):
                came |= _welcome(listeners[key.data])
            if all(reached.values()) and (len(came) >= len(peers) or not listeners):
                break
    return reached


def _greet(address: str, port: int, name: str) -> bool:
    try:
        with socket.create_connection((address, port), _CONNECT_TIMEOUT_S) as sock:
            sock.sendall(name.encode())
    except OSError:
        return False
    return True


def _welcome(listener: socket.socket) -> set[bytes]:
    try:
        sock, _ = listener.accept()
    except BlockingIOError:
        return set()
    with sock:
        sock.settimeout(_CONNECT_TIMEOUT_S)
        try:
            return {sock.recv(256)}
        except OSError:
            return set()


def _model() -> str | None:
    """Return the board's name (a Pi tells it), else the processor's."""
    board = read_text("/proc/device-tree/model")
    names = [
        line.partition(":")[2].strip()
        for line in (read_text("/proc/cpuinfo") or "").splitlines()
        if line.startswith("model name")
    ]
    return board or (names[0] if names else None)


def _memory_free() -> int | None:
    for line in (read_text("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _network() -> dict[str, dict[str, str | None]]:
    """Return speed (Mbit/s) and duplex of each physical interface that has a link."""
    interfaces = {}
    for path in sorted(Path("/sys/class/net").iterdir()):
        if (path / "device").exists() and read_text(f"{path}/carrier") == "1":
            speed, duplex = read_text(f"{path}/speed"), read_text(f"{path}/duplex")
            interfaces[path.name] = {"speed_mbit": speed, "duplex": duplex}
    return interfaces
