"""A table whose servers run in threads of the test's own process, and clients moved by hand."""

import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rdht.authentication import make_secret
from rdht.client import Client
from rdht.coordinator import Command, plan
from rdht.messages import Decoder, Message, Name, Status
from rdht.ring import Ring
from rdht.roster import Roster, ServerAddress
from rdht.server import Server
from rdht.table import Entry
from rdht.transport import ClientConnection, Hello

KEY_RANGE = 100
PATIENCE_S = 15.0  # longer than anything here takes, shorter than a hang


def wait_until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to pass in time"
        time.sleep(0.005)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody has, below those that the system gives to connections."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def free_roster(count: int, secret_file: Path | None = None) -> Roster:
    rows = [
        ServerAddress(f"s{number}", f"host{number}", "127.0.0.1", port)
        for number, port in enumerate(free_ports(count))
    ]
    return Roster(tuple(rows), secret_file)


def write_secret(path: Path) -> Path:
    path.write_text(make_secret(), encoding="ascii")
    path.chmod(0o600)
    return path


def make_hello(roster: Roster, server: str, incarnation: int = 1, **fields: object) -> Hello:
    names = [member.name for member in roster.servers]
    known: dict[str, object] = {"server": server, "servers": names, "client": "tester"}
    known |= {"thread": 0, "incarnation": incarnation, "key_range": KEY_RANGE, "frame_bytes": 0}
    return Hello(**{**known, **fields})  # type: ignore[arg-type]


def read_to_end(sock: socket.socket) -> list[Message]:
    """Return all messages up to the stream's end; they must be neither tagged nor cut."""
    decoder = Decoder()
    messages: list[Message] = []
    while data := sock.recv(65_536):
        messages += decoder.feed(data)
    return messages


def answer_to(connection: ClientConnection, *messages: Message) -> list[Message]:
    """Send messages, and return as many answers."""
    for message in messages:
        connection.queue(message)
    connection.flush()
    answers: list[Message] = []

    def are_all_there() -> bool:
        answers.extend(connection.receive())
        return len(answers) >= len(messages)

    wait_until(are_all_there)
    return answers


@dataclass
class _Running:
    server: Server
    thread: threading.Thread
    stop: threading.Event = field(default_factory=threading.Event)


