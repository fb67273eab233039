"""Who may connect: the secret on either side, and what a man in the middle achieves."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rdht.authentication import NONCE_BYTES, TAG_BYTES
from rdht.client import Client, observe
from rdht.errors import AuthenticationError, ConnectError
from rdht.limits import MAX_HANDSHAKE_BYTES
from rdht.messages import Decoder, Message, Status, encode
from rdht.roster import Roster
from rdht.traffic import total
from rdht.transport import ClientConnection
from tests.unit.rdht.table import (
    KEY_RANGE,
    PATIENCE_S,
    ByHand,
    Table,
    free_ports,
    make_hello,
    read_to_end,
    wait_until,
    write_secret,
)

KEY = b"key"


@pytest.fixture
def guarded(make_table: Callable[..., Table], secret_file: Path) -> Table:
    """Start a table of three servers that share a secret."""
    table = make_table(secret_file=secret_file)
    table.start()
    table.wait_served()
    return table


def refused(table: Table, secret: bytes | None, why: str) -> None:
    """Check that connecting with this secret is refused with these words."""
    hello = make_hello(table.roster, "s0")
    with pytest.raises(ConnectError, match=rf"server s0 at 127\.0\.0\.1:\d+: {why}"):
        ClientConnection(table.roster.server("s0"), hello, secret)


def check_noticed(table: Table, caplog: pytest.LogCaptureFixture, words: str) -> None:
    def is_logged() -> bool:
        return any("closed the connection" in line and words in line for line in caplog.messages)

    wait_until(is_logged)
    figures = table["s0"].stats()
    assert (figures["unauthenticated"], figures["rejected"]) == (1, 1)
    assert table.client().put(KEY, b"value") == 1


@pytest.mark.parametrize("profile", ["classic", "fast"])
def test_whoever_knows_the_secret_does_all_as_without_one(guarded: Table, profile: str) -> None:
    client = guarded.client(profile)
    values = {key: b"of " + key * 100 for key in guarded.keys(50)}
    client.put_many(values)
    assert client.get_many(values) == values
    with client.pipeline() as pipeline:
        for key in values:
            pipeline.put(key, b"new")
    assert guarded.values() == dict.fromkeys(values, b"new")
    guarded.crash("s1")
    guarded.start("s1")
    assert client.get_many(values) == dict.fromkeys(values, b"new")
    assert all(server.stats()["unauthenticated"] == 0 for server in guarded.servers())


def test_a_classic_frame_has_256_bytes_with_its_tag(guarded: Table) -> None:
    client = guarded.client("classic")
    client.put(KEY, b"value")
    wait_until(guarded.is_settled)
    before = total(client._session().traffic().values())
    client.put(KEY, b"value")
    after = total(client._session().traffic().values())
    assert after.bytes_sent - before.bytes_sent == 4 * 256
    assert after.bytes_received - before.bytes_received == 4 * 256
    fast = guarded.client()
    for _ in range(2):  # from either replica
        fast.get(KEY)
    before = total(fast._session().traffic().values())
    fast.get(KEY)
    sent = total(fast._session().traffic().values()).bytes_sent - before.bytes_sent
    assert sent == len(encode(Message(Status.READ, key=KEY))) + TAG_BYTES


def test_another_secret_is_refused_on_both_sides(
    guarded: Table, caplog: pytest.LogCaptureFixture
) -> None:
    refused(guarded, bytes(32), "the server does not know this cluster's secret")
    check_noticed(guarded, caplog, "left after this server's proof")


def test_no_secret_is_refused_with_advice(guarded: Table, caplog: pytest.LogCaptureFixture) -> None:
    refused(guarded, None, "this cluster has a secret, .* names no secret_file")
    check_noticed(guarded, caplog, "names no secret_file")


def test_a_wrong_proof_is_refused(
    guarded: Table, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accept(*_: object) -> None:
        """Believe whatever the other side says."""

    with monkeypatch.context() as patch:
        # The client takes any proof; the server must not take the one that it gives.
        patch.setattr("rdht.authentication._check_proof", accept)
        original = ClientConnection._converse

        def converse(connection: ClientConnection, expected: Status) -> Message:
            if expected is Status.WELCOME:
                patch.undo()
            return original(connection, expected)

        patch.setattr(ClientConnection, "_converse", converse)
        refused(guarded, bytes(32), ".*")
    check_noticed(guarded, caplog, "the client does not know this cluster's secret")


def test_a_client_with_a_secret_trusts_no_server_without(table: Table) -> None:
    refused(table, bytes(32), "it does not ask for the secret that this side's roster names")
    assert table.client().put(KEY, b"value") == 1


def test_a_client_and_an_observer_name_the_servers_that_refuse_them(
    guarded: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.2)
    other = Roster(guarded.roster.servers, write_secret(tmp_path / "other"))
    with Client(other, key_range=KEY_RANGE) as client, pytest.raises(Exception, match="secret"):
        client.put(KEY, b"value")
    with pytest.raises(ConnectError, match="secret"), observe(other, "s1"):
        pass
    assert guarded.client().get(KEY) is None


def test_a_server_with_another_secret_is_linked_to_nobody(
    make_table: Callable[..., Table], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = make_table(secret_file=write_secret(tmp_path / "right"))
    right = table.roster
    table.start("s0", "s1")
    table.roster = Roster(right.servers, write_secret(tmp_path / "wrong"))
    table.start("s2")
    wait_until(lambda: table["s0"].stats()["unauthenticated"] > 0)
    wait_until(lambda: any("no link to s2: server s2" in line for line in caplog.messages))
    assert not table["s0"]._links["s2"].is_up
    assert not table["s2"]._links["s0"].is_up
    table.stop("s2")
    table.roster = right
    table.start("s2")
    table.wait_served()
    assert table.client().put(KEY, b"value") == 1


@pytest.mark.parametrize("size", [0, NONCE_BYTES - 1, NONCE_BYTES + 1])
def test_a_nonce_of_another_size_is_refused(guarded: Table, size: int) -> None:
    member = guarded.roster.servers[0]
    with socket.create_connection((member.address, member.port), PATIENCE_S) as sock:
        hello = make_hello(guarded.roster, "s0").to_message(bytes(size))
        sock.sendall(encode(hello))
        (message,) = read_to_end(sock)
    assert message.status is Status.ERROR
    assert guarded["s0"].stats()["unauthenticated"] == 1


def test_a_long_frame_before_the_proof_is_refused(guarded: Table) -> None:
    member = guarded.roster.servers[0]
    hello = make_hello(guarded.roster, "s0").to_message(bytes(NONCE_BYTES))
    proof = Message(Status.PROOF, value=bytes(MAX_HANDSHAKE_BYTES))
    with socket.create_connection((member.address, member.port), PATIENCE_S) as sock:
        sock.sendall(encode(hello))
        wait_until(lambda: bool(sock.recv(65_536)))
        sock.sendall(encode(proof)[:60])
        (message,) = read_to_end(sock)
    assert message.status is Status.ERROR
    assert f"to {MAX_HANDSHAKE_BYTES}" in message.value.decode()


# A man in the middle.


class Middleman:
    """Stands before one server, and may change a byte that passes."""

    def __init__(self, target: tuple[str, int], port: int) -> None:
        self.spoil: Callable[[bytes], bytes] = lambda data: data  # what goes to the server
        self.spoil_answer: Callable[[bytes], bytes] = lambda data: data
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port))
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._sockets += [near, far]
            for source, sink, way in ((near, far, "spoil"), (far, near, "spoil_answer")):
                thread = threading.Thread(target=self._pass_on, args=(source, sink, way))
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        try:
            while data := source.recv(65_536):
                sink.sendall(getattr(self, way)(data))
        except OSError:
            pass
        for sock in (source, sink):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def middleman(guarded: Table) -> Iterator[Middleman]:
    """Stand between the clients of this table and s0."""
    member = guarded.roster.server("s0")
    (port,) = free_ports(1)
    man = Middleman((member.address, member.port), port)
    servers = guarded.roster.servers
    moved = (replace(member, port=port), *servers[1:])
    guarded.roster = Roster(moved, guarded.roster.secret_file)
    yield man
    man.close()


def once(spoil: Callable[[bytes], bytes], marker: bytes) -> Callable[[bytes], bytes]:
    """Spoil the first bytes that hold the marker, and nothing after that."""
    done = threading.Event()

    def pass_on(data: bytes) -> bytes:
        if marker not in data or done.is_set():
            return data
        done.set()
        return spoil(data)

    return pass_on


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the value": lambda data: data.replace(b"spoil me", b"spoil ne"),
    "a bit of the tag": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "said twice": lambda data: data + data,
    "left out": lambda data: data[4 + int.from_bytes(data[:4]) + TAG_BYTES :],
}


@pytest.mark.parametrize("profile", ["classic", "fast"])
@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_a_frame_that_is_changed_on_its_way_changes_nothing_else(
    guarded: Table,
    middleman: Middleman,
    spoil: Callable[[bytes], bytes],
    profile: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = guarded.client(profile)
    (key, other) = guarded.keys(2, "s0", "s1")
    client.put(key, b"before")
    assert guarded["s0"].stats()["unauthenticated"] == 0
    middleman.spoil = once(spoil, b"spoil me")
    with client.pipeline() as pipeline:
        first = pipeline.put(key, b"spoil me")
        second = pipeline.put(other, b"not me")
    assert (first.result(), second.result()) == (2, 1)
    assert guarded.values() == {key: b"spoil me", other: b"not me"}
    assert guarded["s0"].stats()["unauthenticated"] == 1
    assert any("has a wrong tag" in line for line in caplog.messages)


@pytest.mark.parametrize("profile", ["classic", "fast"])
def test_an_answer_that_is_changed_on_its_way_is_not_believed(
    guarded: Table, middleman: Middleman, profile: str
) -> None:
    client = guarded.client(profile)
    (key,) = guarded.keys(1, "s2", "s0")
    client.put(key, b"spoil me")
    middleman.spoil_answer = once(SPOILS["a bit of the value"], b"spoil me")
    assert [client.get(key) for _ in range(4)] == [b"spoil me"] * 4


def test_a_frame_of_another_session_is_not_taken(guarded: Table, middleman: Middleman) -> None:
    heard: list[bytes] = []

    def listen(data: bytes) -> bytes:
        heard.append(data)
        return data

    middleman.spoil = listen
    client = guarded.client()
    (key,) = guarded.keys(1, "s0", "s1")
    client.put(key, b"value")
    wait_until(guarded.is_settled)
    (request,) = [data for data in heard if b"value" in data]
    with socket.create_connection(middleman._target, PATIENCE_S) as sock:
        hello, proof = heard[: heard.index(request)]
        sock.sendall(hello)
        (challenge,) = Decoder().feed(sock.recv(65_536))
        assert challenge.status is Status.CHALLENGE
        sock.sendall(proof)
        (error,) = read_to_end(sock)
    assert error.value == b"the client does not know this cluster's secret"
    assert guarded["s0"].stats()["unauthenticated"] == 1
    assert guarded.entries()[key].version == 1


def test_a_client_tells_a_wrong_tag_from_a_lost_connection(guarded: Table) -> None:
    client = ByHand(guarded)
    connection = client.connections["s0"]
    decoder = Decoder()
    decoder.seal = connection._decoder.seal
    assert decoder.seal is not None
    with pytest.raises(AuthenticationError, match="frame 1 has a wrong tag"):
        decoder.feed(encode(Message(Status.DONE)) + bytes(TAG_BYTES))
