"""Messages over sockets: connecting, the handshake's fields, reading and writing frames."""

import json
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from typing import Any

from rdht.errors import (
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    NetworkError,
    RemoteProtocolError,
)
from rdht.limits import (
    ACCEPT_BACKLOG,
    COMMAND_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    MAX_UNSENT_BYTES,
    RECEIVE_BYTES,
)
from rdht.messages import Decoder, Message, Status, encode
from rdht.participant import Entry
from rdht.roster import ServerAddress


@dataclass(frozen=True)
class Hello:
    """What a client says first; the server refuses what does not fit it.

    `key_range` 0 marks an observer, which asks for figures and runs no commands.
    """

    server: str
    servers: list[str]
    client: str
    thread: int
    incarnation: int
    key_range: int
    frame_bytes: int

    def to_message(self) -> Message:
        """Return the HELLO message."""
        return Message(Status.HELLO, value=json.dumps(asdict(self)).encode())

    @classmethod
    def from_message(cls, message: Message) -> "Hello":
        """Read a HELLO message; RemoteProtocolError for anything else."""
        fields = read_json(message) if message.status is Status.HELLO else {}
        expected = {field.name for field in dataclass_fields(cls)}
        if set(fields) != expected:
            why = f"expected a HELLO with {', '.join(sorted(expected))}"
            raise RemoteProtocolError(why)
        hello = cls(**fields)
        numbers = (hello.thread, hello.incarnation, hello.key_range, hello.frame_bytes)
        if not (
            isinstance(hello.servers, list)
            and all(isinstance(text, str) for text in (hello.server, hello.client, *hello.servers))
            and all(type(number) is int and number >= 0 for number in numbers)
            and hello.frame_bytes <= RECEIVE_BYTES
        ):
            why = "a field of the HELLO has the wrong type or size"
            raise RemoteProtocolError(why)
        return hello


def read_json(message: Message) -> dict[str, Any]:
    """Return the JSON object in a message's value; RemoteProtocolError if there is none."""
    try:
        document = json.loads(message.value)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        why = f"a {message.status.name} message carries no JSON object"
        raise RemoteProtocolError(why)
    return document


def listen(address: str, port: int) -> socket.socket:
    """Return a listening socket; NetworkError says why there is none."""
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((address, port), family=family, backlog=ACCEPT_BACKLOG)
    except (OSError, UnicodeError) as error:
        why = f"cannot listen on {address} port {port}: {_reason(error)}"
        raise NetworkError(why) from error
    listener.setblocking(False)
    return listener


def _reason(error: OSError | UnicodeError) -> str:
    """Return the system's words for an error; create_server and getaddrinfo add their own."""
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return str(error.args[-1])


