import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht.authentication import NONCE_BYTES, SECRET_BYTES, TAG_BYTES, Handshake
from rdht.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    LocalProtocolError,
    NetworkError,
    RemoteProtocolError,
)
from rdht.limits import (
    MAX_BODY_BYTES,
    MAX_HANDSHAKE_BYTES,
    MAX_UNSENT_BYTES,
    MAX_VALUE_BYTES,
    RECEIVE_BYTES,
)
from rdht.messages import HEADER_BYTES, Decoder, Flag, Message, Name, Operation, Status, encode
from rdht.roster import Roster, ServerAddress
from rdht.transport import (
    ClientConnection,
    Hello,
    Packer,
    ServerConnection,
    listen,
    read_json,
)
from tests.unit.rdht.table import PATIENCE_S, make_hello, wait_until

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
        for name in ("thread", "incarnation", "key_range", "frame_bytes", "resumes")
        for value in (-1, 1.0, "1", True, None)
    ],
    ("frame_bytes", RECEIVE_BYTES + 1),
    ("incarnation", 2**64),
    ("is_server", 1),
    ("is_server", None),
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


def received_from(client: socket.socket, count: int) -> list[Message]:
    decoder = Decoder()
    messages: list[Message] = []
    while len(messages) < count:
        data = client.recv(RECEIVE_BYTES)
        assert data, "the stream ended early"
        messages += decoder.feed(data)
    return messages


def test_a_servers_connection_waits_for_nothing(pair: Pair) -> None:
    assert pair[0].read() == []


def welcome(connection: ServerConnection, hello: Hello = HELLO) -> None:
    connection.welcome(hello, {})


def test_a_server_reads_messages_that_are_cut_anywhere(pair: Pair) -> None:
    connection, client = pair
    welcome(connection)
    message = Message(Status.REQUEST, Name(1, 1, 1), Operation.PUT, key=b"k", value=b"v" * 100_000)
    data = encode(message) * 2
    received: list[Message] = []
    for begin in range(0, len(data), 10_000):
        client.sendall(data[begin : begin + 10_000])
        end = min(begin + 10_000, len(data))

        def arrived(end: int = end) -> bool:
            received.extend(connection.read())
            return connection.bytes_received == end

        wait_until(arrived)
        assert len(received) == end // len(encode(message))
    assert received == [message, message]


def test_a_long_frame_before_the_welcome_is_refused(pair: Pair) -> None:
    connection, client = pair
    client.sendall(encode(Message(Status.HELLO, value=bytes(MAX_HANDSHAKE_BYTES)))[:60])
    with pytest.raises(RemoteProtocolError, match=f"allowed are .* to {MAX_HANDSHAKE_BYTES}"):
        wait_until(lambda: bool(connection.read()))


def test_a_server_pads_its_answers_as_the_client_asked(pair: Pair) -> None:
    connection, client = pair
    welcome(connection)
    answer = Message(Status.DONE, Name(1, 1, 1))
    connection.write([answer, answer])
    (first, *rest) = received_from(client, 3)
    assert first.status is Status.WELCOME
    assert rest == [answer] * 2
    assert connection.bytes_sent == len(encode(Message(Status.WELCOME, value=b"{}"))) + 2 * 256


def test_writing_nothing_sends_nothing(pair: Pair) -> None:
    pair[0].write([])
    assert pair[0].bytes_sent == 0


def test_what_a_socket_does_not_take_at_once_is_sent_later_and_in_order(pair: Pair) -> None:
    connection, client = pair
    wanted: list[bool] = []
    connection.want_write = wanted.append
    first, second, third = (
        Message(Status.DONE, Name(1, number, 1), value=b"v" * MAX_VALUE_BYTES)
        for number in range(3)
    )
    connection.write([first, second])
    connection.write([third])
    assert wanted == [True]
    assert connection.bytes_sent < MAX_VALUE_BYTES
    decoder = Decoder()
    received: list[Message] = []
    client.setblocking(False)

    def sent_and_received() -> bool:
        if wanted[-1]:
            connection.flush()
        try:
            received.extend(decoder.feed(client.recv(RECEIVE_BYTES)))
        except BlockingIOError:
            return False
        return len(received) == 3

    wait_until(sent_and_received)
    assert not wanted[-1]
    assert received == [first, second, third]
    assert connection.bytes_sent == 3 * (HEADER_BYTES + MAX_VALUE_BYTES)


