import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rdht.messages import Decoder, Message, Status, encode
from rdht.participant import Entry
from rdht.roster import Roster, ServerAddress
from rdht.server import Server
from rdht.transport import Hello, listen

KEY_RANGE = 100
PATIENCE_S = 10.0  # longer than anything here takes, shorter than a hang


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, "it did not come to pass in time"
            time.sleep(0.005)

    return wait


@pytest.fixture
def make_roster() -> Callable[..., Roster]:
    def make(*hosts: str) -> Roster:
        rows = [
            ServerAddress(f"s{number}", host, "127.0.0.1", 40_000 + number)
            for number, host in enumerate(hosts)
        ]
        return Roster(tuple(rows))

    return make


@pytest.fixture
def free_roster() -> Callable[[int], Roster]:
    def make(count: int) -> Roster:
        sockets = [socket.socket() for _ in range(count)]
        rows = []
        for number, sock in enumerate(sockets):
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            rows.append(ServerAddress(f"s{number}", f"host{number}", "127.0.0.1", port))
        for sock in sockets:
            sock.close()
        return Roster(tuple(rows))

    return make


@pytest.fixture
def make_hello() -> Callable[..., Hello]:
    def make(roster: Roster, server: str, incarnation: int = 1, **fields: object) -> Hello:
        names = [member.name for member in roster.servers]
        known = {
            "server": server,
            "servers": names,
            "client": "tester",
            "thread": 0,
            "incarnation": incarnation,
            "key_range": KEY_RANGE,
            "frame_bytes": 0,
        }
        return Hello(**{**known, **fields})  # type: ignore[arg-type]

    return make


class Stage:
    """Servers of this test that run, each in a thread."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[Server, threading.Event, threading.Thread]] = {}

    def start(self, server: Server) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=server.serve, args=(stop,))
        self._running[server.me.name] = server, stop, thread
        thread.start()

    def stop(self, name: str) -> None:
        server, stop, thread = self._running.pop(name)
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), f"server {name} did not end"
        left = [one for worker in server._workers for one in worker.connections.values()]
        for connection in left:
            connection.close()
        assert not left, f"server {name} ended and left connections open"

    def stop_all(self) -> None:
        for _, stop, _ in self._running.values():
            stop.set()
        for name in list(self._running):
            self.stop(name)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for module in ("server", "worker"):
        monkeypatch.setattr(f"rdht.{module}.HOUSEKEEPING_S", 0.02)
    running = Stage()
    yield running
    running.stop_all()


@pytest.fixture
def start_server(stage: Stage) -> Callable[..., Server]:
    def start(roster: Roster, name: str, workers: int = 2, *, trace: bool = False) -> Server:
        server = Server(roster, name, workers, trace=trace)
        stage.start(server)
        return server

    return start


@pytest.fixture
def stop_server(stage: Stage) -> Callable[[str], None]:
    return stage.stop


@pytest.fixture
def roster(free_roster: Callable[[int], Roster]) -> Roster:
    return free_roster(3)


@pytest.fixture
def servers(roster: Roster, start_server: Callable[..., Server]) -> dict[str, Server]:
    return {member.name: start_server(roster, member.name) for member in roster.servers}


@pytest.fixture
def check_replicas(servers: dict[str, Server]) -> Callable[[], dict[bytes, Entry]]:
    """Assert that each key is held, alike and unlocked, by exactly two servers; return them."""

    def check() -> dict[bytes, Entry]:
        participants = [server.participant for server in servers.values()]
        assert all(not member.locks and not member.prepared for member in participants)
        table: dict[bytes, Entry] = {}
        for key in set().union(*(member.table for member in participants)):
            copies = [member.table[key] for member in participants if key in member.table]
            assert len(copies) == 2
            assert copies[0] == copies[1]
            table[key] = copies[0]
        return table

    return check


@pytest.fixture
def fake_server() -> Iterator[Callable[..., None]]:
    """Start a server that answers by a function; it hangs up where that returns None."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []
    stop = threading.Event()

    def serve(
        listener: socket.socket, answer: Callable[[Message], list[Message] | None], welcome: Message
    ) -> None:
        while not stop.is_set():
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                continue
            with sock:
                sock.settimeout(0.02)
                _converse(sock, answer, welcome, stop)

    def start(
        address: ServerAddress,
        answer: Callable[[Message], list[Message] | None],
        welcome: Message = Message(Status.WELCOME, value=b"{}"),  # noqa: B008 - immutable
    ) -> None:
        listener = listen(address.address, address.port)
        listener.settimeout(0.02)
        thread = threading.Thread(target=serve, args=(listener, answer, welcome))
        listeners.append(listener)
        threads.append(thread)
        thread.start()

    yield start
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    for listener in listeners:
        listener.close()


def _converse(
    sock: socket.socket,
    answer: Callable[[Message], list[Message] | None],
    welcome: Message,
    stop: threading.Event,
) -> None:
    decoder = Decoder()
    while not stop.is_set():
        try:
            data = sock.recv(65_536)
        except TimeoutError:
            continue
        except ConnectionResetError:
            return
        if not data:
            return
        for message in decoder.feed(data):
            answers = [welcome] if message.status is Status.HELLO else answer(message)
            if answers is None:
                return
            sock.sendall(b"".join(map(encode, answers)))
