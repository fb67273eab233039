import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rdht.messages import Decoder, Message, Status, encode
from rdht.roster import Roster, ServerAddress
from rdht.transport import listen
from tests.unit.rdht.table import PATIENCE_S, Table, free_roster, write_secret


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
def roster() -> Roster:
    return free_roster(3)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    return write_secret(tmp_path / "secret")


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers look up more often than they do in earnest."""
    for module in ("server", "worker", "link"):
        monkeypatch.setattr(f"rdht.{module}.HOUSEKEEPING_S", 0.005)
    for module in ("server", "rejoin"):
        monkeypatch.setattr(f"rdht.{module}.JOIN_RETRY_S", 0.005)


@pytest.fixture
def make_table(impatience: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Table]]:
    """Make a table, whose servers are still to be started."""
    tables = []

    def make(
        count: int = 3, *, secret_file: Path | None = None, folder: Path | None = None
    ) -> Table:
        tables.append(Table(free_roster(count, secret_file), monkeypatch, folder))
        return tables[-1]

    yield make
    for table in tables:
        table.close()


@pytest.fixture
def table(make_table: Callable[..., Table]) -> Table:
    """Start a table of three servers in memory."""
    table = make_table()
    table.start()
    table.wait_served()
    return table


@pytest.fixture
def durable(make_table: Callable[..., Table], tmp_path: Path) -> Table:
    """Start a table of three durable servers."""
    table = make_table(folder=tmp_path)
    table.start()
    table.wait_served()
    return table


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
