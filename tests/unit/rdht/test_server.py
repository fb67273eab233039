"""What a server refuses, tells and survives, and how it stops."""

import json
import logging
import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rdht import scan
from rdht.client import observe
from rdht.coordinator import Command
from rdht.errors import (
    AbortedError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    NetworkError,
    OutcomeError,
)
from rdht.limits import MAX_HANDSHAKE_BYTES, MAX_VALUE_BYTES
from rdht.messages import Message, Name, Operation, Reason, Status, encode
from rdht.roster import Roster, ServerAddress
from rdht.server import Server
from rdht.transport import ClientConnection, Hello, ServerConnection, read_json
from tests.unit.rdht.table import (
    KEY_RANGE,
    PATIENCE_S,
    ByHand,
    Table,
    answer_to,
    free_ports,
    make_hello,
    read_to_end,
    wait_until,
)

KEY = b"key"
PUT = Command(Operation.PUT, KEY, b"mine")


def dial(table: Table, name: str = "s0") -> socket.socket:
    member = table.roster.server(name)
    return socket.create_connection((member.address, member.port), PATIENCE_S)


# What is refused.

GARBAGE = {
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: y\r\n\r\n", "a frame of"),
    "zeros": (b"\0" * 100, "a frame of 0 bytes"),
    "ones": (b"\xff" * 100, "a frame of 4294967295 bytes"),
    "no hello": (encode(Message(Status.STATS)), "expected a HELLO"),
    "a put": (encode(Message(Status.REQUEST, operation=Operation.PUT)), "expected a HELLO"),
    "no json": (encode(Message(Status.HELLO, value=b"{")), "carries no JSON object"),
    "deep json": (encode(Message(Status.HELLO, value=b"[" * 50_000)), "carries no JSON object"),
    "too long": (
        encode(Message(Status.HELLO, value=b" " * MAX_HANDSHAKE_BYTES))[:100],
        f"to {MAX_HANDSHAKE_BYTES}",
    ),
    "other version": (b"\0\0\1\0\1" + bytes(300), "protocol version 1, this side speaks 2"),
}


