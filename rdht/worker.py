"""A worker: one thread, one epoll, its own share of a server's connections.

So 8 workers serve 40 sockets and more. A worker reads what is there, has every message answered,
and sends the answers with one call.
"""

import select
import threading
from collections import Counter
from collections.abc import Callable

from rdht.errors import NetworkError, ProtocolError
from rdht.limits import HOUSEKEEPING_S, RECEIVE_BYTES
from rdht.messages import Message, Status
from rdht.transport import ServerConnection


class Worker(threading.Thread):
    """A thread with its own epoll and its own connections."""

    def __init__(
        self,
        number: int,
        answer: Callable[[ServerConnection, Message], Message],
        ended: Callable[[ServerConnection, Exception | None], None],
    ) -> None:
        """Answer each message by `answer`; report each connection that ends to `ended`.

        `ended` is called BEFORE the connection is closed, so it may still write.
        """
        super().__init__(name=f"worker-{number}", daemon=True)
        self.connections: dict[int, ServerConnection] = {}
        self.messages: Counter[Status] = Counter()
        self._answer = answer
        self._ended = ended
        self._epoll = select.epoll()
        self._stopping = False
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._closed_bytes = [0, 0]  # received and sent by connections that are closed

    def adopt(self, connection: ServerConnection) -> None:
        """Take over a new connection; called from the accepting thread."""
        self.connections[connection.fileno()] = connection
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def stop(self) -> None:
        """End the thread within HOUSEKEEPING_S."""
        self._stopping = True

    def hang_up_silent(self, now_s: float) -> None:
        """End connections that did not finish their handshake in time; from any thread."""
        for connection in list(self.connections.values()):
            if connection.hello is None and connection.deadline_s <= now_s:
                connection.hang_up()

    def bytes_moved(self) -> tuple[int, int]:
        """Return how many bytes were received and sent, by closed connections too."""
        received, sent = self._closed_bytes
        for connection in list(self.connections.values()):
            received += connection.bytes_received
            sent += connection.bytes_sent
        return received, sent

    def run(self) -> None:
        """Serve until stopped, then close all connections."""
        while not self._stopping:
            for descriptor, event in self._epoll.poll(HOUSEKEEPING_S):
                connection = self.connections[descriptor]
                try:
                    if event & select.EPOLLOUT and not connection.flush():
                        self._epoll.modify(descriptor, select.EPOLLIN)
                    if event & ~select.EPOLLOUT:
                        self._serve(connection)
                except (NetworkError, ProtocolError) as error:
                    self._close(connection, error)
        for connection in list(self.connections.values()):
            self._close(connection, None)
        self._epoll.close()

    def _serve(self, connection: ServerConnection) -> None:
        answers: list[Message] = []
        try:
            for message in connection.read(self._buffer):
                self.messages[message.status] += 1
                answers.append(self._answer(connection, message))
        finally:
            if answers and connection.write(answers):
                self._epoll.modify(connection.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _close(self, connection: ServerConnection, error: Exception | None) -> None:
        self._ended(connection, error)
        del self.connections[connection.fileno()]
        self._closed_bytes[0] += connection.bytes_received
        self._closed_bytes[1] += connection.bytes_sent
        connection.close()  # which also takes it off the epoll