class Table:
    """All servers of one roster."""

    def __init__(
        self, roster: Roster, patch: pytest.MonkeyPatch, folder: Path | None = None
    ) -> None:
        """With `folder`, the servers are durable, and each has its files in there."""
        self.roster = roster
        self.ring = Ring(roster, KEY_RANGE)
        self.names = self.ring.servers
        self.folder = folder
        self._patch = patch
        self._running: dict[str, _Running] = {}
        self._closing: list[Client | ClientConnection] = []

    def __getitem__(self, name: str) -> Server:
        return self._running[name].server

    def servers(self) -> list[Server]:
        return [running.server for running in self._running.values()]

    def start(self, *names: str, trace: bool = False) -> None:
        """Start these servers, or all."""
        for name in names or self.names:
            durable = self.folder / name if self.folder else None
            server = Server(self.roster, name, 2, durable=durable, trace=trace)
            stop = threading.Event()
            thread = threading.Thread(target=server.serve, args=(stop,))
            self._running[name] = _Running(server, thread, stop)
            thread.start()

    def wait_served(self) -> None:
        wait_until(lambda: all(server.is_ready for server in self.servers()))

    def begin_stop(self, name: str) -> None:
        self._running[name].stop.set()

    def stop(self, *names: str) -> None:
        """Stop servers as TERM does, or all."""
        for name in names or list(self._running):
            self.begin_stop(name)
        for name in names or list(self._running):
            self._join(name)

    def crash(self, *names: str) -> None:
        """End servers as SIGKILL does: from here on nothing that they decide leaves them."""
        for name in names or list(self._running):
            server = self[name]
            for method, result in (
                ("_keep", []),
                ("_deliver", None),
                ("_tell", None),
                ("_in_doubt", 0),
            ):
                self._patch.setattr(server, method, lambda *_, result=result: result)
            journal = server._journal
            if journal:
                self._patch.setattr(journal, "_deliver", lambda _: None)
                self._patch.setattr(journal, "_capture", lambda _: (0, iter([])))
                self._patch.setattr(journal, "_write", lambda *_: None)
        self.stop(*names)

    def _join(self, name: str) -> None:
        running = self._running.pop(name)
        running.thread.join(PATIENCE_S)
        assert not running.thread.is_alive(), f"server {name} did not end"
        workers = running.server._workers
        left = [one for worker in workers for one in worker.connections.values()]
        assert not left, f"server {name} ended and left connections open"

    def client(self, profile: str = "fast", **options: object) -> Client:
        client = Client(
            self.roster,
            key_range=KEY_RANGE,
            profile=profile,
            **options,  # type: ignore[arg-type]
        )
        self._closing.append(client)
        return client

    def connect(self, server: str, incarnation: int = 1, **fields: object) -> ClientConnection:
        """Connect to a server by hand."""
        hello = make_hello(self.roster, server, incarnation, **fields)
        secret = self.roster.secret()
        connection = ClientConnection(self.roster.server(server), hello, secret)
        self._closing.append(connection)
        return connection

    def close(self) -> None:
        for one in self._closing:
            one.close()
        self.stop()

    def keys(self, count: int, *replicas: str) -> list[bytes]:
        """Return keys, of the range of these two servers if they are named."""
        found = (b"key %d" % number for number in range(100_000))
        if replicas:
            found = (key for key in found if set(self.ring.replicas(key)) == set(replicas))
        return [next(found) for _ in range(count)]

    def key_of_each_range(self) -> list[bytes]:
        by_range = {self.ring.range_of(key): key for key in self.keys(1000)}
        return [by_range[number] for number in sorted(by_range)]

    def is_settled(self) -> bool:
        figures = [server.stats() for server in self.servers()]
        return not any(one["in_doubt"] or one["locks"] for one in figures)

    def entries(self) -> dict[bytes, Entry]:
        """Wait until nothing is prepared; return the keys, held alike by exactly two servers."""
        wait_until(lambda: self.is_settled() and all(one.is_ready for one in self.servers()))
        table: dict[bytes, Entry] = {}
        for number, pair in enumerate(self.ring.ranges):
            primary, backup = (self[name].participant.replicas[number] for name in pair)
            assert primary.epoch == backup.epoch
            assert primary.table == backup.table
            assert all(self.ring.range_of(key) == number for key in primary.table)
            table |= primary.table
        return table

    def values(self) -> dict[bytes, bytes]:
        entries = self.entries().items()
        return {key: entry.value for key, entry in entries if entry.value is not None}


class ByHand:
    """A client whose messages the test sends one by one."""

    def __init__(self, table: Table, incarnation: int = 1) -> None:
        self.table = table
        self.incarnation = incarnation
        self.connections = {name: table.connect(name, incarnation) for name in table.names}
        self.epochs = {
            int(number): one["epoch"]
            for connection in self.connections.values()
            for number, one in connection.welcome["ranges"].items()
        }

    def requests(self, *commands: Command, sequence: int = 1, flags: int = 0) -> dict[str, Message]:
        """Return the requests for the commands as one transaction, by server."""
        name = Name(self.incarnation, sequence, 1)
        return plan(name, commands, self.table.ring, self.epochs, flags).requests

    def ask(self, server: str, message: Message) -> Message:
        return answer_to(self.connections[server], message)[0]

    def tell(self, server: str, message: Message) -> None:
        self.connections[server].queue(message)
        self.connections[server].flush()

    def vote(self, requests: dict[str, Message], servers: Sequence[str] | None = None) -> None:
        """Send requests to the servers, or all; each must vote yes."""
        for server in requests if servers is None else servers:
            assert self.ask(server, requests[server]).status is Status.YES

    def die(self) -> None:
        """Close all connections at once."""
        for connection in self.connections.values():
            connection.close()