@pytest.mark.parametrize(("data", "why"), GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_answered_with_an_error_and_the_end_and_harms_nobody(
    data: bytes, why: str, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    client = table.client()
    before = dict.fromkeys(table.keys(9), b"value")
    client.put_many(before)
    with dial(table) as sock:
        sock.sendall(data)
        (message,) = read_to_end(sock)
    assert message.status is Status.ERROR
    assert why in message.value.decode()
    assert table["s0"].stats()["rejected"] == 1
    assert table["s0"].stats()["unauthenticated"] == 0
    assert any("closed the connection from 127.0.0.1:" in line for line in caplog.messages)
    assert client.get_many(before) == before


@pytest.mark.parametrize(
    "message",
    [
        Message(Status.REQUEST, Name(1, 2, 1)),
        Message(Status.REQUEST, Name(1, 2, 1), Operation.MANY, value=b"garbage"),
        Message(Status.REQUEST, Name(2, 1, 1), Operation.PUT, key=KEY),
        Message(Status.PROCEED, Name(1, 2, 1), Operation.MANY, value=b"\xff" * 9),
        Message(Status.RESOLVE, Name(1, 2, 1)),
        Message(Status.KNOWN),
        Message(Status.HELLO, Name(1, 1, 1), value=b"{}"),
        Message(Status.WELCOME, Name(1, 1, 1), value=b"{}"),
        Message(Status.ERROR, Name(1, 1, 1)),
    ],
    ids=lambda message: message.status.name,
)
def test_a_message_that_is_not_for_servers_ends_the_connection_and_frees_its_locks(
    message: Message, table: Table
) -> None:
    client = ByHand(table)
    client.vote(client.requests(PUT))
    name = table.ring.replicas(KEY).primary
    with pytest.raises(ConnectionLostError):
        client.ask(name, message)
    assert table[name].stats()["rejected"] == 1
    client.die()
    assert table.client().put(KEY, b"next") == 2


def test_a_server_name_that_no_text_can_carry_harms_nobody(table: Table) -> None:
    # JSON may carry half of a surrogate pair, which UTF-8 may not.
    with dial(table) as sock:
        sock.sendall(encode(make_hello(table.roster, "\ud800").to_message()))
        (message,) = read_to_end(sock)
    assert message.status is Status.ERROR
    assert table.connect("s0").welcome["server"] == "s0"


def test_a_hello_whose_refusal_is_long_is_answered_with_its_beginning(table: Table) -> None:
    hello = make_hello(table.roster, "s0", servers=["\x7f\n" * 5000])
    with dial(table) as sock:
        sock.sendall(encode(hello.to_message()))
        (message,) = read_to_end(sock)
    assert len(message.value) <= 4 * 500
    assert b"\n" not in message.value


def test_a_rosters_wrong_server_name_is_refused(table: Table) -> None:
    roster = table.roster
    swapped = replace(roster.server("s0"), port=roster.server("s1").port)
    with pytest.raises(ConnectError, match="this is server s1, not s0: the roster is wrong"):
        ClientConnection(swapped, make_hello(roster, "s0"), None)


def test_another_roster_is_refused_with_both(table: Table) -> None:
    why = "the client's roster names ['s1', 's0'], this server's ['s0', 's1', 's2']"
    with pytest.raises(ConnectError, match=re.escape(why)):
        table.connect("s0", servers=["s1", "s0"])


def test_only_servers_of_the_roster_may_link(table: Table) -> None:
    for client in ("s9", "s0"):
        with pytest.raises(ConnectError, match=f"the roster names no other server '{client}'"):
            table.connect("s0", client=client, is_server=True, key_range=0)


@pytest.mark.parametrize("status", [Status.KNOWN, Status.JOIN, Status.RESOLVE, Status.REQUEST])
def test_garbage_from_a_server_ends_its_link_and_harms_nobody(status: Status, table: Table) -> None:
    link = table.connect("s0", client="s1", is_server=True, key_range=0)
    with pytest.raises(ConnectionLostError):
        answer_to(link, Message(status, range=9, value=b"odd"))
    wait_until(lambda: all(server.is_ready for server in table.servers()))
    wait_until(lambda: all(link.is_up for link in table["s1"]._links.values()))
    assert table.client().put(KEY, b"value") == 1


def test_another_key_range_is_refused_with_the_right_one_by_all(table: Table) -> None:
    table.connect("s0")
    why = "the keys are placed with key range 100, not 99: use --key-range 100"
    with pytest.raises(ConnectError, match=why):
        table.connect("s0", key_range=99)
    with pytest.raises(ConnectError, match="key range 2 is below the number of servers, 3"):
        table.connect("s0", key_range=2)


def test_neither_a_refused_hello_nor_an_observer_sets_the_key_range(table: Table) -> None:
    with pytest.raises(ConnectError):
        table.connect("s0", servers=["s0"], key_range=5)
    with observe(table.roster, "s0") as connection:
        assert connection.welcome["key_range"] == 0
    assert table.connect("s0").welcome["key_range"] == KEY_RANGE


@pytest.mark.parametrize("status", [Status.REQUEST, Status.PROCEED, Status.ABORT, Status.READ])
def test_an_observer_runs_no_commands(status: Status, table: Table) -> None:
    with observe(table.roster, "s0") as connection:
        message = Message(status, Name(0, 1, 1), Operation.PUT, key=KEY)
        with pytest.raises(ConnectionLostError, match=f"takes no {status.name} message here"):
            answer_to(connection, message)
    assert table["s0"].stats()["locks"] == 0


def test_a_connection_over_the_limit_is_refused_and_told_why(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.server.MAX_CONNECTIONS", 3)  # 2 of them are links
    first = table.connect("s0")
    with dial(table) as second:
        (message,) = read_to_end(second)
    assert message == Message(Status.ERROR, value=b"3 connections are open, which is the limit")
    first.close()
    wait_until(lambda: table["s0"].stats()["connections"] == 2)
    assert table.connect("s0").welcome["server"] == "s0"


def test_a_client_that_does_not_shake_hands_in_time_is_sent_away(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.server.HANDSHAKE_TIMEOUT_S", 0.05)
    patient = table.connect("s0")
    with dial(table) as silent:
        assert read_to_end(silent) == []
    (answer,) = answer_to(patient, Message(Status.STATS))
    assert answer.status is Status.STATS


def test_a_client_that_does_not_read_is_sent_away(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.transport.MAX_UNSENT_BYTES", 2 * MAX_VALUE_BYTES)
    table.client().put(KEY, b"v" * MAX_VALUE_BYTES)
    deaf = ByHand(table, 5)
    name = table.ring.replicas(KEY).primary
    (request,) = {deaf.requests(Command(Operation.GET, KEY))[name]}
    for sequence in range(20):
        read = request._replace(status=Status.READ, name=Name(5, sequence, 1))
        deaf.connections[name].queue(read)
    deaf.connections[name].flush()
    wait_until(lambda: 5 not in table[name]._current)
    assert table.client().get(KEY) == b"v" * MAX_VALUE_BYTES


def test_messages_sent_at_once_are_answered_in_order(table: Table) -> None:
    client = ByHand(table)
    name = table.ring.replicas(KEY).primary
    connection = client.connections[name]
    messages = []
    for sequence in range(1, 301):
        request = client.requests(PUT, sequence=sequence)[name]
        messages += [request, request._replace(status=Status.PROCEED, value=b"")]
    answers = answer_to(connection, *messages)
    for number, answer in enumerate(answers):
        assert answer.status is (Status.DONE if number % 2 else Status.YES)
        assert (answer.name.sequence, answer.version) == (1 + number // 2, number // 2)


# Figures.


def test_a_handshake_that_ends_after_a_newer_ones_does_not_take_over(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, incarnation = table.names[0], 12345
    began, may_end = threading.Event(), threading.Event()
    welcome = ServerConnection.welcome

    def hold_the_first(self: ServerConnection, hello: Hello, document: dict[str, object]) -> None:
        welcome(self, hello, document)
        if hello.incarnation == incarnation and not began.is_set():
            began.set()
            assert may_end.wait(PATIENCE_S)

    monkeypatch.setattr(ServerConnection, "welcome", hold_the_first)
    older = table.connect(name, incarnation)
    newer = table.connect(name, incarnation)
    read = Message(Status.READ, Name(incarnation, 1, 1), Operation.GET, key=b"k", epoch=1)
    assert [one.status for one in answer_to(newer, read)] == [Status.DONE_NOTHING]
    connections = table[name].stats()["connections"]
    may_end.set()
    wait_until(lambda: table[name].stats()["connections"] == connections - 1)
    assert [one.status for one in answer_to(newer, read)] == [Status.DONE_NOTHING]
    assert table[name].participant.memory.clients[incarnation] is None
    older.close()


def test_a_server_tells_its_figures(table: Table) -> None:
    primary, backup = table.ring.replicas(KEY)
    client = table.client("classic")
    client.put(KEY, b"value")
    client.put(table.keys(1, primary, backup)[0], b"value")
    client.delete(KEY)
    with observe(table.roster, primary) as connection:
        (answer,) = answer_to(connection, Message(Status.STATS))
    figures = read_json(answer)
    assert figures["server"] == primary
    assert (figures["keys"], figures["locks"], figures["in_doubt"]) == (1, 0, 0)
    assert (figures["workers"], figures["connections"]) == (2, 4)
    assert (figures["key_range"], figures["rejected"]) == (KEY_RANGE, 0)
    assert (figures["durable"], figures["unsafe"]) == (False, False)
    received = figures["messages_received"]
    assert {name: received[name] for name in ("REQUEST", "PROCEED", "HELLO", "STATS")} == {
        "REQUEST": 3,
        "PROCEED": 3,
        "HELLO": 4,
        "STATS": 1,
    }
    assert figures["bytes_received"] > 6 * 256
    assert figures["bytes_sent"] > 6 * 256
    assert figures["uptime_s"] >= 0
    assert figures["ranges"][str(table.ring.range_of(KEY))] == {"mode": "serving", "epoch": 1}


def test_what_has_come_on_connections_that_are_closed_still_counts(table: Table) -> None:
    server = table["s0"]
    connection = table.connect("s0", 5)
    figures = server.stats()
    connection.close()
    wait_until(lambda: server.stats()["connections"] == figures["connections"] - 1)
    hellos = server.stats()["messages_received"]["HELLO"]
    assert hellos == figures["messages_received"]["HELLO"] > 0


def test_figures_are_told_while_others_write(table: Table) -> None:
    client = table.client()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with client.pipeline() as pipeline:
                for key in table.keys(50):
                    pipeline.put(key, b"value")

    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write) for _ in range(2)]
        try:
            with observe(table.roster, "s0") as connection:
                for _ in range(50):
                    assert read_json(connection.ask(Message(Status.STATS)))["server"] == "s0"
                    while connection.ask(Message(Status.SCAN)).value:
                        pass
        finally:
            stop.set()
        for future in writing:
            future.result(PATIENCE_S)


def test_a_scan_tells_what_replicas_hold_and_finds_no_difference(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.scan.SCAN_PAGE_BYTES", 100)
    client = table.client()
    keys = set(table.keys(40))
    for key in keys:
        client.put(key, b"value")
    client.delete(min(keys))
    wait_until(table.is_settled)
    held: dict[str, dict[bytes, scan.Digest]] = {}
    pages = 0
    for name in table.names:
        held[name] = {}
        with observe(table.roster, name) as connection:
            while page := connection.ask(Message(Status.SCAN)).value:
                held[name].update(scan.unpack_page(page))
                pages += 1
    assert pages > len(table.names)
    assert set().union(*held.values()) == keys
    assert list(scan.differing_keys(held, table.ring)) == []


def test_both_sides_trace_the_eight_messages_of_a_put(
    make_table: Callable[..., Table], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rdht")
    table = make_table()
    table.start(trace=True)
    table.wait_served()
    table.client("classic", name="c1", trace=True).put(KEY, b"value")
    lines = [line for line in caplog.messages if " command=put " in line]
    assert len(lines) == 16  # each message at its sender and at its receiver
    for status in ("2:REQUEST", "3:YES", "6:PROCEED", "7:DONE"):
        assert sum(f" status={status} " in line for line in lines) == 4
    for line in lines:
        if "2:REQUEST" in line:
            assert "client=c1 thread=0 key='key' value='value' command=put" in line
        assert line.endswith(" transaction=1.1")


# Where a server listens.


def own_address() -> str:
    """Return an address of this machine that others can reach, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return str(sock.getsockname()[0])


@pytest.mark.parametrize("address", ["0.0.0.0", own_address()])
def test_a_server_without_a_secret_is_for_its_own_host_alone(
    address: str, secret_file: Path
) -> None:
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    ports = free_ports(2)
    rows = (
        ServerAddress("s0", "h0", address, ports[0]),
        ServerAddress("s1", "h1", "::1", ports[1]),
    )
    why = rf'others can reach server s0 at {address}: its roster needs a "secret_file"'
    for _ in range(2):  # its socket does not stay behind
        with pytest.raises(ConfigurationError, match=why):
            Server(Roster(rows), "s0", 1)
    server = Server(Roster(rows, secret_file), "s0", 1)
    server._listener.close()


def test_an_address_in_use_is_named(table: Table) -> None:
    with pytest.raises(NetworkError, match=r"cannot listen on 127\.0\.0\.1 port \d+: Address al"):
        Server(table.roster, "s0", 1)


# Stopping.


def test_a_stopping_server_lets_what_is_prepared_proceed_and_says_good_bye(table: Table) -> None:
    client = ByHand(table)
    requests = client.requests(PUT)
    client.vote(requests)
    name, other = table.ring.replicas(KEY)
    table.begin_stop(name)
    wait_until(lambda: table[name].participant.stopping)
    refused = client.ask(name, client.requests(PUT, sequence=2)[name])
    assert (refused.status, refused.reason) == (Status.NO, Reason.STOPPING)
    for server in (name, other):
        request = requests[server]
        done = client.ask(server, request._replace(status=Status.PROCEED, value=b""))
        assert done.status is Status.DONE
    with pytest.raises(ConnectionLostError, match=f"server {name} has stopped"):
        wait_until(lambda: bool(client.connections[name].receive()))
    table.stop(name)
    assert table.client().get(KEY) == b"mine"


def test_a_stopping_server_asks_the_others_for_what_its_client_does_not_decide(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.machine.PREPARED_TIMEOUT_S", 0.05)
    client = ByHand(table)
    name, other = table.ring.replicas(KEY)
    client.vote(client.requests(PUT))
    server = table[name]
    table.stop(name)
    assert server.participant.in_doubt == 0
    wait_until(lambda: table[other].stats()["in_doubt"] == 0)
    assert table.client().get(KEY) == b"mine"


def test_a_stopping_server_does_not_wait_for_ever_for_what_is_prepared(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.server.STOP_TIMEOUT_S", 0.1)
    client = ByHand(table)
    name, other = table.ring.replicas(KEY)
    client.vote(client.requests(PUT))
    table.crash(other)
    server = table[name]
    table.stop(name)
    assert server.participant.in_doubt == 1


@pytest.mark.parametrize("profile", ["classic", "fast"])
def test_servers_that_stop_under_load_end_every_command_and_nothing_hangs(
    table: Table, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.3)
    monkeypatch.setattr("rdht.server.STOP_TIMEOUT_S", 0.5)
    client = table.client(profile)
    stop = threading.Event()

    def write(number: int) -> int:
        done = 0
        while not stop.is_set():
            try:
                client.put_many({b"%d" % number: b"v", b"common": b"%d" % number})
                client.add(b"%d %d" % (number, done), b"value")
                done += 1
            except OutcomeError:
                continue
        return done

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, number) for number in range(4)]
        try:
            wait_until(lambda: table["s0"].stats()["keys"] > 50)
            table.stop()
        finally:
            stop.set()
        assert all(future.result(PATIENCE_S) > 0 for future in writing)


def test_a_stopped_servers_address_is_free_at_once(table: Table) -> None:
    client = table.client()
    client.put(KEY, b"value")
    wait_until(table.is_settled)
    table.stop("s0")
    table.start("s0")
    table.wait_served()
    assert client.get(KEY) == b"value"


def test_a_stopped_server_logs_its_figures(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rdht")
    table.client().put(KEY, b"value")
    table.stop("s1")
    (line,) = [line for line in caplog.messages if line.startswith("stopped ")]
    assert json.loads(line.removeprefix("stopped "))["server"] == "s1"


def test_commands_on_a_stopped_server_name_it(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.2)
    table.stop("s1")
    (key,) = table.keys(1, "s0", "s1")
    with pytest.raises(AbortedError, match="server s1 at ") as caught:
        table.client().put(key, b"value")
    assert set(caught.value.lost) == {"s1"}
