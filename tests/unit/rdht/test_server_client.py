import gc
import json
import logging
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rdht import scan
from rdht.client import Client, Session, Versioned, observe
from rdht.coordinator import Command
from rdht.errors import (
    AbortedError,
    ConfigurationError,
    ConnectError,
    LocalProtocolError,
    NetworkError,
    RemoteProtocolError,
    UnknownOutcomeError,
)
from rdht.limits import MAX_KEY_BYTES, MAX_VALUE_BYTES
from rdht.messages import Decoder, Message, Name, Operation, Reason, Status, encode
from rdht.participant import Entry
from rdht.ring import Ring
from rdht.roster import Roster
from rdht.server import Server
from rdht.transport import ClientConnection, Hello, read_json

KEY_RANGE = 100
KEY = b"key"
LOCKER = Name(1, 1, 1)
PATIENCE_S = 10.0
Wait = Callable[[Callable[[], bool]], None]
Check = Callable[[], dict[bytes, Entry]]


@pytest.fixture
def ring(roster: Roster) -> Ring:
    return Ring(roster, KEY_RANGE)


@pytest.fixture
def client(roster: Roster) -> Iterator[Client]:
    with Client(roster, key_range=KEY_RANGE) as client:
        yield client


@pytest.fixture
def connect(
    roster: Roster, servers: dict[str, Server], make_hello: Callable[..., Hello]
) -> Iterator[Callable[..., ClientConnection]]:
    """Connect to a server by hand."""
    connections = []

    def open_connection(server: str, **fields: object) -> ClientConnection:
        hello = make_hello(roster, server, **fields)
        connections.append(ClientConnection(roster.server(server), hello))
        return connections[-1]

    yield open_connection
    for connection in connections:
        connection.close()


@pytest.fixture
def hold_lock(
    ring: Ring, connect: Callable[..., ClientConnection]
) -> Callable[[str], ClientConnection]:
    """Connect to the key's primary or backup as a client that holds the key's lock there."""

    def hold(of: str) -> ClientConnection:
        connection = connect(getattr(ring.replicas(KEY), of))
        lock(connection)
        return connection

    return hold


@pytest.fixture
def make_session(roster: Roster, client: Client) -> Iterator[Callable[[], Session]]:
    sessions = []

    def make() -> Session:
        sessions.append(Session(roster, client._ring, client._profile, "tester", 0))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


def ask(connection: ClientConnection, message: Message) -> Message:
    connection.send(encode(message))
    return connection.receive()


def lock(connection: ClientConnection) -> None:
    """Take the key's lock, as the client of incarnation 1."""
    request = Message(Status.REQUEST, LOCKER, Operation.PUT, key=KEY, value=b"mine")
    assert ask(connection, request).status is Status.YES


def key_of(ring: Ring, *replicas: str) -> bytes:
    """Return a key that stands at these two servers."""
    keys = (b"key %d" % number for number in range(1000))
    return next(key for key in keys if set(ring.replicas(key)) == set(replicas))


# Commands.


def test_commands_do_what_they_say(
    client: Client, servers: dict[str, Server], check_replicas: Check
) -> None:
    assert client.get(KEY) is None
    assert client.put(KEY, b"one") == 1
    assert client.get(KEY) == b"one"
    assert client.put(KEY, b"two") == 2
    assert not client.add(KEY, b"three")
    assert client.get_versioned(KEY) == Versioned(b"two", 2)
    assert not client.cas(KEY, b"three", 1)
    assert client.cas(KEY, b"three", 2)
    assert client.get_versioned(KEY) == Versioned(b"three", 3)
    assert client.delete(KEY)
    assert not client.delete(KEY)
    assert client.get_versioned(KEY) == Versioned(None, 4)
    assert client.add(KEY, b"four")
    assert client.get_versioned(KEY) == Versioned(b"four", 5)
    assert check_replicas() == {KEY: Entry(b"four", 5)}


def test_a_text_is_its_utf_8(client: Client, servers: dict[str, Server]) -> None:
    client.put("schlüssel", "wert €")
    assert client.get("schlüssel".encode()) == "wert €".encode()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"", b""),
        (b"\0", b"\0" * 300),
        (b"k" * MAX_KEY_BYTES, b"v" * MAX_VALUE_BYTES),
    ],
    ids=["empty", "zeros", "longest"],
)
def test_any_bytes_within_the_limits_are_key_and_value(
    key: bytes, value: bytes, client: Client, servers: dict[str, Server], check_replicas: Check
) -> None:
    client.put(key, value)
    assert client.get(key) == value
    assert check_replicas() == {key: Entry(value, 1)}


