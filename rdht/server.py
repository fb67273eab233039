"""A server process: connections, workers, and the one lock around what they decide."""

import functools
import ipaddress
import itertools
import json
import logging
import os
import select
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from rdht import log, scan
from rdht.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionLostError,
    LocalProtocolError,
    NetworkError,
    RdhtError,
    RemoteProtocolError,
)
from rdht.journal import Journal
from rdht.limits import (
    HANDSHAKE_TIMEOUT_S,
    HOUSEKEEPING_S,
    JOIN_RETRY_S,
    MAX_CONNECTIONS,
    STOP_TIMEOUT_S,
)
from rdht.link import Link
from rdht.messages import Destination, Message, Name, Outgoing, Status
from rdht.participant import Participant
from rdht.rejoin import Rejoin
from rdht.replica import Mode
from rdht.ring import layout
from rdht.roster import Roster
from rdht.table import entries_of
from rdht.transport import ClientConnection, Hello, ServerConnection, listen
from rdht.worker import Worker

_COMMANDS = {Status.REQUEST, Status.PROCEED, Status.ABORT, Status.READ}
_FIGURES = {Status.STATS, Status.SCAN}
_REJOINING = {Status.JOIN, Status.COPY, Status.JOINED, Status.KNOWN}
_REASON_CHARACTERS = 500  # of what a client said, in the log and in an ERROR
_Bound = list[tuple[ServerConnection | Link, Message]]  # what goes where
_TRACED = 10_000  # requests whose keys the log of their answers repeats
_logger = logging.getLogger("rdht")


