"""A server process: it accepts connections, and answers what its workers read from them."""

import itertools
import json
import logging
import select
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from rdht import log, scan
from rdht.errors import NetworkError, ProtocolError, RemoteProtocolError
from rdht.limits import HANDSHAKE_TIMEOUT_S, HOUSEKEEPING_S, MAX_CONNECTIONS, STOP_TIMEOUT_S
from rdht.messages import Message, Status
from rdht.participant import Participant
from rdht.roster import Roster
from rdht.transport import Hello, ServerConnection, listen
from rdht.worker import Worker

_COMMANDS = {Status.REQUEST, Status.PROCEED, Status.ABORT}
_REASON_CHARACTERS = 500  # of what a client said, in the log and in an ERROR
_logger = logging.getLogger("rdht")


class Server:
    """One server of the table."""

    def __init__(self, roster: Roster, name: str, workers: int, *, trace: bool = False) -> None:
        """Listen on the address that the roster gives to the server `name`.

        Raises ConfigurationError if it names no such server, NetworkError if the address is
        not to be had.
        """
        self.roster = roster
        self.me = roster.server(name)
        self.participant = Participant()
        self.key_range = 0  # that of the first client which runs commands; all others must agree
        self.rejected = 0
        self._trace = trace
        self._order = itertools.count(1)
        self._lock = threading.Lock()  # guards participant and key_range
        self._started_s = time.monotonic()
        self._listener = listen(self.me.address, self.me.port)
        self._workers = [Worker(number, self._answer, self._ended) for number in range(workers)]

    def serve(self, stop: threading.Event) -> None:
        """Accept clients until `stop` is set, then end within STOP_TIMEOUT_S."""
        for worker in self._workers:
            worker.start()
        count = len(self._workers)
        _logger.info("listening on %s port %d, %d workers", self.me.address, self.me.port, count)
        with select.epoll() as poll:
            poll.register(self._listener.fileno(), select.EPOLLIN)
            while not stop.is_set():
                for _ in poll.poll(HOUSEKEEPING_S):
                    self._accept()
                self._tidy(time.monotonic())
        self._listener.close()
        self._stop()

    def stats(self) -> dict[str, Any]:
        """Return the server's figures, as `python -m rdht status` prints them."""
        with self._lock:
            entries = list(self.participant.table.values())
            locks, in_doubt = len(self.participant.locks), len(self.participant.prepared)
        messages: Counter[Status] = Counter()
        received = sent = 0
        for worker in self._workers:
            messages.update(worker.messages.copy())
            worker_received, worker_sent = worker.bytes_moved()
            received, sent = received + worker_received, sent + worker_sent
        return {
            "server": self.me.name,
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "workers": len(self._workers),
            "connections": self._connections(),
            "key_range": self.key_range,
            "keys": sum(entry.value is not None for entry in entries),
            "locks": locks,
            "in_doubt": in_doubt,
            "rejected": self.rejected,
            "messages_received": {status.name: messages[status] for status in sorted(messages)},
            "bytes_received": received,
            "bytes_sent": sent,
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

    def _answer(self, connection: ServerConnection, message: Message) -> Message:
        """Answer one message; ProtocolError ends the connection."""
        hello = connection.hello
        if hello is None:
            return self._welcome(connection, Hello.from_message(message))
        if message.status in _COMMANDS and hello.key_range:
            if message.name.client != hello.incarnation:
                why = "the transaction bears another client's name"
                raise RemoteProtocolError(why)
            with self._lock:
                answer = self.participant.handle(message, time.monotonic())
            if self._trace:
                self._log_trace(hello, message, answer)
            return answer
        if message.status is Status.STATS:
            return Message(Status.STATS, value=json.dumps(self.stats()).encode())
        if message.status is Status.SCAN:
            if connection.scan is None:
                with self._lock:
                    connection.scan = iter(list(self.participant.table.items()))
            page = scan.pack_page(connection.scan)
            connection.scan = connection.scan if page else None
            return Message(Status.SCAN, value=page)
        why = f"a server takes no {message.status.name} message here"
        raise RemoteProtocolError(why)

    def _welcome(self, connection: ServerConnection, hello: Hello) -> Message:
        names = [server.name for server in self.roster.servers]
        if hello.server != self.me.name:
            why = f"this is server {self.me.name}, not {hello.server}: the roster is wrong"
            raise RemoteProtocolError(why)
        if hello.servers != names:
            why = f"the client's roster names {hello.servers}, this server's {names}"
            raise RemoteProtocolError(why)
        if 0 < hello.key_range < len(names):
            why = f"key range {hello.key_range} is below the number of servers, {len(names)}"
            raise RemoteProtocolError(why)
        with self._lock:
            self.key_range = self.key_range or hello.key_range
        if hello.key_range not in (0, self.key_range):
            why = (
                f"the keys are placed with key range {self.key_range}, not {hello.key_range}: "
                f"use --key-range {self.key_range}, or restart the servers"
            )
            raise RemoteProtocolError(why)
        connection.hello = hello
        welcome = {"server": self.me.name, "key_range": self.key_range}
        return Message(Status.WELCOME, value=json.dumps(welcome).encode())

    def _ended(self, connection: ServerConnection, error: Exception | None) -> None:
        """Take note of a connection's end; whatever its client had prepared is aborted."""
        if error is None:
            self._tell(connection, f"server {self.me.name} has stopped".encode())
        elif isinstance(error, ProtocolError):
            self._reject(connection, str(error))
        if connection.hello is not None:
            with self._lock:
                names = self.participant.abandon(connection.hello.incarnation)
            for name in names:
                _logger.warning("aborted transaction %s: its client is gone", tuple(name))

    def _reject(self, connection: ServerConnection, why: str) -> None:
        printable = "".join(c if c.isprintable() else " " for c in why[:_REASON_CHARACTERS])
        shown = printable.encode("ascii", "backslashreplace")
        with self._lock:
            self.rejected += 1
        _logger.warning("closed the connection from %s: %s", connection.peer, shown.decode())
        self._tell(connection, shown)

    def _tell(self, connection: ServerConnection, why: bytes) -> None:
        with suppress(NetworkError):
            connection.write([Message(Status.ERROR, value=why)])

    def _tidy(self, now_s: float) -> None:
        with self._lock:
            expired = self.participant.expire(now_s)
        for name in expired:
            _logger.warning("aborted transaction %s: no decision in time", tuple(name))
        for worker in self._workers:
            worker.hang_up_silent(now_s)

    def _stop(self) -> None:
        """Refuse what is new, wait for what is prepared, close the rest."""
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        with self._lock:
            self.participant.stopping = True
        while self.participant.prepared and time.monotonic() < deadline_s:
            time.sleep(0.01)
        figures = self.stats()
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.join()
        _logger.info("stopped %s", json.dumps(figures))

    def _log_trace(self, hello: Hello, request: Message, answer: Message) -> None:
        for status in (request.status, answer.status):
            line = log.trace_line(
                self.me.name, hello.client, hello.thread, request, status, next(self._order)
            )
            _logger.info(line)