def test_what_is_over_its_limit_is_refused_and_harms_nothing(
    client: Client, servers: dict[str, Server], check_replicas: Check
) -> None:
    client.put(KEY, b"before")
    with pytest.raises(LocalProtocolError, match="at most"):
        client.put(KEY, b"v" * (MAX_VALUE_BYTES + 1))
    with pytest.raises(LocalProtocolError, match="at most"):
        client.get(b"k" * (MAX_KEY_BYTES + 1))
    assert client.get(KEY) == b"before"
    assert check_replicas() == {KEY: Entry(b"before", 1)}


def test_keys_are_spread_over_all_servers(
    client: Client, servers: dict[str, Server], check_replicas: Check
) -> None:
    keys = {b"key %d" % number for number in range(60)}
    for key in keys:
        client.put(key, b"of " + key)
    assert {key: entry.value for key, entry in check_replicas().items()} == {
        key: b"of " + key for key in keys
    }
    assert all(server.participant.table for server in servers.values())


def test_a_client_is_made_from_a_rosters_file(
    roster: Roster, servers: dict[str, Server], tmp_path: Path
) -> None:
    path = tmp_path / "roster.json"
    path.write_text(json.dumps(roster.to_json()), encoding="utf-8")
    with Client(path, key_range=KEY_RANGE) as client:
        assert client.put(KEY, b"value") == 1


def test_an_unknown_profile_is_a_configuration_error(roster: Roster) -> None:
    with pytest.raises(ConfigurationError, match="classic"):
        Client(roster, profile="no such profile")


def test_a_closed_session_does_nothing_more(
    make_session: Callable[[], Session], servers: dict[str, Server]
) -> None:
    session = make_session()
    session.execute(Command(Operation.PUT, KEY, b"value"))
    assert not session.broken
    session.close()
    assert session.broken
    with pytest.raises(AbortedError, match="the session is closed"):
        session.execute(Command(Operation.PUT, KEY, b"more"))


def test_leaving_the_context_closes_the_connections_of_every_thread(
    roster: Roster, servers: dict[str, Server], wait_until: Wait
) -> None:
    release = threading.Event()
    done = threading.Barrier(3)

    def use_and_stay(client: Client, number: int) -> None:
        for key in range(20):
            client.put(b"%d %d" % (number, key), b"value")
        done.wait(PATIENCE_S)
        release.wait(PATIENCE_S)

    with ThreadPoolExecutor(2) as pool:
        with Client(roster, key_range=KEY_RANGE) as client:
            using = [pool.submit(use_and_stay, client, number) for number in range(2)]
            done.wait(PATIENCE_S)
            assert [server.stats()["connections"] for server in servers.values()] == [2, 2, 2]
        wait_until(lambda: not any(server.stats()["connections"] for server in servers.values()))
        release.set()
        for future in using:
            future.result(PATIENCE_S)


def test_a_thread_that_ends_takes_its_connections_with_it(
    client: Client, servers: dict[str, Server], wait_until: Wait
) -> None:
    thread = threading.Thread(target=client.put, args=(KEY, b"value"))
    thread.start()
    thread.join(PATIENCE_S)
    gc.collect()
    wait_until(lambda: not any(server.stats()["connections"] for server in servers.values()))
    assert client.get(KEY) == b"value"


# Many at once.


def run_threads(count: int, work: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work, number) for number in range(count)]:
            future.result(3 * PATIENCE_S)


def test_threads_of_one_client_work_side_by_side(
    client: Client, servers: dict[str, Server], check_replicas: Check
) -> None:
    def work(number: int) -> None:
        for round_number in range(20):
            key = b"%d/%d" % (number, round_number)
            client.put(key, key)
            assert client.get(key) == key

    run_threads(4, work)
    assert len(check_replicas()) == 80


def test_clients_that_hammer_one_key_end_with_equal_replicas(
    roster: Roster, servers: dict[str, Server], check_replicas: Check
) -> None:
    versions: list[int] = []

    def work(number: int) -> None:
        with Client(roster, key_range=KEY_RANGE) as client:
            versions.extend(client.put(KEY, b"%d/%d" % (number, turn)) for turn in range(50))

    run_threads(2, work)
    assert sorted(versions) == list(range(1, 101))
    (entry,) = check_replicas().values()
    assert entry.version == 100
    assert entry.value in {b"0/49", b"1/49"}


def test_increments_by_cas_are_never_lost(
    client: Client, servers: dict[str, Server], check_replicas: Check
) -> None:
    client.put(KEY, b"0")

    def work(_number: int) -> None:
        for _ in range(15):
            done = False
            while not done:
                value, version = client.get_versioned(KEY)
                done = client.cas(KEY, b"%d" % (int(value or b"") + 1), version)

    run_threads(3, work)
    assert check_replicas() == {KEY: Entry(b"45", 46)}