def test_threads_that_write_at_once_do_not_mix_their_frames(pair: Pair) -> None:
    connection, client = pair
    secret, nonce = bytes(SECRET_BYTES), bytes(NONCE_BYTES)
    handshake = Handshake(secret, b"hello", nonce, nonce)
    connection._packer.seal = handshake.open_server(handshake.client_proof).outgoing
    session = handshake.open_client(handshake.server_proof)

    def write(number: int) -> None:
        for turn in range(200):
            connection.write([Message(Status.DONE, Name(number, turn, 1), value=b"v" * 50)])

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, number) for number in range(4)]
        decoder = Decoder()
        decoder.seal = session.incoming
        received: list[Message] = []
        while len(received) < 800:
            received += decoder.feed(client.recv(RECEIVE_BYTES))
        for future in writing:
            future.result(PATIENCE_S)
    for number in range(4):
        mine = [one.name.sequence for one in received if one.name.client == number]
        assert mine == list(range(200))


def test_a_client_that_does_not_read_is_given_up_at_the_limit(pair: Pair) -> None:
    connection, _ = pair
    answer = Message(Status.DONE, value=b"v" * MAX_VALUE_BYTES)
    for _number in range(MAX_UNSENT_BYTES // MAX_VALUE_BYTES - 1):
        connection.write([answer])
    with pytest.raises(ConnectionLostError, match=r"reads too slowly: \d+ bytes are waiting"):
        connection.write([answer] * 2)


def test_nothing_is_written_to_a_closed_connection(pair: Pair) -> None:
    connection, client = pair
    connection.close()
    connection.write([Message(Status.DONE)])
    assert client.recv(1) == b""


def test_the_end_of_a_clients_stream_is_told_after_what_came_before(pair: Pair) -> None:
    connection, client = pair
    client.sendall(encode(Message(Status.STATS)))
    client.close()
    received: list[Message] = []

    def read() -> bool:
        received.extend(connection.read())
        return False

    with pytest.raises(ConnectionLostError, match="closed by the client"):
        wait_until(read)
    assert received == [Message(Status.STATS)]


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_a_reset_by_the_client_is_told_to_the_reader(pair: Pair) -> None:
    connection, client = pair
    reset(client)
    with pytest.raises(ConnectionLostError, match="reset by peer"):
        wait_until(lambda: bool(connection.read()))


def test_a_reset_by_the_client_is_told_to_the_writer(pair: Pair) -> None:
    connection, client = pair
    reset(client)

    def write() -> bool:
        connection.write([Message(Status.STATS)])
        return False

    with pytest.raises(ConnectionLostError, match=r"reset by peer|Broken pipe"):
        wait_until(write)


def test_hanging_up_ends_the_stream_for_both(pair: Pair) -> None:
    connection, client = pair
    connection.hang_up()
    assert client.recv(1) == b""
    with pytest.raises(ConnectionLostError, match="closed by the client"):
        connection.read()
    client.close()
    connection.hang_up()  # once more, on a stream that is gone


@pytest.mark.parametrize("frame_bytes", [0, 20, 256])
def test_a_packed_frame_is_as_long_as_agreed_with_its_tag(frame_bytes: int) -> None:
    handshake = Handshake(bytes(SECRET_BYTES), b"", bytes(NONCE_BYTES), bytes(NONCE_BYTES))
    packer = Packer()
    packer.pad(frame_bytes)
    assert len(packer.pack(Message(Status.DONE))) == max(HEADER_BYTES, frame_bytes)
    packer.seal = handshake.open_client(handshake.server_proof).outgoing
    packer.pad(frame_bytes)
    decoder = Decoder()
    decoder.seal = handshake.open_server(handshake.client_proof).incoming
    for value in (b"", b"v" * 150, b"v" * 1000):
        message = Message(Status.DONE, value=value)
        frame = packer.pack(message)
        assert len(frame) == max(HEADER_BYTES + len(value) + TAG_BYTES, frame_bytes)
        assert decoder.feed(frame) == [message]


# A client's side.

Answers = list[Message] | None
PING = Message(Status.STATS)
WELCOME = Message(Status.WELCOME, value=b"{}")


@pytest.fixture
def connect(
    roster: Roster, fake_server: Callable[..., None]
) -> Iterator[Callable[..., ClientConnection]]:
    """Connect to a server that answers every message alike."""
    connections = []

    def open_connection(
        answers: Answers, *, secret: bytes | None = None, timeout_s: float = 5.0, **welcome: Message
    ) -> ClientConnection:
        fake_server(roster.servers[0], lambda _: answers, **welcome)
        hello = make_hello(roster, "s0")
        connections.append(ClientConnection(roster.servers[0], hello, secret, timeout_s))
        return connections[-1]

    yield open_connection
    for connection in connections:
        connection.close()


def send(connection: ClientConnection) -> None:
    connection.queue(PING)
    connection.flush()


def test_a_client_reads_the_welcome(connect: Callable[..., ClientConnection]) -> None:
    welcome = Message(Status.WELCOME, value=b'{"key_range": 7}')
    assert connect([], welcome=welcome).welcome == {"key_range": 7}


def test_a_client_gets_joined_answers_together_and_counts(
    connect: Callable[..., ClientConnection],
) -> None:
    first = Message(Status.DONE, Name(1, 1, 1), value=b"first")
    second = Message(Status.DONE, Name(1, 2, 1), value=b"second")
    connection = connect([first, second])
    sent, received = connection.traffic.bytes_sent, connection.traffic.bytes_received
    assert (connection.traffic.messages_sent, connection.traffic.messages_received) == (1, 1)
    assert connection.owed == 0
    send(connection)
    connection.queue(PING._replace(flags=Flag.SILENT))
    assert connection.owed == 1
    assert connection.receive() == [first, second]
    assert connection.owed == 0
    assert (connection.traffic.messages_sent, connection.traffic.messages_received) == (3, 3)
    assert connection.traffic.bytes_sent - sent == 2 * len(encode(PING))
    assert connection.traffic.bytes_received - received == len(encode(first) + encode(second))


def test_waiting_for_nothing_ends_with_the_tick(connect: Callable[..., ClientConnection]) -> None:
    assert connect([]).receive() == []


def test_an_error_message_is_raised_in_the_servers_words(
    connect: Callable[..., ClientConnection],
) -> None:
    words = "key range 7 \u2026".encode() + b"\xff"
    connection = connect([Message(Status.DONE), Message(Status.ERROR, value=words)])
    send(connection)
    assert connection.receive() == [Message(Status.DONE)]
    for _ in range(2):
        with pytest.raises(ConnectionLostError, match=r"^key range 7 \u2026\ufffd$"):
            connection.receive()


def test_a_server_that_hangs_up_is_named(connect: Callable[..., ClientConnection]) -> None:
    connection = connect(None)
    send(connection)
    with pytest.raises(ConnectionLostError, match="s0 closed the connection"):
        wait_until(lambda: bool(connection.receive()))


def test_sending_to_a_server_that_is_gone_is_told(connect: Callable[..., ClientConnection]) -> None:
    connection = connect(None)

    def send_again() -> bool:
        send(connection)
        return False

    with pytest.raises(ConnectionLostError, match="s0 closed the connection: "):
        wait_until(send_again)


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(
    connect: Callable[..., ClientConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect([])
    monkeypatch.setattr("rdht.transport.CONNECT_TIMEOUT_S", 0.05)
    with pytest.raises(DeadlineError, match="s0 did not answer in time"):
        connection.ask(PING)


def test_a_server_that_does_not_read_is_not_waited_for_for_ever(
    roster: Roster, fake_server: Callable[..., None]
) -> None:
    read_on = threading.Event()

    def answer(_message: Message) -> Answers:
        read_on.wait(PATIENCE_S)
        return None

    fake_server(roster.servers[0], answer)
    connection = ClientConnection(roster.servers[0], make_hello(roster, "s0"), None, 0.1)
    connection.queue(Message(Status.REQUEST, value=b"v" * MAX_VALUE_BYTES))

    def send_much() -> None:
        for _ in range(100):
            connection.queue(Message(Status.REQUEST, value=b"v" * MAX_VALUE_BYTES))
            connection.push()

    try:
        with pytest.raises(DeadlineError, match="s0 took no more bytes in time"):
            send_much()
    finally:
        read_on.set()
        connection.close()


def test_what_no_frame_can_carry_is_not_queued(connect: Callable[..., ClientConnection]) -> None:
    connection = connect([Message(Status.DONE)])
    with pytest.raises(LocalProtocolError):
        connection.queue(Message(Status.REQUEST, value=bytes(MAX_BODY_BYTES + 1)))
    send(connection)
    assert connection.receive() == [Message(Status.DONE)]


def test_garbage_from_a_server_is_a_remote_protocol_error(
    listener: socket.socket, roster: Roster
) -> None:
    address = ServerAddress("s0", "h0", *listener.getsockname())
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(ClientConnection, address, make_hello(roster, "s0"), None)
        listener.setblocking(True)
        with listener.accept()[0] as server:
            server.sendall(encode(WELCOME))
            connection = connecting.result(PATIENCE_S)
            server.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            with pytest.raises(RemoteProtocolError, match="a frame of"):
                connection.receive()
        connection.close()


def test_what_comes_right_behind_the_welcome_does_not_spoil_it(
    listener: socket.socket, roster: Roster
) -> None:
    address = ServerAddress("s0", "h0", *listener.getsockname())
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(ClientConnection, address, make_hello(roster, "s0"), None)
        listener.setblocking(True)
        with listener.accept()[0] as server:
            server.sendall(encode(WELCOME) + encode(Message(Status.YES)))
            connection = connecting.result(PATIENCE_S)
            server.sendall(encode(Message(Status.DONE)))
            assert connection.receive() == [Message(Status.DONE)]
        connection.close()


def test_a_connection_that_another_thread_closes_keeps_its_number(
    connect: Callable[..., ClientConnection],
) -> None:
    connection = connect([])
    descriptor = connection.fileno()
    connection.close()
    assert connection.fileno() == descriptor >= 0
    with pytest.raises(ConnectionLostError, match="s0 closed the connection: Bad file descriptor"):
        connection.receive()
    connection.close()


def test_a_server_that_is_not_there_is_named_with_its_address(roster: Roster) -> None:
    port = roster.servers[0].port
    why = rf"server s0 at 127\.0\.0\.1:{port}: Connection refused"
    with pytest.raises(ConnectError, match=why):
        ClientConnection(roster.servers[0], make_hello(roster, "s0"), None)


@pytest.mark.parametrize(
    ("welcome", "why"),
    [
        (Message(Status.ERROR, value=b"the roster is wrong"), "the roster is wrong"),
        (Message(Status.STATS, value=b"{}"), "expected a WELCOME, got STATS"),
        (Message(Status.CHALLENGE), "expected a WELCOME, got CHALLENGE"),
        (Message(Status.WELCOME), "a WELCOME message carries no JSON object"),
    ],
)
def test_a_refused_handshake_is_a_connect_error_that_says_who_and_why(
    welcome: Message, why: str, connect: Callable[..., ClientConnection]
) -> None:
    with pytest.raises(ConnectError, match=rf"server s0 at 127\.0\.0\.1:\d+: {why}"):
        connect([], welcome=welcome)


@pytest.mark.parametrize(
    ("challenge", "why"),
    [
        (WELCOME, "it does not ask for the secret"),
        (Message(Status.CHALLENGE), "nonces of 32 and 0 bytes, not 32"),
        (
            Message(Status.CHALLENGE, key=bytes(NONCE_BYTES), value=bytes(32)),
            "the server does not know this cluster's secret",
        ),
        (Message(Status.DONE), "expected a CHALLENGE, got DONE"),
        (Message(Status.ERROR, value=b"no"), "no"),
    ],
)
def test_a_client_with_a_secret_wants_it_proved(
    challenge: Message, why: str, connect: Callable[..., ClientConnection]
) -> None:
    with pytest.raises(ConnectError, match=rf"server s0 at 127\.0\.0\.1:\d+: {why}"):
        connect([], secret=bytes(SECRET_BYTES), welcome=challenge)


def test_a_server_that_does_not_shake_hands_is_a_connect_error(
    listener: socket.socket, roster: Roster
) -> None:
    address = ServerAddress("s0", "h0", *listener.getsockname())
    with pytest.raises(ConnectError, match="no answer in time"):
        ClientConnection(address, make_hello(roster, "s0"), None, 0.05)


# The handshake as the server sees it.


def test_a_proof_that_nobody_asked_for_is_refused(pair: Pair) -> None:
    connection, _ = pair
    with pytest.raises(RemoteProtocolError, match="expected a PROOF, got PROOF"):
        connection.accept_proof(Message(Status.PROOF))


def test_a_hello_without_a_nonce_is_refused_where_there_is_a_secret(pair: Pair) -> None:
    connection, _ = pair
    with pytest.raises(AuthenticationError, match="names no secret_file"):
        connection.challenge(HELLO.to_message(), HELLO, bytes(SECRET_BYTES))
    assert connection.handshake is None


def test_a_proof_is_accepted_once(pair: Pair) -> None:
    connection, client = pair
    said = HELLO.to_message(bytes(NONCE_BYTES))
    secret = bytes(SECRET_BYTES)
    connection.challenge(said, HELLO, secret)
    (challenge,) = received_from(client, 1)
    handshake = Handshake(secret, encode(said), said.key, challenge.key)
    with pytest.raises(RemoteProtocolError, match="expected a PROOF, got HELLO"):
        connection.accept_proof(said)
    proof = Message(Status.PROOF, value=handshake.client_proof)
    assert connection.accept_proof(proof) == HELLO
    with pytest.raises(RemoteProtocolError, match="expected a PROOF, got PROOF"):
        connection.accept_proof(proof)
