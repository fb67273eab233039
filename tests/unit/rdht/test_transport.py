import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht.errors import (
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    NetworkError,
    RemoteProtocolError,
)
from rdht.limits import MAX_UNSENT_BYTES, MAX_VALUE_BYTES, RECEIVE_BYTES
from rdht.messages import HEADER_BYTES, Decoder, Message, Name, Operation, Status, encode
from rdht.roster import Roster, ServerAddress
from rdht.transport import ClientConnection, Hello, ServerConnection, listen, read_json

HELLO = Hello("s0", ["s0", "s1"], "c1", 3, 2**64 - 1, 100, 256)
FIELDS = json.loads(HELLO.to_message().value)
SCALARS = st.sampled_from([None, True, -1, 0, 10**30, 0.5, float("inf"), "", "s0", "\ud800"])
JSON = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.just("key"), SCALARS)


def hello_message(fields: object) -> Message:
    return Message(Status.HELLO, value=json.dumps(fields).encode())


def test_a_hello_survives_its_message() -> None:
    (message,) = Decoder().feed(encode(HELLO.to_message()))
    assert Hello.from_message(message) == HELLO


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.HELLO}))
def test_only_a_hello_is_a_hello(status: Status) -> None:
    with pytest.raises(RemoteProtocolError, match="expected a HELLO with client, frame_bytes"):
        Hello.from_message(HELLO.to_message()._replace(status=status))


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_hello_lacks_no_field(field: str) -> None:
    fields = {name: value for name, value in FIELDS.items() if name != field}
    with pytest.raises(RemoteProtocolError, match="expected a HELLO with client, frame_bytes"):
        Hello.from_message(hello_message(fields))


def test_a_hello_has_no_field_more() -> None:
    with pytest.raises(RemoteProtocolError, match="expected a HELLO with client, frame_bytes"):
        Hello.from_message(hello_message({**FIELDS, "surplus": 1}))


WRONG_FIELDS = [
    ("server", 1),
    ("servers", "s0"),
    ("servers", None),
    ("servers", ["s0", 1]),
    ("client", None),
    ("client", ["c1"]),
    *[
        (name, value)
        for name in ("thread", "incarnation", "key_range", "frame_bytes")
        for value in (-1, 1.0, "1", True, None)
    ],
    ("frame_bytes", RECEIVE_BYTES + 1),
]


@pytest.mark.parametrize(("field", "value"), WRONG_FIELDS)
def test_a_hello_has_no_field_of_another_type_or_size(field: str, value: object) -> None:
    with pytest.raises(RemoteProtocolError, match="a field of the HELLO has the wrong type or siz"):
        Hello.from_message(hello_message({**FIELDS, field: value}))


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), JSON))
def test_a_hello_of_any_json_raises_nothing_but_a_remote_protocol_error(
    changed: dict[str, object],
) -> None:
    fields = {**FIELDS, **changed}
    try:
        hello = Hello.from_message(hello_message(fields))
    except RemoteProtocolError:
        assert changed
        return
    assert vars(hello) == fields


@given(st.binary(max_size=50))
def test_a_json_value_of_garbage_raises_nothing_but_a_remote_protocol_error(value: bytes) -> None:
    try:
        document = read_json(Message(Status.STATS, value=value))
    except RemoteProtocolError:
        return
    assert json.loads(value) == document


@pytest.mark.parametrize(
    "value",
    [b"", b"[]", b"1", b"null", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000],
    ids=["empty", "list", "number", "null", "cut", "no utf-8", "deep", "deep objects", "long"],
)
def test_a_value_that_is_no_json_object_is_refused(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="a STATS message carries no JSON object"):
        read_json(Message(Status.STATS, value=value))


def test_a_json_object_is_read() -> None:
    assert read_json(Message(Status.STATS, value=b'{"keys": 1}')) == {"keys": 1}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as sock:
        yield sock


