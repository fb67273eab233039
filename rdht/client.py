"""The public API: a client of the table."""

import contextlib
import itertools
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from rdht import log, roster
from rdht.coordinator import Command, Coordinator, State
from rdht.errors import (
    AbortedError,
    ConfigurationError,
    ConnectError,
    NetworkError,
    ProtocolError,
    RdhtError,
    UnknownOutcomeError,
)
from rdht.limits import (
    COMMAND_TIMEOUT_S,
    RETRY_BACKOFF_FIRST_S,
    RETRY_BACKOFF_MAX_S,
)
from rdht.messages import Message, Name, Operation, Reason, Status, encode
from rdht.profiles import PROFILES, Profile
from rdht.ring import Ring
from rdht.roster import DEFAULT_KEY_RANGE, Roster
from rdht.transport import ClientConnection, Hello

_logger = logging.getLogger("rdht")


class Versioned(NamedTuple):
    """A key's value (None: absent) and the version that `Client.cas` takes."""

    value: bytes | None
    version: int


@dataclass
class Counters:
    """What a session has done so far."""

    conflicts: int = 0  # attempts that another transaction's lock refused
    connections: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class Session:
    """One thread's connections to the servers; runs one command at a time.

    A session that lost a connection is broken: its transactions may be in doubt, so it runs no
    more commands.
    """

    def __init__(  # noqa: PLR0913 - the identity of a session has these parts
        self,
        servers: Roster,
        ring: Ring,
        profile: Profile,
        client: str,
        thread: int,
        *,
        trace: bool = False,
    ) -> None:
        """Be the thread number `thread` of the client named `client`; connect when needed."""
        self.lost: dict[str, RdhtError] = {}  # servers, and how each was lost
        self._closed = False
        self._roster = servers
        self._ring = ring
        self._profile = profile
        self._client = client
        self._thread = thread
        self._trace = trace
        self._order = itertools.count(1)
        self._sequence = itertools.count(1)
        self._incarnation = int.from_bytes(os.urandom(8))
        self._backoff = random.Random(self._incarnation)  # noqa: S311 - no secret
        self._connections: dict[str, ClientConnection] = {}
        self._conflicts = 0

    def connect(self) -> None:
        """Open the connections to all servers; ConnectError names the first that fails."""
        for server in self._roster.servers:
            self._connection(server.name)

    def counters(self) -> Counters:
        """Return the figures so far."""
        connections = list(self._connections.values())
        return Counters(
            self._conflicts,
            len(connections),
            sum(connection.messages_sent for connection in connections),
            sum(connection.messages_received for connection in connections),
            sum(connection.bytes_sent for connection in connections),
            sum(connection.bytes_received for connection in connections),
        )

    @property
    def broken(self) -> bool:
        """Whether the session can run no more commands."""
        return self._closed

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for connection in list(self._connections.values()):
            connection.close()

    def __del__(self) -> None:
        """Close the connections of a thread that has ended."""
        self.close()

    def execute(self, command: Command) -> Message:
        """Carry out a command; return what the replicas answered.

        A lock conflict is retried until COMMAND_TIMEOUT_S. Raises AbortedError (certainly not
        carried out) or UnknownOutcomeError; both name the servers that were lost, if any were.
        """
        if self._closed:
            why = "the session is closed"
            raise AbortedError(why, self.lost)
        sequence = next(self._sequence)
        deadline_s = time.monotonic() + COMMAND_TIMEOUT_S
        backoff_s = RETRY_BACKOFF_FIRST_S
        for attempt in itertools.count(1):
            name = Name(self._incarnation, sequence, attempt)
            coordinator = Coordinator(name, command, self._ring.replicas(command.key))
            self._drive(coordinator)
            if coordinator.state is State.COMMITTED:
                return coordinator.result
            what = f"{command.operation.name.lower()} of key {command.key!r}"
            if coordinator.state is State.UNKNOWN:
                why = f"{what} may have been done: {_reasons(self.lost)}"
                raise UnknownOutcomeError(why, self.lost)
            if self.lost:
                why = f"{what} was not done: {_reasons(self.lost)}"
                raise AbortedError(why, self.lost)
            if coordinator.refusal is Reason.STOPPING:
                why = f"{what} was not done: a server is stopping"
                raise AbortedError(why)
            self._conflicts += 1
            if time.monotonic() > deadline_s:
                why = f"{what} was not done: its lock was taken at each of {attempt} attempts"
                raise AbortedError(why)
            time.sleep(self._backoff.uniform(0, backoff_s))
            backoff_s = min(2 * backoff_s, RETRY_BACKOFF_MAX_S)
        raise AssertionError  # pragma: no cover - the loop has no other end

    def _drive(self, coordinator: Coordinator) -> None:
        """Carry one attempt to its end; a session that lost a server is closed after it."""
        sends = coordinator.start()
        while sends:
            answering = []
            following: list[tuple[str, Message]] = []
            encoded: Message | None = None
            for server, message in sends:
                if message is not encoded:
                    frame, encoded = encode(message, self._profile.frame_bytes), message
                try:
                    self._connection(server).send(frame)
                    answering.append(server)
                except NetworkError as error:
                    self.lost[server] = error
                    reached = not isinstance(error, ConnectError)
                    following += coordinator.lost(server, reached=reached)
                if self._trace:
                    self._log_trace(server, coordinator, message.status)
            for server in answering:
                try:
                    answer = self._connections[server].receive()
                except (NetworkError, ProtocolError) as error:
                    self.lost[server] = error
                    following += coordinator.lost(server)
                    continue
                if self._trace:
                    self._log_trace(server, coordinator, answer.status)
                following += self._take(coordinator, server, answer)
            sends = following
        if self.lost:
            self.close()

    def _take(
        self, coordinator: Coordinator, server: str, answer: Message
    ) -> list[tuple[str, Message]]:
        try:
            return coordinator.receive(server, answer)
        except ProtocolError:
            self.close()
            raise

    def _connection(self, server: str) -> ClientConnection:
        connection = self._connections.get(server)
        if connection is None:
            hello = Hello(
                server,
                [member.name for member in self._roster.servers],
                self._client,
                self._thread,
                self._incarnation,
                self._ring.key_range,
                self._profile.frame_bytes,
            )
            address = self._roster.server(server)
            connection = ClientConnection(address, hello)
            self._connections[server] = connection
        return connection

    def _log_trace(self, server: str, coordinator: Coordinator, status: Status) -> None:
        operation, key, value, version = coordinator.command
        request = Message(
            Status.REQUEST, coordinator.name, operation, version=version, key=key, value=value
        )
        order = next(self._order)
        line = log.trace_line(server, self._client, self._thread, request, status, order)
        _logger.info(line)


