"""Three hosts of the netns lab: what a test says to them, and measures between them."""

import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cluster.connection import Connection
from cluster.inventory import Cluster, Host
from cluster.namespace import inside
from lab import netns, processes
from lab.links import RUN_NETNS, Names

HOSTS = netns.addresses(3)


def cluster(folder: Path) -> Cluster:
    hosts = tuple(
        Host(name, address, identity_file=folder / "id_ed25519") for name, address in HOSTS.items()
    )
    return Cluster("here", folder, "", folder / "known_hosts", hosts, {}, folder / "operator")


def say(folder: Path, name: str, command: str, stdin: str = "") -> list[str]:
    """Run a command on a host by ssh, from the operator's namespace."""
    here = cluster(folder)
    host = next(host for host in here.hosts if host.name == name)
    with inside(here.network_namespace):
        connection = Connection(here, host)
        try:
            lines = connection.lines(command, stdin.encode(), 20.0, lambda _: None)
            return [line.rstrip("\n") for line in lines]
        finally:
            connection.close()


def in_host(lab: Path, host: str, *words: str) -> None:
    """Run a command as root in a host's network and among its mounts."""
    space = RUN_NETNS / Names.of(lab).host(host)
    pid = next(str(pid) for pid in processes.inside([space]) if _is_init(pid))
    subprocess.run(["nsenter", "--net", "--mount", "--target", pid, *words], check=True)


def _is_init(pid: int) -> bool:
    """Tell whether the process is number 1 as its host counts."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    numbers = next(line.split()[1:] for line in status if line.startswith("NSpid:"))
    return len(numbers) > 1 and numbers[-1] == "1"


def until(true: Callable[[], bool], within_s: float = 20) -> None:
    deadline_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)  # polling to the deadline


def measure_mbit(lab: Path, one: str, other: str, size_bytes: int) -> float:
    """Send so much from one host to another; return Mbit/s from the first byte to the last."""
    names = Names.of(lab)
    with inside(RUN_NETNS / names.host(other)):
        listener = socket.create_server((HOSTS[other], 9000))
    with listener, inside(RUN_NETNS / names.host(one)):
        sender = socket.create_connection((HOSTS[other], 9000), timeout=20)
        receiver, _ = listener.accept()
    with sender, receiver:
        receiver.settimeout(20)
        thread = threading.Thread(target=sender.sendall, args=(bytes(size_bytes),))
        began_s = time.monotonic()
        thread.start()
        left = size_bytes
        while left:
            left -= len(receiver.recv(min(left, 1 << 16)))
        took_s = time.monotonic() - began_s
        thread.join()
    return size_bytes * 8 / took_s / 1e6
