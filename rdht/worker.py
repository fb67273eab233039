"""A worker: one thread, one epoll, its own share of a server's connections.

So one serves 40 sockets, and 8 do. A worker reads what is there and has it dealt with as one batch;
what is to be sent because of it, any worker may write.
"""

import select
import threading
from collections import Counter
from collections.abc import Callable

from rdht.errors import RdhtError
from rdht.limits import HOUSEKEEPING_S
from rdht.messages import Message, Status
from rdht.transport import ServerConnection


class Worker(threading.Thread):
    """A thread with its own epoll and its own connections."""

    def __init__(
        self,
        number: int,
        take: Callable[[ServerConnection, list[Message]], None],
        ended: Callable[[ServerConnection, Exception | None], None],
    ) -> None:
        """Hand what arrives to `take`; report each connection that ends to `ended`.

        `ended` is called BEFORE the connection is closed, so it may still write.
        """
        super().__init__(name=f"worker-{number}", daemon=True)
        self.connections: dict[int, ServerConnection] = {}
        self._take = take
        self._ended = ended
        self._epoll = select.epoll()
        self._stopping = False
        self._closed_bytes = [0, 0]  # received and sent by connections that are closed
        self._closed_messages: Counter[Status] = Counter()

    def adopt(self, connection: ServerConnection) -> None:
        """Take over a new connection; called from the accepting thread."""
        descriptor = connection.fileno()

        def want_write(wanted: bool) -> None:  # noqa: FBT001 - the question is its only argument
            self._epoll.modify(descriptor, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

        connection.want_write = want_write
        self.connections[descriptor] = connection
        self._epoll.register(descriptor, select.EPOLLIN)

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

    def messages_received(self) -> Counter[Status]:
        """Return how many messages came of each kind, on closed connections too."""
        messages = self._closed_messages.copy()
        for connection in list(self.connections.values()):
            messages.update(connection.messages_received())
        return messages

    def run(self) -> None:
        """Serve until stopped, then close all connections."""
        while not self._stopping:
            for descriptor, event in self._epoll.poll(HOUSEKEEPING_S):
                connection = self.connections[descriptor]
                try:
                    if event & select.EPOLLOUT:
                        connection.flush()
                    if event & ~select.EPOLLOUT:
                        self._serve(connection)
                except RdhtError as error:
                    self._close(connection, error)
        for connection in list(self.connections.values()):
            self._close(connection, None)
        self._epoll.close()

    def _serve(self, connection: ServerConnection) -> None:
        messages = connection.read()
        if messages:
            self._take(connection, messages)

    def _close(self, connection: ServerConnection, error: Exception | None) -> None:
        self._ended(connection, error)
        del self.connections[connection.fileno()]
        self._closed_messages.update(connection.messages_received())
        self._closed_bytes[0] += connection.bytes_received
        self._closed_bytes[1] += connection.bytes_sent
        connection.close()  # which also takes it off the epoll