def test_a_listener_does_not_wait_for_clients(listener: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_an_address_in_use_is_named_and_no_socket_is_left_open(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(NetworkError, match=f"cannot listen on 127.0.0.1 port {port}: Address al"):
        listen("127.0.0.1", port)


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(NetworkError, match=r"cannot listen on 999\.0\.0\.1 port 1: "):
        listen("999.0.0.1", 1)


# A server's side.

Pair = tuple[ServerConnection, socket.socket]


@pytest.fixture
def pair(listener: socket.socket) -> Iterator[Pair]:
    """Connect: the server's connection, and the client's bare socket; both buffer little."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.settimeout(10)
        client.connect(listener.getsockname())
        listener.setblocking(True)
        accepted, _ = listener.accept()
        connection = ServerConnection(accepted, "peer", 0.0)
        yield connection, client
        connection.close()


@pytest.fixture
def buffer() -> memoryview:
    return memoryview(bytearray(RECEIVE_BYTES))


def received_from(client: socket.socket, count: int) -> list[Message]:
    decoder = Decoder()
    messages: list[Message] = []
    while len(messages) < count:
        data = client.recv(RECEIVE_BYTES)
        assert data, "the stream ended early"
        messages += decoder.feed(data)
    return messages


def test_a_servers_connection_waits_for_nothing(pair: Pair, buffer: memoryview) -> None:
    assert pair[0].read(buffer) == []


def test_a_server_reads_messages_that_are_cut_anywhere(
    pair: Pair, buffer: memoryview, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    connection, client = pair
    message = Message(Status.REQUEST, Name(1, 1, 1), Operation.PUT, key=b"k", value=b"v" * 100_000)
    data = encode(message) * 2
    received: list[Message] = []
    for begin in range(0, len(data), 10_000):
        client.sendall(data[begin : begin + 10_000])
        end = min(begin + 10_000, len(data))

        def arrived(end: int = end) -> bool:
            received.extend(connection.read(buffer))
            return connection.bytes_received == end

        wait_until(arrived)
        assert len(received) == end // len(encode(message))
    assert received == [message, message]


def test_a_server_pads_its_answers_as_the_client_asked(pair: Pair) -> None:
    connection, client = pair
    answer = Message(Status.DONE, Name(1, 1, 1))
    assert not connection.write([answer])
    connection.hello = HELLO
    assert not connection.write([answer, answer])
    assert received_from(client, 3) == [answer] * 3
    assert connection.bytes_sent == HEADER_BYTES + 2 * 256


def test_writing_nothing_leaves_nothing(pair: Pair) -> None:
    assert not pair[0].write([])
    assert pair[0].bytes_sent == 0


def test_what_a_socket_does_not_take_at_once_is_sent_later_and_in_order(
    pair: Pair, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    connection, client = pair
    first, second, third = (
        Message(Status.DONE, Name(1, number, 1), value=b"v" * MAX_VALUE_BYTES)
        for number in range(3)
    )
    assert connection.write([first, second])
    assert connection.write([third])
    assert connection.bytes_sent < MAX_VALUE_BYTES
    decoder = Decoder()
    received: list[Message] = []
    client.setblocking(False)

    def sent_and_received() -> bool:
        left = connection.flush()
        try:
            received.extend(decoder.feed(client.recv(RECEIVE_BYTES)))
        except BlockingIOError:
            return False
        return len(received) == 3 and not left

    wait_until(sent_and_received)
    assert received == [first, second, third]
    assert connection.bytes_sent == 3 * (HEADER_BYTES + MAX_VALUE_BYTES)


def test_a_client_that_does_not_read_is_given_up_at_the_limit(pair: Pair) -> None:
    connection, _ = pair
    answer = Message(Status.DONE, value=b"v" * MAX_VALUE_BYTES)
    for _number in range(MAX_UNSENT_BYTES // MAX_VALUE_BYTES - 1):
        assert connection.write([answer])
    with pytest.raises(ConnectionLostError, match=r"reads too slowly: \d+ bytes are waiting"):
        connection.write([answer] * 2)


def test_the_end_of_a_clients_stream_is_told(
    pair: Pair, buffer: memoryview, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    connection, client = pair
    client.sendall(encode(Message(Status.STATS)))
    client.close()
    received: list[Message] = []

    def read() -> bool:
        received.extend(connection.read(buffer))
        return False

    with pytest.raises(ConnectionLostError, match="closed by the client"):
        wait_until(read)
    assert received == [Message(Status.STATS)]


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_a_reset_by_the_client_is_told_to_the_reader(
    pair: Pair, buffer: memoryview, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    connection, client = pair
    reset(client)
    with pytest.raises(ConnectionLostError, match="reset by peer"):
        wait_until(lambda: bool(connection.read(buffer)))


def test_a_reset_by_the_client_is_told_to_the_writer(
    pair: Pair, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    connection, client = pair
    reset(client)
    with pytest.raises(ConnectionLostError, match=r"reset by peer|Broken pipe"):
        wait_until(lambda: connection.write([Message(Status.STATS)]))


def test_hanging_up_ends_the_stream_for_both(pair: Pair, buffer: memoryview) -> None:
    connection, client = pair
    connection.hang_up()
    assert client.recv(1) == b""
    with pytest.raises(ConnectionLostError, match="closed by the client"):
        connection.read(buffer)
    client.close()
    connection.hang_up()  # once more, on a stream that is gone


# A client's side.

Answers = list[Message] | None
PING = encode(Message(Status.STATS))


@pytest.fixture
def connect(
    roster: Roster, fake_server: Callable[..., None], make_hello: Callable[..., Hello]
) -> Iterator[Callable[..., ClientConnection]]:
    """Connect to a server that answers every message alike."""
    connections = []

    def open_connection(answers: Answers, **welcome: Message) -> ClientConnection:
        fake_server(roster.servers[0], lambda _: answers, **welcome)
        hello = make_hello(roster, "s0")
        connections.append(ClientConnection(roster.servers[0], hello))
        return connections[-1]

    yield open_connection
    for connection in connections:
        connection.close()


def test_a_client_reads_the_welcome(connect: Callable[..., ClientConnection]) -> None:
    welcome = Message(Status.WELCOME, value=b'{"key_range": 7}')
    assert connect([], welcome=welcome).welcome == {"key_range": 7}


def test_a_client_gets_joined_answers_one_by_one_and_counts(
    connect: Callable[..., ClientConnection],
) -> None:
    first = Message(Status.DONE, Name(1, 1, 1), value=b"first")
    second = Message(Status.DONE, Name(1, 2, 1), value=b"second")
    connection = connect([first, second])
    sent, received = connection.bytes_sent, connection.bytes_received
    assert (connection.messages_sent, connection.messages_received) == (1, 1)
    connection.send(PING)
    assert [connection.receive(), connection.receive()] == [first, second]
    assert (connection.messages_sent, connection.messages_received) == (2, 3)
    assert connection.bytes_sent - sent == len(PING)
    assert connection.bytes_received - received == len(encode(first) + encode(second))


def test_an_error_message_is_raised_in_the_servers_words(
    connect: Callable[..., ClientConnection],
) -> None:
    connection = connect([Message(Status.ERROR, value="key range 7 \u2026".encode() + b"\xff")])
    connection.send(PING)
    with pytest.raises(RemoteProtocolError, match=r"^key range 7 \u2026\ufffd$"):
        connection.receive()


def test_a_server_that_hangs_up_is_named(connect: Callable[..., ClientConnection]) -> None:
    connection = connect(None)
    connection.send(PING)
    with pytest.raises(ConnectionLostError, match="s0 closed the connection"):
        connection.receive()


def test_sending_to_a_server_that_is_gone_is_told(
    connect: Callable[..., ClientConnection], wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    connection = connect(None)

    def send() -> bool:
        connection.send(PING)
        return False

    with pytest.raises(ConnectionLostError, match="s0 closed the connection: "):
        wait_until(send)


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(
    connect: Callable[..., ClientConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.transport.COMMAND_TIMEOUT_S", 0.05)
    connection = connect([])
    connection.send(PING)
    with pytest.raises(DeadlineError, match="s0 did not answer in time"):
        connection.receive()


def test_a_server_that_does_not_read_is_not_waited_for_for_ever(
    roster: Roster,
    fake_server: Callable[..., None],
    make_hello: Callable[..., Hello],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rdht.transport.COMMAND_TIMEOUT_S", 0.05)
    read_on = threading.Event()

    def answer(_message: Message) -> Answers:
        read_on.wait(10)
        return None

    fake_server(roster.servers[0], answer)
    connection = ClientConnection(roster.servers[0], make_hello(roster, "s0"))
    frame = encode(Message(Status.REQUEST, value=b"v" * MAX_VALUE_BYTES))

    def send_much() -> None:
        for _ in range(100):
            connection.send(frame)

    try:
        with pytest.raises(DeadlineError, match="s0 took no more bytes in time"):
            send_much()
    finally:
        read_on.set()
        connection.close()


def test_garbage_from_a_server_is_a_remote_protocol_error(
    listener: socket.socket, roster: Roster, make_hello: Callable[..., Hello]
) -> None:
    address = ServerAddress("s0", "h0", *listener.getsockname())
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(ClientConnection, address, make_hello(roster, "s0"))
        listener.setblocking(True)
        with listener.accept()[0] as server:
            server.sendall(encode(Message(Status.WELCOME, value=b"{}")))
            connection = connecting.result(10)
            server.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(RemoteProtocolError, match="a frame of"):
                connection.receive()
        connection.close()


def test_a_server_that_is_not_there_is_named_with_its_address(
    roster: Roster, make_hello: Callable[..., Hello]
) -> None:
    port = roster.servers[0].port
    why = rf"server s0 at 127\.0\.0\.1:{port}: Connection refused"
    with pytest.raises(ConnectError, match=why):
        ClientConnection(roster.servers[0], make_hello(roster, "s0"))


@pytest.mark.parametrize(
    ("welcome", "why"),
    [
        (Message(Status.ERROR, value=b"the roster is wrong"), "the roster is wrong"),
        (Message(Status.STATS, value=b"{}"), "expected a WELCOME, got STATS"),
        (Message(Status.WELCOME), "a WELCOME message carries no JSON object"),
    ],
)
def test_a_refused_handshake_is_a_connect_error_that_says_who_and_why(
    welcome: Message, why: str, connect: Callable[..., ClientConnection]
) -> None:
    with pytest.raises(ConnectError, match=rf"server s0 at 127\.0\.0\.1:\d+: {why}"):
        connect([], welcome=welcome)


def test_a_server_that_does_not_shake_hands_is_a_connect_error(
    listener: socket.socket,
    roster: Roster,
    make_hello: Callable[..., Hello],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rdht.transport.CONNECT_TIMEOUT_S", 0.05)
    address = ServerAddress("s0", "h0", *listener.getsockname())
    with pytest.raises(ConnectError, match="s0 did not answer in time"):
        ClientConnection(address, make_hello(roster, "s0"))
