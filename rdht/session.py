"""One client thread's connections to the servers, and its commands in flight."""

import itertools
import logging
import os
import random
import select
import time
from collections.abc import Callable, Iterable, Sequence

from rdht import log
from rdht.coordinator import Command
from rdht.errors import AbortedError, NetworkError, ProtocolError, RdhtError
from rdht.execution import Execution
from rdht.limits import (
    CLIENT_TICK_S,
    CONNECT_TIMEOUT_S,
    MAX_BODY_BYTES,
    MAX_KEY_BYTES,
    MAX_KEYS,
    MAX_VALUE_BYTES,
    MAX_WINDOW,
    RECONNECT_PAUSE_S,
    RECONNECT_TIMEOUT_S,
)
from rdht.messages import Message, Reason, Status
from rdht.profiles import Profile
from rdht.ring import Ring
from rdht.roster import Roster
from rdht.traffic import Traffic, total
from rdht.transport import ClientConnection, Hello

_PART_BYTES = 32  # at least what a key of many costs beside itself and its value
_logger = logging.getLogger("rdht")


class Session:
    """One thread's connections to the servers, and up to `window` commands in flight on them.

    Commands on the same key keep their order. A lost connection is made again, and what was in
    flight on it goes on.
    """

    def __init__(  # noqa: PLR0913 - the identity of a session has these parts
        self,
        servers: Roster,
        ring: Ring,
        profile: Profile,
        client: str,
        thread: int,
        *,
        secret: bytes | None,
        trace: bool = False,
    ) -> None:
        """Be the thread number `thread` of the client named `client`; connect when needed."""
        self.on_begin: Callable[[Execution], None] | None = None  # BEFORE anything of it is sent
        self.on_end: Callable[[Execution], None] | None = None  # told of each command's end
        self.lost: dict[str, RdhtError] = {}  # servers, and how each was lost last
        self.conflicts = 0  # attempts that another transaction's lock refused
        self.changes = 0  # how often a connection was opened or closed
        self._roster = servers
        self._ring = ring
        self._profile = profile
        self._client = client
        self._thread = thread
        self._secret = secret
        self._trace = trace
        self._order = itertools.count(1)
        self._sequence = 0
        self._begun_s = 0.0  # when the last command was
        self._closed = False
        self._epochs: dict[int, int] = {}
        self._founded: dict[int, int] = {}  # which table each range belongs to
        self._lost_ranges: set[int] = set()  # those of a table that is no more
        self._running: dict[int, Execution] = {}
        self._paused: dict[int, Execution] = {}  # those between two attempts
        self._keys: dict[bytes, Execution] = {}  # of the commands in flight
        self._connections: dict[str, ClientConnection] = {}
        self._by_descriptor: dict[int, ClientConnection] = {}
        self._unflushed: dict[str, ClientConnection] = {}
        self._stuck: dict[str, ClientConnection] = {}  # those that took but a part of it
        self._reconnect_s: dict[str, float] = {}  # when to connect again to a server that was lost
        self._next_connect_s: dict[str, float] = {}
        self._poll = select.poll()
        self._past: dict[str, Traffic] = {}  # of connections that are closed
        self._renew()

    def _renew(self) -> None:
        """Go on as a new client, so that the servers settle what the old one left behind."""
        for server in list(self._connections):
            self._disconnect(server)
        self._incarnation = int.from_bytes(os.urandom(8)) | 1
        self._next_connect_s.clear()
        self._chance = random.Random(self._incarnation)  # noqa: S311 - no secret
        self._processes: dict[str, int] = {}  # incarnations of the servers, once connected
        self._must_renew = False

    def connect(self) -> None:
        """Open the connections to all servers; ConnectError names the first that fails."""
        for server in self._roster.servers:
            self._connect(server.name, CONNECT_TIMEOUT_S)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    @property
    def descriptors(self) -> list[int]:
        """Those of the open connections."""
        return list(self._by_descriptor)

    @property
    def is_whole(self) -> bool:
        """Whether all connections are open and take what is sent: nothing it does will wait."""
        return (
            len(self._connections) == len(self._roster.servers)
            and not self._stuck
            and not self._must_renew
            and not self._closed
        )

    @property
    def is_busy(self) -> bool:
        """Whether commands are in flight."""
        return bool(self._running)

    def traffic(self) -> dict[str, Traffic]:
        """Return what went to and from each server so far."""
        servers = [server.name for server in self._roster.servers]
        found = {server: total([self._past.get(server, Traffic())]) for server in servers}
        for server, connection in self._connections.items():
            found[server].add(connection.count())
        return found

    @property
    def is_closed(self) -> bool:
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

    # Commands.

    def execute(self, commands: Sequence[Command]) -> Execution:
        """Carry out commands, as one if they are several, and wait until they have ended."""
        execution = self.submit(commands)
        while execution.outcome is None:
            self.turn()
        if not self._running:
            self._push()  # no next frame is about to carry the last news
        return execution

    def submit(
        self, commands: Sequence[Command], window: int = 1, intended_s: float | None = None
    ) -> Execution:
        """Begin commands, as one if they are several, as soon as fewer than `window` run.

        `intended_s` (monotonic) is when they were to begin, if that is not now.
        """
        keys = [command.key for command in commands]
        _check(commands, keys)
        running = self._running
        while running and not self.has_room(keys, window):
            self.turn()
        if self._closed:
            why = "the session is closed"
            raise AbortedError(why, self.lost)
        if self._must_renew:
            self._push()
            self._renew()
        self._sequence += 1
        now_s = time.monotonic()
        if not running and now_s > self._begun_s + CLIENT_TICK_S:
            self._look_up()
        self._begun_s = now_s
        execution = Execution(
            self._incarnation,
            self._sequence,
            commands,
            self._ring,
            self._profile,
            self._epochs,
            now_s,
        )
        if intended_s is not None:
            execution.begun_s = intended_s
        running[self._sequence] = execution
        for key in keys:
            self._keys[key] = execution
        if self.on_begin:
            self.on_begin(execution)
        self._begin(execution)
        return execution

    def drain(self) -> None:
        """Wait until all commands in flight have ended, and send all news."""
        while self._running:
            self.turn()
        self._push()

    def wait(self, execution: Execution) -> None:
        """Wait until one command has ended."""
        while execution.outcome is None:
            self.turn()

    def has_room(self, keys: Iterable[bytes], window: int = 1) -> bool:
        """Return whether a command on these keys need not wait for one before it."""
        running = self._running
        if not running:
            return True
        return (
            len(running) < window
            and not self._must_renew
            and self._sequence + 2 - next(iter(running)) < MAX_WINDOW
            and not any(key in self._keys for key in keys)
        )

    def _begin(self, execution: Execution) -> None:
        if len(self._connections) < len(self._roster.servers):
            for server in execution.servers:  # all of them BEFORE the first is asked
                if server not in self._connections:
                    try:
                        self._connect(server, RECONNECT_TIMEOUT_S)
                    except NetworkError as error:
                        execution.postpone(str(error), time.monotonic(), self._jitter_reconnect)
                        self._settle(execution)
                        return
        if self._lost_ranges and not self._lost_ranges.isdisjoint(execution.ranges):
            execution.refuse(Reason.LOST)
            self._settle(execution)
            return
        self._send(execution, execution.begin())

    def _jitter(self, pause_s: float) -> float:
        return self._chance.uniform(0, pause_s)

    def _jitter_reconnect(self, _pause_s: float) -> float:
        return self._chance.uniform(0, RECONNECT_PAUSE_S)

    def _settle(self, execution: Execution) -> None:
        """Take note of a command that has ended, or waits for its next attempt."""
        if execution.outcome is None:
            if execution.due_s is not None:
                self._paused[execution.sequence] = execution
            return
        del self._running[execution.sequence]
        self._paused.pop(execution.sequence, None)
        for command in execution.commands:
            self._keys.pop(command.key, None)
        self.conflicts += execution.conflicts
        self._must_renew |= execution.is_unsettled
        if self.on_end:
            self.on_end(execution)

    # One turn: send, wait for something, take it.

    def act(self) -> float:
        """Send what is queued and do what is due; return how long (s) until something else is."""
        self.flush()
        if not (self._reconnect_s or self._paused or self._closed):
            return CLIENT_TICK_S
        timeout_s = self._act_on_time()
        self.flush()
        return timeout_s

    def take(self, descriptor: int) -> None:
        """Take what has arrived on a connection, unless it was closed meanwhile."""
        connection = self._by_descriptor.get(descriptor)
        if connection is not None:
            self._receive(connection)

    def turn(self, until_s: float | None = None) -> None:
        """Act, and wait for what arrives: for a while, but not past `until_s` (monotonic)."""
        timeout_s = self.act()
        if self._stuck:
            self._push()
        if until_s is not None:
            timeout_s = max(0.0, min(timeout_s, until_s - time.monotonic()))
            ready = select.select(list(self._by_descriptor), [], [], timeout_s)[0]
        elif len(self._running) == 1 and timeout_s == CLIENT_TICK_S and self._receive_owed():
            return
        else:
            ready = [descriptor for descriptor, _ in self._poll.poll(timeout_s * 1000)]
        for descriptor in ready:
            self.take(descriptor)
        if not ready:
            self.end_overdue()

    def _receive_owed(self) -> bool:
        """Take what one connection that owes answers has, without asking which has any."""
        for connection in self._connections.values():
            if connection.owed:
                self._receive(connection)
                return True
        return False

    def _look_up(self) -> None:
        """Take note of connections that ended while there was nothing to do."""
        for descriptor, _event in self._poll.poll(0):
            self._receive(self._by_descriptor[descriptor])

    def _act_on_time(self) -> float:
        """Do what is due; return how long (s) until something else is."""
        if self._closed:
            for execution in list(self._running.values()):
                execution.give_up()
                self._settle(execution)
            return 0.0
        self.end_overdue()
        now_s = time.monotonic()
        for server, reconnect_s in list(self._reconnect_s.items()):
            if reconnect_s <= now_s:
                self._reconnect(server, now_s)
        next_s = [now_s + CLIENT_TICK_S, *self._reconnect_s.values()]
        for execution in list(self._paused.values()):
            if execution.due_s is not None and execution.due_s > now_s:
                next_s.append(execution.due_s)
            else:
                del self._paused[execution.sequence]
                self._begin(execution)
        return max(0.0, min(next_s) - now_s)

    def end_overdue(self) -> None:
        """End the commands whose time is up."""
        now_s = time.monotonic()
        for execution in list(self._running.values()):
            if execution.deadline_s <= now_s:
                execution.give_up()
                self._settle(execution)

    def _receive(self, connection: ClientConnection) -> None:
        try:
            messages = connection.receive()
        except RdhtError as error:
            self._lose(connection.server, error)
            return
        if not messages:
            self.end_overdue()
        for message in messages:
            execution = self._running.get(message.name.sequence)
            if execution is None or message.name.client != self._incarnation:
                continue  # to an attempt that is over
            if self._trace:
                self._log_trace(connection.server, execution, message)
            now_s = time.monotonic()
            try:
                out = execution.receive(connection.server, message, now_s, self._jitter)
            except ProtocolError:  # this session understands the servers no more
                self.close()
                raise
            if out:
                self._send(execution, out)
            self._settle(execution)

    def _send(self, execution: Execution, out: Sequence[tuple[str, Message]]) -> None:
        for server, message in out:
            connection = self._connections.get(server)
            if connection is None:
                now_s = time.monotonic()
                more = execution.lost(server, now_s, self._jitter_reconnect, reached=False)
                self._reconnect_s.setdefault(server, now_s)
                self._send(execution, more)
                continue
            connection.queue(message)
            self._unflushed[server] = connection
            if self._trace:
                self._log_trace(server, execution, message)

    def flush(self) -> None:
        """Send what is queued, as far as the sockets take it now."""
        while self._unflushed:
            server, connection = self._unflushed.popitem()
            try:
                if not connection.flush():
                    self._stuck[server] = connection
            except NetworkError as error:
                self._lose(server, error)

    def _push(self) -> None:
        """Send what is queued, however long the sockets take."""
        self.flush()
        while self._stuck:
            server, connection = self._stuck.popitem()
            try:
                connection.push()
            except NetworkError as error:
                self._lose(server, error)
            self.flush()

    def _lose(self, server: str, error: RdhtError) -> None:
        """Take note of a lost connection; what was in flight on it goes on on another one."""
        self.lost[server] = error
        self._disconnect(server)
        now_s = time.monotonic()
        self._reconnect_s[server] = now_s  # also what ends the turns of a session that was closed
        for execution in list(self._running.values()):
            self._send(execution, execution.lost(server, now_s, self._jitter_reconnect))
            self._settle(execution)

    def _reconnect(self, server: str, now_s: float) -> None:
        """Connect again to a server that was lost, or try it later."""
        del self._reconnect_s[server]
        if server not in self._connections:
            try:
                self._connect(server, RECONNECT_TIMEOUT_S)
            except NetworkError:
                self._reconnect_s[server] = now_s + RECONNECT_PAUSE_S
                self.end_overdue()

    # Connections.

    def _connect(self, server: str, timeout_s: float) -> None:
        now_s = time.monotonic()
        if now_s < self._next_connect_s.get(server, 0.0):
            raise NetworkError(str(self.lost.get(server, f"{server} is to be connected again")))
        self._next_connect_s[server] = now_s + RECONNECT_PAUSE_S
        hello = Hello(
            server,
            list(self._ring.servers),
            self._client,
            self._thread,
            self._incarnation,
            self._ring.key_range,
            self._profile.frame_bytes,
            self._processes.get(server, 0),
        )
        address = self._roster.server(server)
        try:
            connection = ClientConnection(address, hello, self._secret, timeout_s)
        except NetworkError as error:
            self.lost[server] = error
            self._next_connect_s[server] = time.monotonic() + RECONNECT_PAUSE_S
            raise
        if connection.welcome["is_forgotten"]:
            connection.close()
            self._begin_anew()
            why = f"{server} had forgotten this client"
            raise NetworkError(why)
        self.lost.pop(server, None)
        self.changes += 1
        self._connections[server] = connection
        self._by_descriptor[connection.fileno()] = connection
        self._poll.register(connection.fileno(), select.POLLIN)
        self._processes[server] = connection.welcome["incarnation"]
        founded = connection.welcome["founded"]
        for number, known in connection.welcome["ranges"].items():
            self._note_range(int(number), known["epoch"], founded[number])
        # What still waits for an answer of this server is sent again BEFORE anything new is, and
        # only here: the same request twice on one connection could get two different votes.
        for execution in list(self._running.values()):
            self._send(execution, execution.resend(server))

    def _note_range(self, number: int, epoch: int, founded: int) -> None:
        """Take note of a range's epoch, and of a table that is not the one known so far."""
        self._epochs[number] = max(epoch, self._epochs.get(number, 0))
        if founded and self._founded.setdefault(number, founded) != founded:
            _logger.error("range %d was lost: the servers began it anew", number)
            self._lost_ranges.add(number)

    def _begin_anew(self) -> None:
        """Be a new client, after a server has forgotten this one."""
        for execution in list(self._running.values()):
            if execution.is_in_flight:
                execution.give_up()
                self._settle(execution)
        self._renew()
        for execution in self._running.values():
            execution.client = self._incarnation

    def _disconnect(self, server: str) -> None:
        connection = self._connections.pop(server, None)
        if connection is None:
            return
        self.changes += 1
        self._unflushed.pop(server, None)
        self._stuck.pop(server, None)
        del self._by_descriptor[connection.fileno()]
        self._poll.unregister(connection.fileno())
        self._past.setdefault(server, Traffic()).add(connection.count())  # BEFORE it is closed
        connection.close()

    def _log_trace(self, server: str, execution: Execution, message: Message) -> None:
        operation, key, value, version = execution.commands[0]
        request = Message(
            Status.REQUEST, message.name, operation, version=version, key=key, value=value
        )
        order = next(self._order)
        line = log.trace_line(server, self._client, self._thread, request, message.status, order)
        _logger.info(line)


def _check(commands: Sequence[Command], keys: list[bytes]) -> None:
    """Raise ValueError for what no server would take."""
    if len(keys) != 1 and not 0 < len(set(keys)) == len(keys) <= MAX_KEYS:
        why = f"a command on {len(keys)} keys; allowed are 1 to {MAX_KEYS}, each once"
        raise ValueError(why)
    if len(commands) > 1:
        size = sum(len(command.key) + len(command.value) + _PART_BYTES for command in commands)
        if size > MAX_BODY_BYTES - _PART_BYTES:
            why = f"keys and values of {size} bytes in one command; they share {MAX_BODY_BYTES}"
            raise ValueError(why)
    for command in commands:
        if not 0 < len(command.key) <= MAX_KEY_BYTES or len(command.value) > MAX_VALUE_BYTES:
            why = (
                f"a key of {len(command.key)} and a value of {len(command.value)} bytes; allowed "
                f"are 1 to {MAX_KEY_BYTES} and up to {MAX_VALUE_BYTES}"
            )
            raise ValueError(why)