class Server:
    """One server of the table."""

    def __init__(
        self,
        roster: Roster,
        name: str,
        workers: int,
        *,
        durable: Path | None = None,
        trace: bool = False,
    ) -> None:
        """Listen on the address that the roster gives to the server `name`.

        With `durable`, a folder, whatever it promises is on disk first. Raises ConfigurationError
        if the roster names no such server, or has no secret and others can reach the address;
        NetworkError if the address is not to be had; StorageError if the folder is not.
        """
        self.roster = roster
        self.me = roster.server(name)
        self.key_range = 0  # that of the first client which runs commands; all others must agree
        self.rejected = 0
        self.unauthenticated = 0
        self.incarnation = int.from_bytes(os.urandom(8)) | 1
        self._secret = roster.secret()
        self._names = tuple(server.name for server in roster.servers)
        self._trace = trace
        self._order = itertools.count(1)
        self._traced: dict[Name, Message] = {}
        self._lock = threading.Lock()  # guards what is decided: participant, rejoin, key_range
        self._started_s = time.monotonic()
        self._current: dict[Destination, ServerConnection] = {}  # of each client and server
        self._arriving: dict[Destination, ServerConnection] = {}  # to be that once it is welcomed
        self._listener = listen(self.me.address, self.me.port)
        try:
            self._check_reach()
            self._journal = Journal(durable, self._lock, self._deliver) if durable else None
            self.participant = self._recover()
        except RdhtError:
            self._listener.close()
            raise
        self.rejoin = Rejoin(self.participant, self._names, self.incarnation)
        self._workers = [Worker(number, self._take, self._ended) for number in range(workers)]
        self._links = {
            other: Link(other, functools.partial(self._connect, other))
            for other in self._names
            if other != name
        }

    def _recover(self) -> Participant:
        if self._journal is None:
            return self._make_participant()
        participant, self.key_range = self._journal.recover(
            self._make_participant, time.monotonic()
        )
        return participant

    def _make_participant(self) -> Participant:
        durable = self._journal is not None
        return Participant(self.me.name, layout(self.roster), durable=durable)

    def _check_reach(self) -> None:
        if self._secret is None:
            address = self._listener.getsockname()[0]
            if not ipaddress.ip_address(address).is_loopback:
                why = (
                    f"others can reach server {self.me.name} at {address}: "
                    'its roster needs a "secret_file"'
                )
                raise ConfigurationError(why)

    def serve(self, stop: threading.Event) -> None:
        """Accept clients until `stop` is set, then end within STOP_TIMEOUT_S."""
        for thread in (*self._workers, *self._links.values()):
            thread.start()
        if self._journal:
            self._journal.start()
        count = len(self._workers)
        _logger.info("listening on %s port %d, %d workers", self.me.address, self.me.port, count)
        with select.epoll() as poll:
            poll.register(self._listener.fileno(), select.EPOLLIN)
            while not stop.is_set():
                for _ in poll.poll(HOUSEKEEPING_S if self.is_ready else JOIN_RETRY_S / 2):
                    self._accept()
                self._tidy(time.monotonic())
        self._listener.close()
        self._stop()

    @property
    def is_ready(self) -> bool:
        """Whether all ranges are served."""
        return all(one.mode is Mode.SERVING for one in self.participant.replicas.values())

    def stats(self) -> dict[str, Any]:
        """Return the server's figures, as `python -m rdht status` prints them."""
        participant = self.participant
        with self._lock:
            keys = sum(one.table.values_held for one in participant.replicas.values())
            locks, in_doubt = len(participant.locks.holders), participant.in_doubt
            ranges = self._ranges()
        messages: Counter[Status] = Counter()
        received = sent = 0
        for worker in self._workers:
            messages.update(worker.messages_received())
            worker_received, worker_sent = worker.bytes_moved()
            received, sent = received + worker_received, sent + worker_sent
        return {
            "server": self.me.name,
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "workers": len(self._workers),
            "connections": self._connections(),
            "key_range": self.key_range,
            "ranges": ranges,
            "durable": self._journal is not None,
            "unsafe": participant.unsafe,
            "keys": keys,
            "locks": locks,
            "in_doubt": in_doubt,
            "rejected": self.rejected,
            "unauthenticated": self.unauthenticated,
            "messages_received": {status.name: messages[status] for status in sorted(messages)},
            "bytes_received": received,
            "bytes_sent": sent,
        }

    def _ranges(self) -> dict[str, dict[str, Any]]:
        """Return mode and epoch of each range by its number; under the lock."""
        return {
            str(number): {"mode": replica.mode.value, "epoch": replica.epoch}
            for number, replica in self.participant.replicas.items()
        }

    def _connections(self) -> int:
        return sum(len(worker.connections) for worker in self._workers)

    def _accept(self) -> None:
        try:
            sock, address = self._listener.accept()
        except BlockingIOError:  # the client gave up in between
            return
        except OSError as error:  # out of descriptors: go on with those who are here
            _logger.warning("cannot accept a connection: %s", error.strerror)
            time.sleep(HOUSEKEEPING_S)
            return
        deadline_s = time.monotonic() + HANDSHAKE_TIMEOUT_S
        try:
            connection = ServerConnection(sock, f"{address[0]}:{address[1]}", deadline_s)
        except OSError:  # the client is gone already
            sock.close()
            return
        if self._connections() >= MAX_CONNECTIONS:
            why = f"{MAX_CONNECTIONS} connections are open, which is the limit"
            self._reject(connection, why)
            connection.close()
            return
        min(self._workers, key=lambda worker: len(worker.connections)).adopt(connection)

    # What arrives.

    def _take(self, connection: ServerConnection, messages: list[Message]) -> None:
        """Deal with a batch of messages; RdhtError ends the connection."""
        sender, hello = connection.sender, connection.hello
        if hello is None:
            for message in messages:
                self._shake_hands(connection, message)
            return
        if sender is None or messages[0].status in _FIGURES:
            connection.write([self._tell_figures(connection, one) for one in messages])
            return
        out: Outgoing = []
        bound: _Bound = []
        try:
            with self._lock:
                if self._current.get(sender) is connection:  # no newer one has taken over
                    try:
                        self._decide(sender, messages, out)
                        if self._trace:
                            self._log_trace(hello, messages, out)
                    finally:
                        bound = self._keep(out)
        finally:
            self._deliver(bound)

    def _decide(self, sender: Destination, messages: list[Message], out: Outgoing) -> None:
        """Add what is to be sent because of a batch of messages; under the lock."""
        now_s = time.monotonic()
        for message in messages:
            if isinstance(sender, str):
                out += self._handle_peer(sender, message, now_s)
            elif message.name.client == sender:
                out += self.participant.handle(message, now_s)
            else:
                why = "the transaction bears another client's name"
                raise RemoteProtocolError(why)

    def _handle_peer(self, server: str, message: Message, now_s: float) -> Outgoing:
        if message.status in _REJOINING:
            return self.rejoin.handle(server, message, now_s)
        return self.participant.handle_peer(server, message, now_s)

    def _keep(self, out: Outgoing) -> _Bound:
        """Return what may be sent now: a durable server puts its promises on disk first.

        Under the lock. Each answer is bound to the connection that its client has now: on a newer
        one it would be an answer to what is sent again there. What goes to servers is handed to
        the links here: threads that deliver what they have decided may overtake each other, and a
        join that comes after the news of its end would start it again.
        """
        bound: _Bound = []
        to_servers = False
        for to, message in out:
            if isinstance(to, str):
                bound.append((self._links[to], message))
                to_servers = True
            elif (connection := self._current.get(to)) is not None:
                bound.append((connection, message))
        if self._journal:
            bound = self._journal.take(bound)
        return self._hand_over(bound) if to_servers else bound

    def _hand_over(self, bound: _Bound) -> _Bound:
        """Give the links what is theirs; return the rest."""
        left: _Bound = []
        for to, message in bound:
            if isinstance(to, Link):
                to.send((message,))
            else:
                left.append((to, message))
        return left

    def _deliver(self, bound: _Bound) -> None:
        """Send messages; not under the lock."""
        batches: dict[ServerConnection | Link, list[Message]] = {}
        for to, message in bound:
            batches.setdefault(to, []).append(message)
        for to, messages in batches.items():
            if isinstance(to, Link):
                to.send(messages)
                continue
            try:
                to.write(messages)
            except NetworkError:
                to.hang_up()
            except LocalProtocolError as error:  # its frames' numbers are used up
                _logger.error("cannot answer %s: %s", to.peer, error)  # noqa: TRY400 - the text says it all
                to.hang_up()

    def _tell_figures(self, connection: ServerConnection, message: Message) -> Message:
        if message.status is Status.STATS:
            return Message(Status.STATS, value=json.dumps(self.stats()).encode())
        if message.status is Status.SCAN:
            if connection.scan is None:
                with self._lock:
                    views = [one.table.pages() for one in self.participant.replicas.values()]
                pages = itertools.chain.from_iterable(views)
                connection.scan = itertools.chain.from_iterable(map(entries_of, pages))
            page = scan.pack_page(connection.scan)
            connection.scan = connection.scan if page else None
            return Message(Status.SCAN, value=page)
        why = f"a server takes no {message.status.name} message here"
        raise RemoteProtocolError(why)

    # Connections.

    def _shake_hands(self, connection: ServerConnection, message: Message) -> None:
        if self._secret is None:
            hello = Hello.from_message(message)
            self._check(hello)
        elif connection.handshake is None:
            hello = Hello.from_message(message)
            self._check(hello)  # BEFORE this server proves anything in another one's name
            connection.challenge(message, hello, self._secret)
            return
        else:
            hello = connection.accept_proof(message)
        self._welcome(connection, hello)

    def _check(self, hello: Hello) -> None:
        if hello.server != self.me.name:
            why = f"this is server {self.me.name}, not {hello.server}: the roster is wrong"
            raise RemoteProtocolError(why)
        if tuple(hello.servers) != self._names:
            why = f"the client's roster names {hello.servers}, this server's {list(self._names)}"
            raise RemoteProtocolError(why)
        if 0 < hello.key_range < len(self._names):
            why = f"key range {hello.key_range} is below the number of servers, {len(self._names)}"
            raise RemoteProtocolError(why)
        if hello.is_server and hello.client not in self._links:
            why = f"the roster names no other server {hello.client!r}"
            raise RemoteProtocolError(why)

    def _welcome(self, connection: ServerConnection, hello: Hello) -> None:
        sender = hello.sender
        document: dict[str, Any] = {"server": self.me.name, "incarnation": self.incarnation}
        old = None
        bound: _Bound = []
        with self._lock:
            self._agree_on(hello.key_range)
            out: Outgoing | None = []
            if isinstance(sender, int):
                resume = hello.resumes == self.incarnation
                out = self.participant.connect(sender, time.monotonic(), resume=resume)
            if out is not None and sender is not None:
                old = self._current.pop(sender, None)
                bound = self._keep(out)
                self._arriving[sender] = connection
            document |= {"key_range": self.key_range, "ranges": self._ranges()}
            document["is_forgotten"] = out is None
            document["founded"] = {
                str(number): replica.founded
                for number, replica in self.participant.replicas.items()
            }
        self._deliver(bound)
        if old is not None:
            old.hang_up()
        try:
            connection.welcome(hello, document)
        except NetworkError:
            self._leave(sender, connection)
            raise
        if sender is None:
            return
        with self._lock:  # what is sent to it from now on comes AFTER the welcome
            is_newest = self._arriving.get(sender) is connection
            if is_newest:
                self._current[sender] = self._arriving.pop(sender)
        if not is_newest and not document["is_forgotten"]:
            connection.hang_up()  # the client has given it up, and has made another one

    def _agree_on(self, key_range: int) -> None:
        """Place keys as the first client does, or refuse one who does it otherwise."""
        known = self.key_range or self.rejoin.key_range
        if key_range and not known:
            known = key_range
            if self._journal:
                self._journal.keep_key_range(key_range)
        if key_range not in (0, known):
            why = (
                f"the keys are placed with key range {known}, not {key_range}: "
                f"use --key-range {known}, or restart the servers"
            )
            raise RemoteProtocolError(why)
        self.key_range = self.rejoin.key_range = known

    def _connect(self, other: str, timeout_s: float) -> ClientConnection:
        """Open this server's link to another one."""
        hello = Hello(
            *(other, list(self._names), self.me.name, 0, self.incarnation, 0, 0),
            is_server=True,
        )
        return ClientConnection(self.roster.server(other), hello, self._secret, timeout_s)

    def _ended(self, connection: ServerConnection, error: Exception | None) -> None:
        """Take note of a connection's end; settle what its client had prepared."""
        if error is None:
            self._tell(connection, f"server {self.me.name} has stopped".encode())
        elif not isinstance(error, ConnectionLostError):
            self._reject(connection, error)
        elif connection.handshake is not None:
            why = "left after this server's proof: its secret may be another one"
            self._reject(connection, AuthenticationError(why))
        self._leave(connection.sender, connection)

    def _leave(self, sender: Destination | None, connection: ServerConnection) -> None:
        """Settle what a client has left behind, unless a newer connection has taken over."""
        if sender is None:
            return
        bound: _Bound = []
        with self._lock:
            mine = [one for one in (self._current, self._arriving) if one.get(sender) is connection]
            for connections in mine:
                del connections[sender]
            if mine and isinstance(sender, int) and sender in self.participant.memory.clients:
                bound = self._keep(self.participant.disconnect(sender, time.monotonic()))
        self._deliver(bound)

    def _reject(self, connection: ServerConnection, error: Exception | str) -> None:
        printable = "".join(c if c.isprintable() else " " for c in str(error)[:_REASON_CHARACTERS])
        shown = printable.encode("ascii", "backslashreplace")
        with self._lock:
            self.rejected += 1
            self.unauthenticated += isinstance(error, AuthenticationError)
        _logger.warning("closed the connection from %s: %s", connection.peer, shown.decode())
        self._tell(connection, shown)

    def _tell(self, connection: ServerConnection, why: bytes) -> None:
        with suppress(NetworkError):
            connection.write([Message(Status.ERROR, value=why)])

    def _tidy(self, now_s: float) -> None:
        with self._lock:
            bound = self._keep(self.participant.tick(now_s) + self.rejoin.tick(now_s))
        self._deliver(bound)
        for worker in self._workers:
            worker.hang_up_silent(now_s)
        if self._journal:
            self._journal.tidy(self.key_range)

    def _stop(self) -> None:
        """Refuse what is new, settle what is prepared, leave clean files, close the rest."""
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        with self._lock:
            self.participant.stopping = True
        while self._in_doubt() and time.monotonic() < deadline_s:
            time.sleep(0.01)
            self._tidy(time.monotonic())
        figures = self.stats()
        threads: list[Worker | Link] = [*self._workers, *self._links.values()]
        for thread in threads:
            thread.stop()
        for thread in threads:
            thread.join()
        if self._journal:
            self._journal.stop(self.key_range)
        _logger.info("stopped %s", json.dumps(figures))

    def _in_doubt(self) -> int:
        with self._lock:
            return self.participant.in_doubt

    def _log_trace(self, hello: Hello, messages: list[Message], out: Outgoing) -> None:
        """Log what was received and what is sent because of it; under the lock."""
        for message in messages:
            if message.key:
                self._traced[message.name] = message
            self._log_message(hello.client, hello.thread, message)
        while len(self._traced) > _TRACED:
            del self._traced[next(iter(self._traced))]
        for to, message in out:
            connection = self._current.get(to)
            if connection is not None and connection.hello is not None:
                self._log_message(connection.hello.client, connection.hello.thread, message)
            else:
                self._log_message(str(to), 0, message)

    def _log_message(self, client: str, thread: int, message: Message) -> None:
        request = self._traced.get(message.name, message)
        order = next(self._order)
        line = log.trace_line(self.me.name, client, thread, request, message.status, order)
        _logger.info(line)
