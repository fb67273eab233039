"""Messages over sockets: connecting, the handshake, reading and writing frames."""

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from typing import Any

from rdht.authentication import NONCE_BYTES, TAG_BYTES, Handshake, Seal
from rdht.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    NetworkError,
    RemoteProtocolError,
)
from rdht.limits import (
    ACCEPT_BACKLOG,
    CLIENT_TICK_S,
    CONNECT_TIMEOUT_S,
    MAX_FRAME_BYTES,
    MAX_HANDSHAKE_BYTES,
    MAX_UNSENT_BYTES,
    RECEIVE_BYTES,
)
from rdht.messages import Decoder, Destination, Flag, Message, Status, encode, new_tally
from rdht.roster import ServerAddress
from rdht.table import Entry
from rdht.traffic import Traffic

# Python takes 0.3 us for an enum's `&`, and 0.2 us to look a member up.
_SILENT, _ERROR = int(Flag.SILENT), Status.ERROR
# tcpi_data_segs_in and tcpi_data_segs_out of struct tcp_info in linux/tcp.h, since Linux 4.6.
_TCP_INFO = struct.Struct("=152xII")


@dataclass(frozen=True)
class Hello:
    """What a client says first; the server refuses what does not fit it.

    `key_range` 0 marks an observer, which asks for figures and runs no commands. `resumes` is the
    incarnation of the server that this client was connected to before, or 0.
    """

    server: str
    servers: list[str]
    client: str
    thread: int
    incarnation: int
    key_range: int
    frame_bytes: int
    resumes: int = 0
    is_server: bool = False

    @property
    def sender(self) -> Destination | None:
        """Who runs commands on the connection; None is an observer."""
        if self.is_server:
            return self.client
        return self.incarnation if self.key_range else None

    def to_message(self, nonce: bytes = b"") -> Message:
        """Return the HELLO message."""
        return Message(Status.HELLO, key=nonce, value=json.dumps(asdict(self)).encode())

    @classmethod
    def from_message(cls, message: Message) -> "Hello":
        """Read a HELLO message; RemoteProtocolError for anything else."""
        fields = read_json(message) if message.status is Status.HELLO else {}
        expected = {field.name for field in dataclass_fields(cls)}
        if set(fields) != expected:
            why = f"expected a HELLO with {', '.join(sorted(expected))}"
            raise RemoteProtocolError(why)
        hello = cls(**fields)
        numbers = (
            *(hello.thread, hello.incarnation, hello.resumes),
            *(hello.key_range, hello.frame_bytes),
        )
        if not (
            isinstance(hello.servers, list)
            and isinstance(hello.is_server, bool)
            and all(isinstance(text, str) for text in (hello.server, hello.client, *hello.servers))
            and all(type(number) is int and 0 <= number < 2**64 for number in numbers)
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
    # While something is on its way, no keepalive is sent, and the system tries for 15 minutes.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000)


class Packer:
    """Messages into frames for one connection, padded and tagged as its handshake agreed."""

    def __init__(self) -> None:
        """Neither pad nor tag, as the handshake begins."""
        self.tally = new_tally()
        self.seal: Seal | None = None
        self._frame_bytes = 0  # of a frame without its tag, at least

    def pad(self, frame_bytes: int) -> None:
        """Make frames of at least so many bytes with their tags, if they have one by now."""
        self._frame_bytes = frame_bytes - TAG_BYTES if self.seal else frame_bytes

    def pack(self, message: Message) -> bytes:
        """Return the frame; frames must be sent in the order in which they are packed."""
        frame = encode(message, self._frame_bytes)
        if self.seal is not None:
            frame += self.seal.tag(frame)
        count = self.tally[message.status]
        count[0] += 1
        count[1] += len(frame)
        return frame


class ClientConnection:
    """A blocking connection from one client thread to one server."""

    def __init__(
        self,
        server: ServerAddress,
        hello: Hello,
        secret: bytes | None,
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        """Connect and shake hands, within `timeout_s` each; ConnectError says why not."""
        self.server = server.name
        self.owed = 0  # answers
        self._timeout_s = timeout_s
        self._awaited = 0  # answers that were owed at `_since_s`
        self._since_s = 0.0
        self._decoder = Decoder()
        self._packer = Packer()
        self.traffic = Traffic(self._packer.tally, self._decoder.tally)
        self._unsent = b""  # what the socket did not take
        self._queued: list[bytes] = []
        self._last_words = ""  # of an ERROR
        where = f"server {server.name} at {server.address}:{server.port}"
        try:
            self._socket = socket.create_connection((server.address, server.port), timeout_s)
        except (OSError, UnicodeError) as error:
            why = f"{where}: {_reason(error)}"
            raise ConnectError(why) from error
        try:
            set_options(self._socket)
            self._descriptor = self._socket.fileno()
            self._socket.setblocking(True)
            _set_timeout(self._socket, socket.SO_SNDTIMEO, timeout_s)
            _set_timeout(self._socket, socket.SO_RCVTIMEO, timeout_s)
            self.welcome = self._shake_hands(hello, secret)
            _set_timeout(self._socket, socket.SO_RCVTIMEO, CLIENT_TICK_S)
        except (NetworkError, RemoteProtocolError, AuthenticationError) as error:
            self.close()
            why = f"{where}: {error}"
            raise ConnectError(why) from error

    def _shake_hands(self, hello: Hello, secret: bytes | None) -> dict[str, Any]:
        nonce = os.urandom(NONCE_BYTES) if secret else b""
        said = hello.to_message(nonce)
        self.queue(said)
        seal = None
        if secret:
            challenge = self._converse(Status.CHALLENGE)
            handshake = Handshake(secret, encode(said), nonce, challenge.key)
            seal, self._decoder.seal = handshake.open_client(challenge.value)
            self.queue(Message(Status.PROOF, value=handshake.client_proof))
        answer = self._converse(Status.WELCOME)
        self._packer.seal = seal
        self._packer.pad(hello.frame_bytes)
        self.owed = 0
        return read_json(answer)

    def _converse(self, expected: Status) -> Message:
        """Send what is queued, and return the one answer to it."""
        self.push()
        messages: list[Message] = []
        deadline_s = time.monotonic() + self._timeout_s
        while not messages:
            messages = self.receive()
            if time.monotonic() >= deadline_s and not messages:
                why = "no answer in time"
                raise DeadlineError(why)
        status = messages[0].status
        if status is Status.WELCOME is not expected:
            why = "it does not ask for the secret that this side's roster names"
            raise AuthenticationError(why)
        if status is not expected:
            why = f"expected a {expected.name}, got {status.name}"
            raise RemoteProtocolError(why)
        # What comes right behind a WELCOME answers what was lost, and will be said again.
        return messages[0]

    def fileno(self) -> int:
        """Return the socket's descriptor, even if another thread has closed it."""
        return self._descriptor

    def queue(self, message: Message) -> None:
        """Have a message sent with the next `flush`."""
        self._queued.append(self._packer.pack(message))
        if not message.flags & _SILENT:
            self.owed += 1

    def flush(self) -> bool:
        """Send of what is queued what the socket takes now; return whether that was all.

        Raises ConnectionLostError.
        """
        data, self._unsent = self._unsent + b"".join(self._queued), b""
        self._queued.clear()
        if self.owed != self._awaited:
            self._count_wait()
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._lost(error) from error
        if sent < len(data):
            self._unsent = data[sent:]
        return not self._unsent

    def push(self) -> None:
        """Send all that is queued; ConnectionLostError or DeadlineError if that cannot be."""
        if self.flush():
            return
        data, self._unsent = self._unsent, b""
        try:
            self._socket.sendall(data)
        except BlockingIOError as error:
            why = f"{self.server} took no more bytes in time"
            raise DeadlineError(why) from error
        except OSError as error:
            raise self._lost(error) from error

    def ask(self, message: Message) -> Message:
        """Send a question of an observer, and return the answer, within CONNECT_TIMEOUT_S.

        Raises DeadlineError, or as `receive`.
        """
        self.queue(message)
        self.push()
        deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
        while time.monotonic() < deadline_s:
            for answer in self.receive():
                return answer
        why = f"{self.server} did not answer in time"
        raise DeadlineError(why)

    def receive(self) -> list[Message]:
        """Return what has arrived whole, waiting for something up to CLIENT_TICK_S.

        Nothing owed any more, or so it seems, if that was in vain. Raises ConnectionLostError,
        with the server's words if it sent an ERROR; RemoteProtocolError and AuthenticationError
        for what is no frame.
        """
        if self._last_words:
            raise ConnectionLostError(self._last_words)
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            self.owed = 0
            return []
        except OSError as error:
            raise self._lost(error) from error
        if not data:
            raise self._lost(None)
        messages = self._decoder.feed(data)
        if messages and messages[-1].status is _ERROR:
            self._last_words = messages.pop().value.decode(errors="replace")
        self.owed = max(0, self.owed - len(messages))
        self._count_wait()
        return messages

    def count(self) -> Traffic:
        """Return the traffic until now; not from a connection that is closed."""
        self._count_wait()
        size = _TCP_INFO.size
        with suppress(OSError):  # it has just been closed by another thread
            told = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
            self.traffic.segments_received, self.traffic.segments_sent = _TCP_INFO.unpack(told)
        return self.traffic

    def _count_wait(self) -> None:
        """Count the time since the last call for each answer that was owed then."""
        now_s = time.monotonic()
        self.traffic.waited_s += self._awaited * (now_s - self._since_s)
        self._since_s, self._awaited = now_s, self.owed

    def close(self) -> None:
        """Close the socket, and end a receive that another thread waits in."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _lost(self, error: OSError | None) -> ConnectionLostError:
        detail = f": {error.strerror}" if error else ""
        return ConnectionLostError(f"{self.server} closed the connection{detail}")


def _set_timeout(sock: socket.socket, option: int, timeout_s: float) -> None:
    """Bound each blocking send or receive in the kernel.

    `settimeout` would cost a poll before every call. A 32-bit system may take either size of
    time_t, so both are tried.
    """
    seconds = int(timeout_s)
    microseconds = int((timeout_s - seconds) * 1e6)
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, microseconds))
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("qq", seconds, microseconds))


class ServerConnection:
    """A non-blocking connection as a server sees it: one worker reads, any thread writes."""

    def __init__(self, sock: socket.socket, peer: str, deadline_s: float) -> None:
        """Take an accepted socket; `deadline_s` is when the handshake must be over."""
        sock.setblocking(False)
        set_options(sock)
        self.peer = peer
        self.hello: Hello | None = None
        self.handshake: tuple[Hello, Handshake] | None = None  # under way
        self.deadline_s = deadline_s
        self.sender: Destination | None = None  # once it is welcomed, if it runs commands
        self.scan: Iterator[tuple[bytes, Entry]] | None = None  # what a SCAN has left to tell
        self.bytes_sent = 0
        self.bytes_received = 0
        self.want_write: Callable[[bool], None] = lambda _wanted: None
        self._socket = sock
        self._decoder = Decoder(MAX_HANDSHAKE_BYTES)
        self._lock = threading.Lock()  # guards what writing needs
        self._packer = Packer()
        self._unsent = bytearray()
        self._closed = False

    def messages_received(self) -> dict[Status, int]:
        """Return how many messages have come, by kind; from any thread."""
        return {status: count for status, (count, _) in list(self._decoder.tally.items())}

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def challenge(self, said: Message, hello: Hello, secret: bytes) -> None:
        """Answer a HELLO with this side's nonce and proof; AuthenticationError if it has none."""
        if not said.key:
            why = "this cluster has a secret, and the client's roster names no secret_file"
            raise AuthenticationError(why)
        nonce = os.urandom(NONCE_BYTES)
        handshake = Handshake(secret, encode(said), said.key, nonce)
        self.handshake = hello, handshake
        self.write([Message(Status.CHALLENGE, key=nonce, value=handshake.server_proof)])

    def accept_proof(self, proof: Message) -> Hello:
        """Return what the client said, now that it is proved; AuthenticationError if it is not."""
        if self.handshake is None or proof.status is not Status.PROOF:
            why = f"expected a PROOF, got {proof.status.name}"
            raise RemoteProtocolError(why)
        hello, handshake = self.handshake
        self.handshake = None
        self._packer.seal, self._decoder.seal = handshake.open_server(proof.value)
        return hello

    def welcome(self, hello: Hello, document: dict[str, Any]) -> None:
        """End the handshake: from now on frames are as the client wants them."""
        self.write([Message(Status.WELCOME, value=json.dumps(document).encode())])
        self._packer.pad(hello.frame_bytes)
        self._decoder.max_frame_bytes = MAX_FRAME_BYTES
        self.hello, self.sender = hello, hello.sender

    def read(self) -> list[Message]:
        """Return what arrived; ConnectionLostError at the stream's end."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ConnectionLostError(error.strerror) from error
        if not data:
            why = "closed by the client"
            raise ConnectionLostError(why)
        self.bytes_received += len(data)
        return self._decoder.feed(data)

    def write(self, messages: Iterable[Message]) -> None:
        """Send as much as the socket takes now, and the rest when it takes more."""
        with self._lock:
            if self._closed:
                return
            data = b"".join(map(self._packer.pack, messages))
            if self._unsent:
                self._unsent += data
            else:
                sent = self._send(data)
                if sent < len(data):
                    self._unsent += data[sent:]
                    self.want_write(True)
            if len(self._unsent) > MAX_UNSENT_BYTES:
                why = f"reads too slowly: {len(self._unsent)} bytes are waiting for it"
                raise ConnectionLostError(why)

    def flush(self) -> None:
        """Send what `write` left."""
        with self._lock:
            del self._unsent[: self._send(self._unsent)]
            if not self._unsent:
                self.want_write(False)

    def hang_up(self) -> None:
        """End the stream both ways from any thread; its worker then closes it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; only its worker does this."""
        with self._lock:
            self._closed = True
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
