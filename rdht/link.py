"""A link: one server's connection to another one, for what servers have to tell each other.

It carries messages one way; the other server answers on its own link. While it is down, whatever
is to be sent is dropped: the protocol says everything again that matters, and nothing that was
meant for a process that died may reach the one after it.
"""

import logging
import threading
from collections.abc import Callable, Iterable

from rdht.errors import NetworkError, RdhtError
from rdht.limits import HOUSEKEEPING_S, MAX_LINK_MESSAGES, RECONNECT_TIMEOUT_S
from rdht.messages import Message
from rdht.transport import ClientConnection

_logger = logging.getLogger("rdht")


class Link(threading.Thread):
    """The thread that keeps the connection to one other server, and sends."""

    def __init__(self, server: str, connect: Callable[[float], ClientConnection]) -> None:
        """Send to `server`, to which `connect` opens a connection within so many seconds."""
        super().__init__(name=f"link-{server}", daemon=True)
        self.server = server
        self.is_up = False
        self._connect = connect
        self._queue: list[Message] = []
        self._changed = threading.Condition()
        self._stopping = False

    def send(self, messages: Iterable[Message]) -> None:
        """Have messages sent, unless the link is down or far behind."""
        with self._changed:
            if self.is_up and len(self._queue) < MAX_LINK_MESSAGES:
                self._queue += messages
                self._changed.notify()

    def stop(self) -> None:
        """End the thread within RECONNECT_TIMEOUT_S, after what is queued."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self) -> None:
        """Connect again and again, and send what is queued, until stopped."""
        said = ""
        while not self._stopping:
            try:
                connection = self._connect(RECONNECT_TIMEOUT_S)
            except NetworkError as error:
                if str(error) != said:
                    said = str(error)
                    _logger.warning("no link to %s: %s", self.server, said)
                with self._changed:
                    self._changed.wait(HOUSEKEEPING_S)
                continue
            said = ""
            _logger.info("linked to %s", self.server)
            try:
                self._send_on(connection)
            except RdhtError as error:
                _logger.warning("lost the link to %s: %s", self.server, error)
            finally:
                with self._changed:
                    self.is_up = False
                    self._queue.clear()
                connection.close()

    def _send_on(self, connection: ClientConnection) -> None:
        with self._changed:
            self.is_up = True
        while True:
            with self._changed:
                while not (self._queue or self._stopping):
                    self._changed.wait()
                messages, self._queue = self._queue, []
            if not messages:
                return
            for message in messages:
                connection.queue(message)
            connection.push()
