"""The lab's hosts during one trial: starts, watches and ends what runs on them."""

import itertools
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.peers import READY
from cluster.command import ROOT
from cluster.namespace import inside
from lab import netns
from lab.links import RUN_NETNS
from rdht.records import write_json

_READY_TIMEOUT_S = 60.0
_GRACE_S = 30.0  # for clients to end after their time
_START_DELAY_S = 0.3
_POLL_S = 0.02
_LONGEST_TAIL = 800  # characters of a log, in an error
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class TrialError(Exception):
    """A contender did not get through a trial; the text says how."""


class Usage(NamedTuple):
    """What all processes, and all hosts' cards, have used so far.

    What a card sends counts, so a packet counts once, and a host's messages to itself do not.
    """

    server_cpu_us: float
    client_cpu_us: float
    packets: float
    bytes: float

    @property
    def cpu_us(self) -> float:
        """CPU time of both sides."""
        return self.server_cpu_us + self.client_cpu_us

    def since(self, before: Self) -> "Usage":
        """Return what was used since `before`."""
        return Usage(*(now - then for now, then in zip(self, before, strict=True)))

    def a(self, count: int) -> "Usage":
        """Return what each of so many has used."""
        return Usage(*(amount / count for amount in self))


class _Process(NamedTuple):
    host: str
    log: Path
    popen: "subprocess.Popen[str]"

    def tail(self) -> str:
        """Return the end of what it has said."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-_LONGEST_TAIL:].strip()


class Stage:
    """Hosts of a lab that is up, and a folder on disk that is empty when a trial begins."""

    def __init__(self, lab: Path, hosts: Mapping[str, str], folder: Path) -> None:
        """Take the hosts that have servers, each a name and an address; empty the folder.

        Clients may be on other hosts of the lab.
        """
        self.hosts = hosts
        self.folder = folder
        self.start_file = folder / "start"  # names the time at which the clients begin
        self._lab = lab
        self._numbers = itertools.count()  # of logs
        self._servers: list[_Process] = []
        self._clients: list[_Process] = []
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def results(self, host: str) -> Path:
        """Return where a host's client leaves its result file."""
        return self.folder / f"{host}.json"

    def serve(self, host: str, words: list[str]) -> None:
        """Start a server on a host."""
        log = self.folder / f"server-{next(self._numbers)}.log"
        self._servers.append(self._start(host, words, log, None))

    def load(self, host: str, words: list[str]) -> None:
        """Start a client on a host; what it prints can be read."""
        log = self.folder / f"client-{next(self._numbers)}.log"
        self._clients.append(self._start(host, words, log, subprocess.PIPE))

    def _start(self, host: str, words: list[str], log: Path, out: int | None) -> _Process:
        with log.open("w", encoding="utf-8") as file, inside(self._space(host)):
            popen = subprocess.Popen(
                words,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file if out is None else out,
                stderr=file,
                text=True,
                process_group=0,  # an interrupt is for the benchmark alone
            )
        return _Process(host, log, popen)

    def _space(self, host: str) -> Path:
        return RUN_NETNS / netns.look_up(self._lab, host).host(host)

    def pid(self, host: str) -> int:
        """Return the process number of a host's only server."""
        return self._server(host).popen.pid

    def _server(self, host: str) -> _Process:
        (server,) = (one for one in self._servers if one.host == host)
        return server

    def end(self, host: str, number: signal.Signals) -> None:
        """Have a host's only server end by a signal."""
        server = self._server(host)
        server.popen.send_signal(number)
        try:
            server.popen.wait(_GRACE_S)
        except subprocess.TimeoutExpired as error:
            why = f"the server on {host} does not end"
            raise TrialError(why) from error
        self._servers.remove(server)

    def wait_until_ready(self, host: str) -> None:
        """Wait until a host's only server has said so."""
        server = self._server(host)

        def is_ready(_address: str, _port: int) -> bool:
            return READY in server.log.read_text(encoding="utf-8").split()

        self.wait_until_each(is_ready, (0,))

    def run(self, words: list[str], timeout_s: float = _READY_TIMEOUT_S) -> str:
        """Run a command of the operator's to its end; return what it printed."""
        asked = " ".join(words[:4])
        try:
            with self.at_the_operator():
                done = subprocess.run(
                    words,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=timeout_s,
                    check=False,
                )
        except subprocess.TimeoutExpired as error:
            why = f"{asked} …: no end within {timeout_s:.0f} s"
            raise TrialError(why) from error
        if done.returncode:
            said = (done.stderr or done.stdout)[-_LONGEST_TAIL:].strip()
            why = f"{asked} … failed:\n{said}"
            raise TrialError(why)
        return done.stdout

    @contextmanager
    def at_the_operator(self) -> Iterator[None]:
        """Be in the operator's place meanwhile: what connects then is one link from each host."""
        with inside(self._lab / "operator"):
            yield

    def wait_until_each(self, wanted: Callable[[str, int], bool], ports: tuple[int, ...]) -> None:
        """Poll each host's address and each port from the operator's place until it is as wanted.

        TrialError if that takes too long, or a server has ended.
        """
        deadline_s = time.monotonic() + _READY_TIMEOUT_S
        left = [(address, port) for address in self.hosts.values() for port in ports]
        while left:
            with self.at_the_operator():
                left = [one for one in left if not wanted(*one)]
            for server in self._servers:
                if server.popen.poll() is not None:
                    why = f"a server on {server.host} has ended:\n{server.tail()}"
                    raise TrialError(why)
            if time.monotonic() > deadline_s:
                why = f"{left} are not ready within {_READY_TIMEOUT_S:.0f} s"
                raise TrialError(why)
            time.sleep(_POLL_S)

    def wait_until_listening(self, *ports: int) -> None:
        """Wait until each host takes connections at each port."""
        self.wait_until_each(_listens, ports)

    def start_clients(self) -> float:
        """Wait until each client says that it is ready; return the Unix time that they begin."""
        for client in self._clients:
            out = client.popen.stdout
            assert out is not None
            if not select.select([out], [], [], _READY_TIMEOUT_S)[0]:
                why = f"the client on {client.host} is not ready within {_READY_TIMEOUT_S:.0f} s"
                raise TrialError(why)
            if out.readline().strip() != READY:
                why = f"the client on {client.host} has ended:\n{client.tail()}"
                raise TrialError(why)
        start_unix_s = time.time() + _START_DELAY_S
        write_json(self.start_file, {"start_unix_s": start_unix_s})
        return start_unix_s

    def usage(self) -> Usage:
        """Ask the kernel; who has ended is still counted, since nobody has waited for it."""
        packets, size = 0, 0
        for host in {one.host for one in [*self._servers, *self._clients]}:
            more = self.sent(host)
            packets, size = packets + more[0], size + more[1]
        return Usage(_cpu_us(self._servers), _cpu_us(self._clients), packets, size)

    def sent(self, host: str) -> tuple[int, int]:
        """Return the packets and bytes that a host's card has sent."""
        with inside(self._space(host)):
            return _sent()

    def wait_for_clients(self) -> list[str]:
        """Return what each client has printed when all have ended well."""
        deadline_s = time.monotonic() + _GRACE_S
        said = []
        for client in self._clients:
            try:
                left_s = max(0.0, deadline_s - time.monotonic())
                said.append(client.popen.communicate(timeout=left_s)[0])
            except subprocess.TimeoutExpired as error:
                why = f"the client on {client.host} does not end"
                raise TrialError(why) from error
            if client.popen.returncode:
                why = f"the client on {client.host} failed:\n{client.tail()}"
                raise TrialError(why)
        return said

    def clear(self) -> None:
        """End everything at once: nobody needs what it holds."""
        popens = [one.popen for one in [*self._clients, *self._servers]]
        for popen in popens:
            popen.kill()
        for popen in popens:
            popen.communicate()


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _cpu_us(processes: list[_Process]) -> float:
    ticks = 0
    for one in processes:
        stat = Path(f"/proc/{one.popen.pid}/stat").read_text(encoding="utf-8")
        fields = stat.rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime and stime
    return ticks / _TICKS_PER_S * 1e6


def _sent() -> tuple[int, int]:
    """Return the packets and bytes that the card of the host that this thread is in has sent."""
    for line in Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines():
        card, _, row = line.partition(":")
        if card.strip() == "eth0":
            fields = row.split()
            return int(fields[9]), int(fields[8])
    why = "this thread is in no host: it sees no eth0"
    raise TrialError(why)