def _reasons(lost: dict[str, RdhtError]) -> str:
    return (
        "; ".join(str(error) for error in lost.values())
        or "a server had given up waiting for the decision"
    )


class Client:
    """A client of the table, for any number of threads.

    Keys and values are bytes; a str is encoded as UTF-8. Each thread that uses the client has its
    own connections, opened when first needed. Every method may raise AbortedError (certainly not
    done) and UnknownOutcomeError (may be done), and RemoteProtocolError where the key's two
    replicas turn out to differ.
    """

    def __init__(
        self,
        servers: Roster | str | Path,
        *,
        key_range: int = DEFAULT_KEY_RANGE,
        profile: str = "classic",
        name: str = "client",
        trace: bool = False,
    ) -> None:
        """Use the servers of a roster, given as a value or as its file's path.

        All clients of a table must use the same key range. Raises ConfigurationError.
        """
        self._roster = servers if isinstance(servers, Roster) else roster.load(servers)
        self._ring = Ring(self._roster, key_range)
        if profile not in PROFILES:
            why = f"there is no profile {profile!r}; there is {', '.join(sorted(PROFILES))}"
            raise ConfigurationError(why)
        self._profile = PROFILES[profile]
        self._closed = False
        self._name = name
        self._trace = trace
        self._thread_numbers = itertools.count()
        self._local = threading.local()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections of all threads, for good."""
        self._closed = True
        for session in list(self._sessions):
            session.close()

    def get(self, key: bytes | str) -> bytes | None:
        """Return the key's value, or None if it has none."""
        return self.get_versioned(key).value

    def get_versioned(self, key: bytes | str) -> Versioned:
        """Return the key's value and version; an absent key has a version too."""
        result = self._execute(Operation.GET, key)
        return Versioned(result.value if result.status is Status.DONE else None, result.version)

    def put(self, key: bytes | str, value: bytes | str) -> int:
        """Set the key's value; return its new version."""
        return self._execute(Operation.PUT, key, value).version

    def add(self, key: bytes | str, value: bytes | str) -> bool:
        """Set the key's value if it has none; return whether it was set."""
        return self._execute(Operation.ADD, key, value).status is Status.DONE

    def delete(self, key: bytes | str) -> bool:
        """Remove the key's value; return whether there was one."""
        return self._execute(Operation.DELETE, key).status is Status.DONE

    def cas(self, key: bytes | str, value: bytes | str, version: int) -> bool:
        """Set the key's value if the key is still at `version`; return whether it was set."""
        return self._execute(Operation.CAS, key, value, version).status is Status.DONE

    def _execute(
        self, operation: Operation, key: bytes | str, value: bytes | str = b"", version: int = 0
    ) -> Message:
        if self._closed:
            why = "the client is closed"
            raise AbortedError(why)
        session = getattr(self._local, "session", None)
        if session is None or session.broken:
            session = Session(
                self._roster,
                self._ring,
                self._profile,
                self._name,
                next(self._thread_numbers),
                trace=self._trace,
            )
            self._local.session = session
            self._sessions.add(session)
        return session.execute(Command(operation, _to_bytes(key), _to_bytes(value), version))


def _to_bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


@contextlib.contextmanager
def observe(servers: Roster, name: str) -> Iterator[ClientConnection]:
    """Connect to one server to ask for its figures; runs no commands."""
    hello = Hello(name, [member.name for member in servers.servers], "observer", 0, 0, 0, 0)
    connection = ClientConnection(servers.server(name), hello)
    try:
        yield connection
    finally:
        connection.close()
