"""Points of the protocol at which a process stops itself, so that what is to befall it does there.

A point is a kind of message and a moment: BEFORE it is sent, AFTER it was sent, or when it has come
and BEFORE it is handled. The hook leaves a mark, and stops its whole process in that very place by
SIGSTOP to its own thread; what happens then is the operator's business. It stops once a point, and
none that comes after it: a process that was started again finds the mark.
"""

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from rdht.messages import Message, Name, Operation, Reason
from rdht.server import Server
from rdht.transport import ClientConnection, ServerConnection

FILE = "fault.json"  # in a run's folder: the `load`, and the `points` of processes there
BEFORE, AFTER, HANDLED = MOMENTS = ("before", "after", "handled")
CLIENT, SERVER = "client", "server"


class Point(NamedTuple):
    """Where a process stops."""

    name: str  # of the mark
    role: str
    process: str
    status: str  # or several, as "YES|DONE"
    moment: str
    peer: str  # the role of who sends the message to the process, or gets it
    nth: int = 1  # of the messages of this kind of one transaction
    many: bool | None = None  # only of commands on many keys, or on one
    operation: str | None = None  # only of this one
    reason: str | None = None  # only with this one
    range: int | None = None  # only of this range

    def fits(self, moment: str, peer: str, message: Message) -> bool:
        """Tell whether a message in this moment is one of those that are meant."""
        return (
            (moment, peer) == (self.moment, self.peer)
            and message.status.name in self.status.split("|")
            and self.many in (None, message.operation is Operation.MANY)
            and self.operation in (None, message.operation.name)
            and (self.reason is None or message.reason is Reason[self.reason])
            and self.range in (None, message.range)
        )


class Plan:
    """What FILE says, read again whenever it was written anew."""

    def __init__(self, folder: Path) -> None:
        """Look into this folder."""
        self._path = folder / FILE
        self._seen = (0, 0)
        self._document: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """Return the document as it stands there now."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return self._document
        seen = found.st_mtime_ns, found.st_ino
        if seen != self._seen:
            self._document = json.loads(self._path.read_text(encoding="utf-8"))
            self._seen = seen
        return self._document


class Hook:
    """The points of one process."""

    def __init__(self, role: str, process: str, folder: Path) -> None:
        """Stop the process of that role and name where the plan in `folder` says."""
        self._identity = role, process
        self._folder = folder
        self._plan = Plan(folder)
        self._lock = threading.Lock()
        self._read: dict[str, Any] = {}
        self._points: list[Point] = []
        self._passed: Counter[tuple[str, Name]] = Counter()

    def reach(self, moment: str, peer: str, messages: Iterable[Message]) -> None:
        """Stop here if one of these messages in this moment is a point of this process."""
        with self._lock:
            point = self._find(moment, peer, messages)
        if point is not None:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def _find(self, moment: str, peer: str, messages: Iterable[Message]) -> Point | None:
        document = self._plan.read()
        if document is not self._read:
            self._read = document
            points = (Point(**fields) for fields in document.get("points", ()))
            self._points = [one for one in points if (one.role, one.process) == self._identity]
            self._passed.clear()
        for message in messages:
            for point in self._points:
                if point.fits(moment, peer, message):
                    self._passed[point.name, message.name] += 1
                    if self._passed[point.name, message.name] == point.nth and self._mark(point):
                        self._points.remove(point)
                        return point
        return None

    def _mark(self, point: Point) -> bool:
        """Leave the mark that the process stops here; False if it has stopped here before."""
        try:
            (self._folder / f"{point.name}.mark").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def install(hook: Hook) -> None:
    """Have all that this process sends and takes pass the hook."""
    queue, flush, receive = ClientConnection.queue, ClientConnection.flush, ClientConnection.receive
    write, take = ServerConnection.write, Server._take
    queued: WeakKeyDictionary[ClientConnection, list[Message]] = WeakKeyDictionary()

    def queue_(self: ClientConnection, message: Message) -> None:
        queue(self, message)
        queued.setdefault(self, []).append(message)

    def flush_(self: ClientConnection) -> bool:
        messages = queued.pop(self, [])
        hook.reach(BEFORE, SERVER, messages)
        is_sent = flush(self)
        if is_sent:
            hook.reach(AFTER, SERVER, messages)
        return is_sent

    def receive_(self: ClientConnection) -> list[Message]:
        messages = receive(self)
        hook.reach(HANDLED, SERVER, messages)
        return messages

    def write_(self: ServerConnection, messages: Iterable[Message]) -> None:
        messages = list(messages)
        hook.reach(BEFORE, CLIENT, messages)
        write(self, messages)
        hook.reach(AFTER, CLIENT, messages)

    def take_(self: Server, connection: ServerConnection, messages: list[Message]) -> None:
        is_server = connection.hello is not None and connection.hello.is_server
        hook.reach(HANDLED, SERVER if is_server else CLIENT, messages)
        take(self, connection, messages)

    for place, name, passing in (
        (ClientConnection, "queue", queue_),
        (ClientConnection, "flush", flush_),
        (ClientConnection, "receive", receive_),
        (ServerConnection, "write", write_),
        (Server, "_take", take_),
    ):
        setattr(place, name, passing)
