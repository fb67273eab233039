"""An empty round trip through the code that ours speaks with: no command can be faster.

    python3 -m benchmarks.echo --address ADDRESS --port PORT

Frames, tags, handshake, connections and the worker are those of `rdht/`; the server writes each
message back. peers.py has the client's side, as it has that of a peer.
"""

import argparse
import select
import time
import zlib
from collections.abc import Sequence

from rdht.limits import CONNECT_TIMEOUT_S
from rdht.messages import Message, Name, Operation, Status
from rdht.roster import DEFAULT_KEY_RANGE, ServerAddress
from rdht.transport import ClientConnection, Hello, ServerConnection, listen
from rdht.worker import Worker

_SECRET = b"of nothing: both sides shall tag"
_CLIENT = 1


class Echo:
    """Sends what ours sends for a command first, and waits for the answer."""

    def __init__(self, servers: Sequence[tuple[str, int]]) -> None:
        """Connect to all."""
        hello = Hello("echo", ["echo"], "client", 0, _CLIENT, DEFAULT_KEY_RANGE, 0)
        addresses = [ServerAddress("echo", host, host, port) for host, port in servers]
        self._connections = [ClientConnection(one, hello, _SECRET) for one in addresses]
        self._sequence = 0

    def get(self, key: bytes) -> bool:
        """Exchange the frame of a get with the key's first server."""
        self._exchange(Status.READ, Operation.GET, key, b"")
        return True

    def put(self, key: bytes, value: bytes) -> None:
        """Exchange the frame of a put with the key's first server."""
        self._exchange(Status.REQUEST, Operation.ADD, key, value)

    def _exchange(self, status: Status, operation: Operation, key: bytes, value: bytes) -> None:
        connection = self._connections[zlib.crc32(key) % len(self._connections)]
        self._sequence += 1
        name = Name(_CLIENT, self._sequence, 0)
        connection.queue(Message(status, name, operation, key=key, value=value))
        connection.flush()
        while not connection.receive():
            pass


def _take(connection: ServerConnection, messages: list[Message]) -> None:
    """Write messages back, once the handshake is over."""
    if connection.hello is not None:
        connection.write(messages)
    elif connection.handshake is None:
        connection.challenge(messages[0], Hello.from_message(messages[0]), _SECRET)
    else:
        connection.welcome(connection.accept_proof(messages[0]), {})


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="Write each message back.")
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", required=True, type=int)
    options = parser.parse_args()
    listener = listen(options.address, options.port)
    worker = Worker(0, _take, lambda _connection, _error: None)
    worker.start()
    while select.select([listener], [], []):
        sock, (host, port, *_) = listener.accept()
        deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
        worker.adopt(ServerConnection(sock, f"{host}:{port}", deadline_s))


if __name__ == "__main__":
    main()