def test_of_many_that_add_a_key_one_succeeds(
    client: Client, servers: dict[str, Server], check_replicas: Check
) -> None:
    added: list[int] = []

    def work(number: int) -> None:
        if client.add(KEY, b"%d" % number):
            added.append(number)

    run_threads(4, work)
    (winner,) = added
    assert check_replicas() == {KEY: Entry(b"%d" % winner, 1)}


@pytest.mark.parametrize("of", ["primary", "backup"])
def test_a_command_whose_key_is_locked_is_tried_again_until_it_is_not(
    of: str,
    hold_lock: Callable[[str], ClientConnection],
    make_session: Callable[[], Session],
    wait_until: Wait,
    check_replicas: Check,
) -> None:
    holder = hold_lock(of)
    session = make_session()
    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(session.execute, Command(Operation.PUT, KEY, b"value"))
        wait_until(lambda: session.counters().conflicts > 3)
        assert not putting.done()
        assert ask(holder, Message(Status.ABORT, LOCKER, key=KEY)).status is Status.ABORTED
        assert putting.result(PATIENCE_S).version == 1
    assert check_replicas() == {KEY: Entry(b"value", 1)}


def test_a_command_whose_key_stays_locked_is_aborted_in_the_end(
    ring: Ring,
    client: Client,
    servers: dict[str, Server],
    hold_lock: Callable[[str], ClientConnection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rdht.client.COMMAND_TIMEOUT_S", 0.05)
    primary, backup = ring.replicas(KEY)
    hold_lock("backup")
    why = r"put of key b'key' was not done: its lock was taken at each of \d+ attempts"
    with pytest.raises(AbortedError, match=why) as caught:
        client.put(KEY, b"value")
    assert caught.value.lost == {}
    assert not servers[primary].participant.prepared
    other = key_of(ring, primary, backup)
    assert client.put(other, b"value") == 1


# Clients that die.


def reset(connection: ClientConnection) -> None:
    linger = struct.pack("ii", 1, 0)
    connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


@pytest.mark.parametrize("die", [ClientConnection.close, reset])
def test_a_client_that_dies_holding_a_lock_does_not_leave_the_key_locked(
    die: Callable[[ClientConnection], None],
    client: Client,
    hold_lock: Callable[[str], ClientConnection],
    caplog: pytest.LogCaptureFixture,
    check_replicas: Check,
) -> None:
    for of in ("primary", "backup"):
        die(hold_lock(of))
    assert client.put(KEY, b"value") == 1
    assert check_replicas() == {KEY: Entry(b"value", 1)}
    assert caplog.messages.count("aborted transaction (1, 1, 1): its client is gone") == 2


def test_a_client_that_is_silent_too_long_loses_the_lock_and_cannot_commit(
    client: Client,
    hold_lock: Callable[[str], ClientConnection],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("rdht.participant.PREPARED_TIMEOUT_S", 0.05)
    silent = hold_lock("primary")
    assert client.put(KEY, b"value") == 1
    assert ask(silent, Message(Status.PROCEED, LOCKER)).status is Status.ABORTED
    assert client.get_versioned(KEY) == Versioned(b"value", 1)
    assert "aborted transaction (1, 1, 1): no decision in time" in caplog.messages


# What a server refuses.


@pytest.fixture
def raw(roster: Roster) -> Iterator[socket.socket]:
    server = roster.servers[0]
    with socket.create_connection((server.address, server.port), PATIENCE_S) as sock:
        yield sock


def read_to_end(sock: socket.socket) -> list[Message]:
    decoder = Decoder()
    messages: list[Message] = []
    while data := sock.recv(65_536):
        messages += decoder.feed(data)
    return messages


GARBAGE = {
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "a frame of"),
    "zeros": (b"\0" * 100, "a frame of 0 bytes"),
    "ones": (b"\xff" * 100, "a frame of 4294967295 bytes"),
    "no hello": (encode(Message(Status.STATS)), "expected a HELLO"),
    "a put": (encode(Message(Status.REQUEST, operation=Operation.PUT)), "expected a HELLO"),
    "no json": (encode(Message(Status.HELLO, value=b"{")), "carries no JSON object"),
    "deep json": (encode(Message(Status.HELLO, value=b"[" * 50_000)), "carries no JSON object"),
}


@pytest.mark.parametrize(("data", "why"), GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_answered_with_an_error_and_the_end_and_harms_nobody(
    data: bytes, why: str, client: Client, servers: dict[str, Server], roster: Roster
) -> None:
    before = {b"key %d" % number: b"value" for number in range(9)}
    for key, value in before.items():
        client.put(key, value)
    address = (roster.servers[0].address, roster.servers[0].port)
    with socket.create_connection(address, PATIENCE_S) as sock:
        sock.sendall(data)
        (message,) = read_to_end(sock)
    assert message.status is Status.ERROR
    assert why in message.value.decode()
    assert servers["s0"].stats()["rejected"] == 1
    assert {key: client.get(key) for key in before} == before


def test_garbage_behind_a_handshake_ends_that_connection_and_frees_its_locks(
    client: Client, hold_lock: Callable[[str], ClientConnection]
) -> None:
    connection = hold_lock("primary")
    connection.send(b"\xff" * 8)
    with pytest.raises(RemoteProtocolError, match="a frame of 4294967295 bytes"):
        connection.receive()
    assert client.put(KEY, b"value") == 1


def test_a_server_name_that_no_text_can_carry_harms_nobody(
    servers: dict[str, Server],
    raw: socket.socket,
    roster: Roster,
    make_hello: Callable[..., Hello],
    connect: Callable[..., ClientConnection],
) -> None:
    # JSON may carry half of a surrogate pair, which UTF-8 may not.
    raw.settimeout(1)
    raw.sendall(encode(make_hello(roster, "\ud800").to_message()))
    (message,) = read_to_end(raw)
    assert message.status is Status.ERROR
    assert all(worker.is_alive() for worker in servers["s0"]._workers)
    assert connect("s0").welcome["server"] == "s0"


def test_a_hello_whose_refusal_is_longer_than_a_message_harms_nobody(
    servers: dict[str, Server],
    raw: socket.socket,
    make_hello: Callable[..., Hello],
    connect: Callable[..., ClientConnection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The error repeats the client's roster, and writes this character with four.
    monkeypatch.setattr("rdht.messages.MAX_VALUE_BYTES", 1000)
    hello = make_hello(servers["s0"].roster, "s0", servers=["\x7f" * 500])
    value = json.dumps(vars(hello), ensure_ascii=False).encode()
    raw.settimeout(1)
    raw.sendall(encode(Message(Status.HELLO, value=value)))
    assert all(message.status is Status.ERROR for message in read_to_end(raw))
    assert all(worker.is_alive() for worker in servers["s0"]._workers)
    assert connect("s0").welcome["server"] == "s0"


def test_a_rosters_wrong_server_name_is_refused(
    roster: Roster, servers: dict[str, Server], make_hello: Callable[..., Hello]
) -> None:
    swapped = replace(roster.server("s0"), port=roster.server("s1").port)
    with pytest.raises(ConnectError, match="this is server s1, not s0: the roster is wrong"):
        ClientConnection(swapped, make_hello(roster, "s0"))


def test_another_roster_is_refused_with_both(
    servers: dict[str, Server], connect: Callable[..., ClientConnection]
) -> None:
    why = "the client's roster names ['s1', 's0'], this server's ['s0', 's1', 's2']"
    with pytest.raises(ConnectError, match=re.escape(why)):
        connect("s0", servers=["s1", "s0"])


def test_another_key_range_is_refused_with_the_right_one(
    servers: dict[str, Server], client: Client, connect: Callable[..., ClientConnection]
) -> None:
    connect("s0")
    why = "the keys are placed with key range 100, not 99: use --key-range 100"
    with pytest.raises(ConnectError, match=why):
        connect("s0", key_range=99)
    assert connect("s1", key_range=99).welcome["key_range"] == 99


def test_a_refused_hello_does_not_set_the_key_range(
    servers: dict[str, Server], connect: Callable[..., ClientConnection]
) -> None:
    with pytest.raises(ConnectError):
        connect("s0", servers=["s0"], key_range=5)
    assert connect("s0").welcome == {"server": "s0", "key_range": KEY_RANGE}


def test_an_observer_does_not_set_the_key_range(
    roster: Roster, servers: dict[str, Server], connect: Callable[..., ClientConnection]
) -> None:
    with observe(roster, "s0") as connection:
        assert connection.welcome["key_range"] == 0
    assert connect("s0").welcome["key_range"] == KEY_RANGE


def test_a_command_that_no_server_was_sent_is_not_reported_as_perhaps_done(
    roster: Roster, client: Client, servers: dict[str, Server]
) -> None:
    for number in range(20):
        client.put(b"key %d" % number, b"value")
    with (
        Client(roster, key_range=KEY_RANGE + 1) as other,
        pytest.raises((AbortedError, ConnectError), match="use --key-range 100"),
    ):
        other.put(KEY, b"value")


@pytest.mark.parametrize("status", [Status.REQUEST, Status.PROCEED, Status.ABORT])
def test_an_observer_runs_no_commands(
    status: Status, roster: Roster, servers: dict[str, Server]
) -> None:
    with observe(roster, "s0") as connection:
        connection.send(encode(Message(status, Name(0, 1, 1), Operation.PUT, key=KEY)))
        with pytest.raises(RemoteProtocolError, match=f"takes no {status.name} message here"):
            connection.receive()
    assert not servers["s0"].participant.prepared


def test_a_transaction_in_another_clients_name_is_refused(
    servers: dict[str, Server], connect: Callable[..., ClientConnection]
) -> None:
    honest, other = connect("s0"), connect("s0", incarnation=2)
    lock(honest)
    other.send(encode(Message(Status.PROCEED, LOCKER)))
    with pytest.raises(RemoteProtocolError, match="bears another client's name"):
        other.receive()
    assert servers["s0"].participant.locks == {KEY: LOCKER}


@pytest.mark.parametrize("status", [Status.HELLO, Status.YES, Status.WELCOME, Status.ERROR])
def test_a_message_that_is_not_for_servers_is_refused(
    status: Status, servers: dict[str, Server], connect: Callable[..., ClientConnection]
) -> None:
    connection = connect("s0")
    connection.send(encode(Message(status, value=b"{}")))
    with pytest.raises(RemoteProtocolError, match=f"a server takes no {status.name} message here"):
        connection.receive()


def test_a_connection_over_the_limit_is_refused_and_told_why(
    servers: dict[str, Server],
    connect: Callable[..., ClientConnection],
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Wait,
) -> None:
    monkeypatch.setattr("rdht.server.MAX_CONNECTIONS", 1)
    first = connect("s0")
    me = servers["s0"].me
    with socket.create_connection((me.address, me.port), PATIENCE_S) as second:
        (message,) = read_to_end(second)
    assert message == Message(Status.ERROR, value=b"1 connections are open, which is the limit")
    first.close()
    wait_until(lambda: servers["s0"].stats()["connections"] == 0)
    assert connect("s0").welcome["server"] == "s0"


def test_a_client_that_does_not_shake_hands_in_time_is_sent_away(
    roster: Roster,
    monkeypatch: pytest.MonkeyPatch,
    servers: dict[str, Server],
    connect: Callable[..., ClientConnection],
) -> None:
    monkeypatch.setattr("rdht.server.HANDSHAKE_TIMEOUT_S", 0.05)
    patient = connect("s0")
    address = (roster.servers[0].address, roster.servers[0].port)
    with socket.create_connection(address, PATIENCE_S) as silent:
        assert read_to_end(silent) == []
    lock(patient)


def test_messages_sent_at_once_are_answered_in_order(
    servers: dict[str, Server], connect: Callable[..., ClientConnection]
) -> None:
    connection = connect("s0")
    names = [Name(1, number, 1) for number in range(300)]
    frames = []
    for name in names:
        frames.append(encode(Message(Status.REQUEST, name, Operation.PUT, key=KEY, value=b"v")))
        frames.append(encode(Message(Status.PROCEED, name, Operation.PUT, key=KEY)))
    connection.send(b"".join(frames))
    for version, name in enumerate(names, 1):
        assert connection.receive() == Message(Status.YES, name, Operation.PUT, version=version - 1)
        assert connection.receive() == Message(Status.DONE, name, Operation.PUT, version=version)


def test_a_server_answers_large_values_to_a_client_that_reads_late(
    servers: dict[str, Server], connect: Callable[..., ClientConnection]
) -> None:
    connection = connect("s0")
    value = b"v" * MAX_VALUE_BYTES
    servers["s0"].participant.table[KEY] = Entry(value, 1)
    names = [Name(1, number, 1) for number in range(6)]
    for name in names:
        connection.send(encode(Message(Status.REQUEST, name, Operation.GET, key=KEY)))
        connection.send(encode(Message(Status.PROCEED, name, Operation.GET, key=KEY)))
    for name in names:
        assert connection.receive().status is Status.YES
        assert connection.receive() == Message(
            Status.DONE, name, Operation.GET, version=1, value=value
        )


# Figures.


def test_a_server_tells_its_figures(
    roster: Roster, servers: dict[str, Server], client: Client, ring: Ring, wait_until: Wait
) -> None:
    primary, backup = ring.replicas(KEY)
    client.put(KEY, b"value")
    client.put(key_of(ring, primary, backup), b"value")
    client.delete(KEY)
    with observe(roster, primary) as connection:
        figures = read_json(ask(connection, Message(Status.STATS)))
    assert figures["server"] == primary
    assert (figures["keys"], figures["locks"], figures["in_doubt"]) == (1, 0, 0)
    assert (figures["workers"], figures["connections"]) == (2, 2)
    assert (figures["key_range"], figures["rejected"]) == (KEY_RANGE, 0)
    assert figures["messages_received"] == {"REQUEST": 3, "PROCEED": 3, "HELLO": 2, "STATS": 1}
    # The client's hello and 3 requests and proceeds of 256 bytes; the answers as many.
    assert figures["bytes_received"] > 6 * 256
    assert figures["bytes_sent"] == 7 * 256 + len(encode(Message(Status.WELCOME))) + len(
        json.dumps({"server": primary, "key_range": KEY_RANGE})
    )
    assert figures["uptime_s"] >= 0
    wait_until(lambda: servers[primary].stats()["connections"] == 1)
    assert servers[primary].stats()["bytes_received"] == figures["bytes_received"]


def test_a_scan_tells_what_replicas_hold_and_finds_no_difference(
    roster: Roster,
    servers: dict[str, Server],
    client: Client,
    ring: Ring,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rdht.scan.SCAN_PAGE_BYTES", 100)
    keys = {b"key %d" % number for number in range(40)}
    for key in keys:
        client.put(key, b"value")
    client.delete(min(keys))
    held: dict[str, dict[bytes, scan.Digest]] = {}
    pages = 0
    for name in servers:
        held[name] = {}
        with observe(roster, name) as connection:
            while page := ask(connection, Message(Status.SCAN)).value:
                held[name].update(scan.unpack_page(page))
                pages += 1
    assert pages > len(servers)
    assert set().union(*held.values()) == keys
    assert list(scan.differing_keys(held, ring)) == []


def test_both_sides_trace_the_eight_messages_of_a_put(
    roster: Roster, start_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rdht")
    for member in roster.servers:
        start_server(roster, member.name, trace=True)
    with Client(roster, key_range=KEY_RANGE, name="c1", trace=True) as client:
        client.put(KEY, b"value")
    lines = [line for line in caplog.messages if line.startswith("trace ")]
    assert len(lines) == 16  # each message at its sender and at its receiver
    for status in ("2:REQUEST", "3:YES", "6:PROCEED", "7:DONE"):
        assert sum(f" status={status} " in line for line in lines) == 4
    requests = [line for line in lines if "2:REQUEST" in line]
    assert all(
        "client=c1 thread=0 key='key' value='value' command=put" in line for line in requests
    )
    assert all(line.endswith(" transaction=1.1") for line in lines)


# Servers that stop or are lost.


def test_a_stopped_server_aborts_commands_on_its_keys_and_is_named(
    ring: Ring, client: Client, servers: dict[str, Server], stop_server: Callable[[str], None]
) -> None:
    lost_key, other_key = key_of(ring, "s0", "s1"), key_of(ring, "s1", "s2")
    client.put(lost_key, b"before")
    stop_server("s0")
    with pytest.raises(AbortedError, match=r"server s0 has stopped|s0 closed") as stopped:
        client.put(lost_key, b"after")
    assert set(stopped.value.lost) == {"s0"}
    with pytest.raises(AbortedError, match=r"server s0 at .*: Connection refused") as refused:
        client.put(lost_key, b"after")
    assert set(refused.value.lost) == {"s0"}
    assert isinstance(refused.value.lost["s0"], ConnectError)
    assert client.put(other_key, b"value") == 1
    assert servers["s1"].participant.table[lost_key] == Entry(b"before", 1)
    assert not servers["s1"].participant.locks


@pytest.mark.parametrize("turn", range(3))
def test_servers_that_stop_under_load_end_every_command_and_nothing_hangs(
    turn: int, roster: Roster, servers: dict[str, Server], stop_server: Callable[[str], None]
) -> None:
    failures: list[AbortedError | UnknownOutcomeError] = []
    running = threading.Barrier(5)

    def work(number: int) -> None:
        with Client(roster, key_range=KEY_RANGE) as client:
            client.put(b"%d" % number, b"first")
            running.wait(PATIENCE_S)
            deadline_s = time.monotonic() + PATIENCE_S
            try:
                while time.monotonic() < deadline_s:
                    client.put(b"%d" % (number % 3), b"value")
            except (AbortedError, UnknownOutcomeError) as error:
                failures.append(error)

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, number) for number in range(4)]
        running.wait(PATIENCE_S)
        for name in servers:
            stop_server(name)
        for future in working:
            future.result(2 * PATIENCE_S)
    assert len(failures) == 4


@pytest.fixture
def begin_stop(
    servers: dict[str, Server], stop_server: Callable[[str], None], wait_until: Wait
) -> Iterator[Callable[[str], threading.Thread]]:
    """Stop a server in a thread; it takes nothing new from then on."""
    threads = []

    def begin(name: str) -> threading.Thread:
        threads.append(threading.Thread(target=stop_server, args=(name,)))
        threads[-1].start()
        wait_until(lambda: servers[name].participant.stopping)
        return threads[-1]

    yield begin
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_a_stopping_server_finishes_what_is_prepared_and_says_good_bye(
    servers: dict[str, Server],
    connect: Callable[..., ClientConnection],
    begin_stop: Callable[[str], threading.Thread],
) -> None:
    holder, other = connect("s0"), connect("s0", incarnation=2)
    lock(holder)
    stopping = begin_stop("s0")
    request = Message(Status.REQUEST, Name(2, 1, 1), Operation.PUT, key=b"other")
    assert ask(other, request).reason is Reason.STOPPING
    assert stopping.is_alive()
    assert ask(holder, Message(Status.PROCEED, LOCKER)).status is Status.DONE
    stopping.join(PATIENCE_S)
    for connection in (holder, other):
        with pytest.raises(RemoteProtocolError, match="server s0 has stopped"):
            connection.receive()
    assert servers["s0"].participant.table == {KEY: Entry(b"mine", 1)}


def test_a_command_that_a_stopping_server_refuses_is_aborted_at_once(
    ring: Ring,
    client: Client,
    connect: Callable[..., ClientConnection],
    begin_stop: Callable[[str], threading.Thread],
) -> None:
    holder = connect("s0")
    lock(holder)
    key = key_of(ring, "s0", "s1")
    client.put(key, b"value")
    begin_stop("s0")
    with pytest.raises(AbortedError, match=r"was not done: a server is stopping") as caught:
        client.put(key, b"value")
    assert caught.value.lost == {}
    assert ask(holder, Message(Status.ABORT, LOCKER)).status is Status.ABORTED


def test_a_stopping_server_does_not_wait_for_ever_for_what_is_prepared(
    servers: dict[str, Server],
    connect: Callable[..., ClientConnection],
    stop_server: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rdht.server.STOP_TIMEOUT_S", 0.05)
    lock(connect("s0"))
    stop_server("s0")
    assert servers["s0"].participant.prepared == {}
    assert servers["s0"].participant.table == {}


def test_a_stopped_servers_address_is_free_at_once(
    roster: Roster,
    servers: dict[str, Server],
    client: Client,
    start_server: Callable[..., Server],
    stop_server: Callable[[str], None],
) -> None:
    for number in range(9):
        client.put(b"key %d" % number, b"value")
    stop_server("s0")
    start_server(roster, "s0")
    with observe(roster, "s0") as connection:
        assert read_json(ask(connection, Message(Status.STATS)))["keys"] == 0


@pytest.fixture
def table_of_fakes(
    roster: Roster, fake_server: Callable[..., None], start_server: Callable[..., Server]
) -> Callable[..., dict[str, Server]]:
    """Start servers: real ones, but for those whose behaviour is given; return the real ones."""

    def start(**answers: Callable[[Message], list[Message] | None]) -> dict[str, Server]:
        real = {}
        for member in roster.servers:
            if member.name in answers:
                fake_server(member, answers[member.name])
            else:
                real[member.name] = start_server(roster, member.name)
        return real

    return start


def vote_then(last: list[Message] | None) -> Callable[[Message], list[Message] | None]:
    """Vote yes, and give `last` as the answer to the decision."""

    def answer(message: Message) -> list[Message] | None:
        if message.status is Status.REQUEST:
            return [Message(Status.YES, message.name, message.operation)]
        return last

    return answer


@pytest.mark.parametrize("of", ["primary", "backup"])
def test_a_server_lost_while_voting_aborts_the_command(
    of: str, ring: Ring, client: Client, table_of_fakes: Callable[..., dict[str, Server]]
) -> None:
    lost = getattr(ring.replicas(KEY), of)
    table_of_fakes(**{lost: lambda _: None})
    with pytest.raises(AbortedError, match=f"put of key b'key' was not done: {lost} clo") as caught:
        client.put(KEY, b"value")
    assert set(caught.value.lost) == {lost}


def test_both_servers_lost_while_voting_leave_the_outcome_unknown(
    ring: Ring, client: Client, table_of_fakes: Callable[..., dict[str, Server]]
) -> None:
    replicas = ring.replicas(KEY)
    table_of_fakes(**dict.fromkeys(replicas, lambda _: None))
    with pytest.raises(UnknownOutcomeError, match="put of key b'key' may have been do") as caught:
        client.put(KEY, b"value")
    assert set(caught.value.lost) == set(replicas)
    assert all(isinstance(error, NetworkError) for error in caught.value.lost.values())


@pytest.mark.parametrize("of", ["primary", "backup"])
def test_a_server_lost_while_committing_leaves_the_command_done(
    of: str, ring: Ring, client: Client, table_of_fakes: Callable[..., dict[str, Server]]
) -> None:
    lost = getattr(ring.replicas(KEY), of)
    table_of_fakes(**{lost: vote_then(None)})
    assert client.put(KEY, b"value") == 1
    others = {"s0", "s1", "s2"} - {lost}
    assert client.put(key_of(ring, *others), b"value") == 1


def test_both_servers_lost_while_committing_leave_the_outcome_unknown(
    ring: Ring, client: Client, table_of_fakes: Callable[..., dict[str, Server]]
) -> None:
    replicas = ring.replicas(KEY)
    table_of_fakes(**dict.fromkeys(replicas, vote_then(None)))
    with pytest.raises(UnknownOutcomeError, match="put of key b'key' may have been do") as caught:
        client.put(KEY, b"value")
    assert set(caught.value.lost) == set(replicas)


def test_a_server_that_does_not_vote_is_given_up_after_the_timeout(
    ring: Ring,
    client: Client,
    table_of_fakes: Callable[..., dict[str, Server]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rdht.transport.COMMAND_TIMEOUT_S", 0.1)
    primary = ring.replicas(KEY).primary
    table_of_fakes(**{primary: lambda _: []})
    with pytest.raises(AbortedError, match=f"{primary} did not answer in time") as caught:
        client.put(KEY, b"value")
    assert set(caught.value.lost) == {primary}


def test_servers_that_do_not_answer_the_decision_leave_the_outcome_unknown(
    ring: Ring,
    client: Client,
    table_of_fakes: Callable[..., dict[str, Server]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rdht.transport.COMMAND_TIMEOUT_S", 0.1)
    replicas = ring.replicas(KEY)
    table_of_fakes(**dict.fromkeys(replicas, vote_then([])))
    with pytest.raises(UnknownOutcomeError, match="did not answer in time") as caught:
        client.put(KEY, b"value")
    assert set(caught.value.lost) == set(replicas)


def give_up(message: Message) -> list[Message]:
    """Vote yes, but have given up when the decision comes."""
    status = Status.YES if message.status is Status.REQUEST else Status.ABORTED
    return [Message(status, message.name, message.operation)]


def test_a_server_that_gave_up_before_the_decision_leaves_the_outcome_unknown(
    ring: Ring, client: Client, table_of_fakes: Callable[..., dict[str, Server]]
) -> None:
    table_of_fakes(**{ring.replicas(KEY).backup: give_up})
    with pytest.raises(UnknownOutcomeError, match="may have been done") as caught:
        client.put(KEY, b"value")
    assert caught.value.lost == {}
    assert "nobody answered" not in str(caught.value)


def break_protocol(message: Message) -> list[Message]:
    return [Message(Status.DONE, message.name, message.operation)]


@pytest.mark.parametrize("of", ["primary", "backup"])
def test_a_server_that_breaks_the_protocol_ends_the_session_and_leaves_no_lock(
    of: str,
    ring: Ring,
    client: Client,
    table_of_fakes: Callable[..., dict[str, Server]],
    wait_until: Wait,
) -> None:
    broken = getattr(ring.replicas(KEY), of)
    (honest,) = set(ring.replicas(KEY)) - {broken}
    server = table_of_fakes(**{broken: break_protocol})[honest]
    with pytest.raises(RemoteProtocolError, match=f"{broken} sent DONE to a transaction"):
        client.put(KEY, b"value")
    wait_until(lambda: server.stats()["connections"] == 0)
    assert server.participant.locks == {}
    assert server.participant.table == {}


def test_replicas_that_differ_are_told(
    ring: Ring, client: Client, servers: dict[str, Server]
) -> None:
    servers[ring.replicas(KEY).primary].participant.table[KEY] = Entry(b"lone", 1)
    with pytest.raises(RemoteProtocolError, match="hold different copies of key b'key'"):
        client.get(KEY)
    with pytest.raises(RemoteProtocolError, match="hold different copies of key b'key'"):
        client.get(KEY)