def set_options(sock: socket.socket) -> None:
    """Send small frames at once, and notice a peer that vanished within about 15 s."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5)


class ClientConnection:
    """A blocking connection from one client thread to one server."""

    def __init__(self, server: ServerAddress, hello: Hello) -> None:
        """Connect and shake hands, within CONNECT_TIMEOUT_S each; ConnectError says why not.

        Later each wait for an answer is bounded by COMMAND_TIMEOUT_S.
        """
        self.server = server.name
        self.bytes_sent = 0
        self.bytes_received = 0
        self.messages_sent = 0
        self.messages_received = 0
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._decoder = Decoder()
        self._arrived: list[Message] = []
        where = f"server {server.name} at {server.address}:{server.port}"
        try:
            self._socket = socket.create_connection(
                (server.address, server.port), CONNECT_TIMEOUT_S
            )
        except (OSError, UnicodeError) as error:
            why = f"{where}: {_reason(error)}"
            raise ConnectError(why) from error
        try:
            set_options(self._socket)
            _set_timeouts(self._socket, CONNECT_TIMEOUT_S)
            self.send(encode(hello.to_message()))
            self.welcome = self._read_welcome(self.receive())
            _set_timeouts(self._socket, COMMAND_TIMEOUT_S)
        except (NetworkError, RemoteProtocolError) as error:
            self.close()
            why = f"{where}: {error}"
            raise ConnectError(why) from error

    def send(self, frame: bytes) -> None:
        """Send an encoded message; ConnectionLostError if the connection is gone."""
        try:
            self._socket.sendall(frame)
        except BlockingIOError as error:
            why = f"{self.server} took no more bytes in time"
            raise DeadlineError(why) from error
        except OSError as error:
            raise self._lost(error) from error
        self.bytes_sent += len(frame)
        self.messages_sent += 1

    def receive(self) -> Message:
        """Return the next message.

        Raises DeadlineError, ConnectionLostError, or RemoteProtocolError with the server's words
        if it sent an ERROR.
        """
        while not self._arrived:
            try:
                received = self._socket.recv_into(self._buffer)
            except BlockingIOError as error:
                why = f"{self.server} did not answer in time"
                raise DeadlineError(why) from error
            except OSError as error:
                raise self._lost(error) from error
            if not received:
                raise self._lost(None)
            self.bytes_received += received
            self._arrived = self._decoder.feed(bytes(self._buffer[:received]))[::-1]
        self.messages_received += 1
        message = self._arrived.pop()
        if message.status is Status.ERROR:
            raise RemoteProtocolError(message.value.decode(errors="replace"))
        return message

    def close(self) -> None:
        """Close the socket, and end a receive that another thread waits in."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _lost(self, error: OSError | None) -> ConnectionLostError:
        detail = f": {error.strerror}" if error else ""
        return ConnectionLostError(f"{self.server} closed the connection{detail}")

    def _read_welcome(self, message: Message) -> dict[str, Any]:
        if message.status is not Status.WELCOME:
            why = f"expected a WELCOME, got {message.status.name}"
            raise RemoteProtocolError(why)
        return read_json(message)


def _set_timeouts(sock: socket.socket, timeout_s: float) -> None:
    """Bound each blocking send and receive in the kernel.

    `settimeout` would cost a poll before every call. A 32-bit system may take either size of
    time_t, so both are tried.
    """
    sock.setblocking(True)
    seconds = int(timeout_s)
    microseconds = int((timeout_s - seconds) * 1e6)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, microseconds))
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("qq", seconds, microseconds))


class ServerConnection:
    """A non-blocking connection as a server's worker sees it."""

    def __init__(self, sock: socket.socket, peer: str, deadline_s: float) -> None:
        """Take an accepted socket; `deadline_s` is when the handshake must be over."""
        sock.setblocking(False)
        set_options(sock)
        self.peer = peer
        self.hello: Hello | None = None
        self.deadline_s = deadline_s
        self.scan: Iterator[tuple[bytes, Entry]] | None = None  # what a SCAN has left to tell
        self.bytes_sent = 0
        self.bytes_received = 0
        self._socket = sock
        self._decoder = Decoder()
        self._unsent = bytearray()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def read(self, buffer: memoryview) -> list[Message]:
        """Return what arrived, read through `buffer`; ConnectionLostError at the stream's end."""
        try:
            received = self._socket.recv_into(buffer)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ConnectionLostError(error.strerror) from error
        if not received:
            why = "closed by the client"
            raise ConnectionLostError(why)
        self.bytes_received += received
        return self._decoder.feed(bytes(buffer[:received]))

    def write(self, messages: Iterable[Message]) -> bool:
        """Send as much as the socket takes; return whether bytes are left for `flush`."""
        frame_bytes = self.hello.frame_bytes if self.hello else 0
        data = b"".join([encode(message, frame_bytes) for message in messages])
        if self._unsent:
            self._unsent += data
            self.flush()
        else:
            self._unsent += data[self._send(data) :]
        if len(self._unsent) > MAX_UNSENT_BYTES:
            why = f"reads too slowly: {len(self._unsent)} bytes are waiting for it"
            raise ConnectionLostError(why)
        return bool(self._unsent)

    def flush(self) -> bool:
        """Send what `write` left; return whether bytes are still left."""
        del self._unsent[: self._send(self._unsent)]
        return bool(self._unsent)

    def hang_up(self) -> None:
        """End the stream both ways from any thread; its worker then closes it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; only its worker does this."""
        self._socket.close()

    def _send(self, data: bytes | bytearray) -> int:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionLostError(error.strerror) from error
        self.bytes_sent += sent
        return sent
