"""How a server that comes back takes its place in its ranges again.

Sans-IO, beside the participant and under the same lock. Every replica starts as JOINING and asks
the other replica of its range. Of the two, the one that is intact with the higher epoch (if both
started anew with the same one: the primary) rolls forward what it holds and gives its copy, page
by page; both then serve at the next epoch. If neither is intact, the range is new, or it is lost:
the other servers know whether it was ever served.
"""

import struct
from collections.abc import Iterable

from rdht.errors import RemoteProtocolError
from rdht.limits import (
    COPY_PAGE_BYTES,
    COPY_RETRY_S,
    JOIN_RETRY_S,
    KNOWN_INTERVAL_S,
    MAX_COPY_RETRY_S,
)
from rdht.messages import Flag, Message, Name, Outgoing, Reason, Status, encode
from rdht.participant import Participant
from rdht.replica import Copy, CopyPage, Mode, Replica, copy_key, founded_of
from rdht.table import Place, cut

_NUMBER = struct.Struct("!H")
_LOST = Reason.LOST


class _Joining:
    """How far a replica of ours has come back."""

    def __init__(self) -> None:
        self.source = (0, 0)  # incarnation of the server whose copy this is, and the epoch
        self.copy = Copy()
        self.next_s = 0.0
        self.pause_s = JOIN_RETRY_S  # between two questions; doubled while a copy is under way


class _Giving:
    """A copy that the other replica of a range of ours takes."""

    def __init__(self, receiver: int, epoch: int) -> None:
        self.receiver = receiver  # its incarnation
        self.epoch = epoch  # that both move to; no other receiver was ever given one of it
        self.pages: list[bytes] | None = None  # of the table
        self.rows = 0  # in them
        self.starts: dict[int, Place] = {0: (0, 0)}  # by the rows before it: where a page begins
        self.memories: list[bytes] = []


class Rejoin:
    """The coming back of one server's replicas, and of those that share a range with them."""

    def __init__(
        self, participant: Participant, servers: tuple[str, ...], incarnation: int
    ) -> None:
        """Let `participant` come back; `incarnation` is this process's own random number."""
        self.key_range = 0  # by which clients place keys; servers tell each other
        self._participant = participant
        self._servers = servers
        self._incarnation = incarnation
        self._joining = {number: _Joining() for number in participant.replicas}
        self._giving: dict[int, _Giving] = {}
        self._partners: dict[int, int] = {}  # incarnations of other replicas that serve
        self._joined: dict[int, int] = {}  # epochs that the other replica does not know of yet
        self._known: set[int] = set()  # ranges of which another server said that they are served
        self._announced: set[int] = set()  # new ranges that are about to be served
        self._heard: dict[str, set[int]] = {}  # what each other server knows
        self._next_s = 0.0

    def tick(self, now_s: float) -> Outgoing:
        """Return what to ask the other servers now."""
        out: Outgoing = []
        if now_s >= self._next_s:
            is_back = all(one.mode is not Mode.JOINING for one in self._replicas())
            self._next_s = now_s + (KNOWN_INTERVAL_S if is_back else JOIN_RETRY_S)
            me = self._participant.me
            out += [(name, self._known_message()) for name in self._servers if name != me]
        for number, joining in self._joining.items():
            replica = self._participant.replicas[number]
            if now_s < joining.next_s:
                continue
            if replica.mode is Mode.JOINING:
                joining.next_s = now_s + joining.pause_s
                if joining.pause_s >= COPY_RETRY_S:
                    joining.pause_s = min(2 * joining.pause_s, MAX_COPY_RETRY_S)
                out.append((replica.partner, self._join_message(number)))
            elif number in self._joined:
                joining.next_s = now_s + JOIN_RETRY_S
                out.append((replica.partner, self._joined_message(number)))
        return out

    def handle(self, server: str, message: Message, now_s: float) -> Outgoing:
        """Return what to send because of another server's message."""
        if message.status is Status.KNOWN:
            return self._hear(server, message)
        replica = self._participant.replicas.get(message.range)
        if replica is None or replica.partner != server:
            why = f"{server} shares no range {message.range} with {self._participant.me}"
            raise RemoteProtocolError(why)
        if message.status is Status.JOIN:
            return self._let_join(replica, message, now_s)
        if message.status is Status.COPY:
            return self._take(replica, message, now_s)
        if message.status is Status.JOINED:
            return self._serve_again(replica, message)
        why = f"a server takes no {message.status.name} from a server"
        raise RemoteProtocolError(why)

    def _replicas(self) -> Iterable[Replica]:
        return self._participant.replicas.values()

    # Messages.

    def _known_message(self) -> Message:
        packed = b"".join(_NUMBER.pack(number) for number in sorted(self._known_ranges()))
        return Message(Status.KNOWN, version=self.key_range, value=packed)

    def _known_ranges(self) -> set[int]:
        mine = {one.number for one in self._replicas() if one.intact}
        return self._known | self._announced | mine

    def _join_message(self, number: int) -> Message:
        replica, joining = self._participant.replicas[number], self._joining[number]
        return Message(
            Status.JOIN,
            Name(self._incarnation, joining.source[0], 0),
            flags=Flag.INTACT if replica.intact else 0,
            range=number,
            epoch=replica.epoch,
            version=joining.copy.size,
        )

    def _joined_message(self, number: int) -> Message:
        name = Name(self._incarnation, 0, 0)
        return Message(Status.JOINED, name, range=number, epoch=self._joined[number])

    # The side that gives.

    def _let_join(self, replica: Replica, message: Message, now_s: float) -> Outgoing:
        number = replica.number
        if self._partners.get(number) == message.name.client:
            return []  # overtaken by what it sent later: a process comes back only once
        self._joined.pop(number, None)
        out: Outgoing = []
        if replica.mode is Mode.LOST:
            name = Name(self._incarnation, message.name.client, 0)
            return [(replica.partner, Message(Status.COPY, name, reason=_LOST, range=number))]
        if replica.mode is Mode.JOINING and not self._is_better(replica, message):
            return []
        if replica.mode is not Mode.GIVING:
            out += self._participant.freeze(number, now_s)
        giving = self._giving.get(number)
        if giving is None or giving.receiver != message.name.client:
            # The receiver before may have voted in the epoch that it was given.
            epoch = (replica.epoch if giving is None else giving.epoch) + 1
            giving = self._giving[number] = _Giving(message.name.client, epoch)
        # What was received from another giver, or before this one restarted, does not count.
        start = message.version if message.name.sequence == self._incarnation else None
        if self._participant.is_quiet(number):
            out.append((replica.partner, self._page(replica, giving, start)))
        return out

    def _is_better(self, replica: Replica, other: Message) -> bool:
        """Return whether this replica, coming back too, is the one to be copied."""
        other_epoch = other.epoch if other.flags & Flag.INTACT else -1
        mine = replica.epoch if replica.intact else -1
        is_primary = self._participant.layout[replica.number].primary == self._participant.me
        if mine == other_epoch == -1:
            return is_primary and self._found(replica)
        return mine > other_epoch or (mine == other_epoch and is_primary)

    def _found(self, replica: Replica) -> bool:
        """Begin the range with nothing in it, once all others know of it; or call it lost."""
        number = replica.number
        others = set(self._servers) - {self._participant.me}
        if number not in self._announced:
            if number in self._known:
                replica.mode = Mode.LOST
            elif self._heard.keys() >= others:
                self._announced.add(number)  # all others hear of it BEFORE anything is served
                self._next_s = 0.0
        elif all(number in self._heard[server] for server in others):
            replica.intact = True
            replica.founded = self._incarnation
        return replica.intact

    def _hear(self, server: str, message: Message) -> Outgoing:
        """Take note of what another server knows; answer with what this one knows."""
        if len(message.value) % _NUMBER.size:
            why = "a list of ranges is cut"
            raise RemoteProtocolError(why)
        heard = {number for (number,) in _NUMBER.iter_unpack(message.value)}
        self._heard[server] = heard
        self.key_range = self.key_range or message.version
        self._known |= heard - self._announced
        if message.flags & Flag.SILENT:
            return []
        return [(server, self._known_message()._replace(flags=Flag.SILENT))]

    def _page(self, replica: Replica, giving: _Giving, asked: int | None) -> Message:
        """Return the page that follows so many rows; None: to who has not heard of this copy.

        It may ask again before the first page can be there: that one is short, or even empty.
        """
        if giving.pages is None:
            giving.pages, giving.rows = replica.table.pages(), len(replica.table)
            commits = self._participant.memory.commits(replica.number)
            giving.memories = [encode(one) for one in commits]
        start = asked or 0
        if start < giving.rows and start not in giving.starts:
            start = 0
        end, total, rows, page = start, giving.rows + len(giving.memories), 0, bytearray()
        if start < giving.rows:
            size_bytes = COPY_PAGE_BYTES // 16 if asked is None else COPY_PAGE_BYTES
            packed, rows, place = cut(giving.pages, giving.starts[start], size_bytes)
            if asked is None and len(packed) > 2 * size_bytes:  # a row at least, of a long value
                packed, rows, place = b"", 0, giving.starts[start]
            end += rows
            page += packed
            if end < giving.rows:
                giving.starts[end] = place
        while giving.rows <= end < total and len(page) < COPY_PAGE_BYTES:
            page += giving.memories[end - giving.rows]
            end += 1
        return Message(
            Status.COPY,
            Name(self._incarnation, giving.receiver, rows),
            flags=Flag.INTACT if end >= total else 0,
            range=replica.number,
            epoch=giving.epoch,
            version=start,
            key=copy_key(replica.founded, len(giving.pages)),
            value=bytes(page),
        )

    def _serve_again(self, replica: Replica, message: Message) -> Outgoing:
        """Move to the next epoch with the replica that holds the copy now; or hear that it did."""
        number, epoch = replica.number, message.epoch
        if message.name.client == self._incarnation:
            if self._joined.get(number) == epoch:
                del self._joined[number]
            return []
        giving = self._giving.get(number)
        if (
            replica.mode is Mode.GIVING
            and giving is not None
            and giving.receiver == message.name.client
            and giving.epoch == epoch
        ):
            del self._giving[number]
            self._participant.advance(number, epoch)
            self._partners[number] = message.name.client
        if replica.mode is Mode.SERVING and replica.epoch == epoch:
            return [(replica.partner, message)]
        return []

    # The side that takes.

    def _take(self, replica: Replica, message: Message, now_s: float) -> Outgoing:
        joining = self._joining[replica.number]
        giver, receiver, _ = message.name
        if replica.mode is not Mode.JOINING or receiver != self._incarnation:
            return []  # an answer to what was asked before
        if message.reason is _LOST:
            replica.mode = Mode.LOST
            return []
        page = CopyPage.unpack(message)
        self._participant.check(page.memories)  # BEFORE anything is changed
        source = (giver, message.epoch)
        if source != joining.source:
            joining.source, joining.copy, joining.pause_s = source, Copy(), COPY_RETRY_S
        if message.version != joining.copy.size:
            return []
        joining.copy.extend(page)
        if self._participant.write_ahead.is_durable:
            joining.copy.pages.append(message)
        if message.flags & Flag.INTACT:
            copy, joining.copy = joining.copy, Copy()
            founded = founded_of(message)
            joined = Message(
                Status.JOINED, range=replica.number, epoch=message.epoch, version=founded
            )
            self._participant.install(joined, copy, now_s)
            replica.mode = Mode.SERVING
            self._joined[replica.number] = message.epoch
            self._partners[replica.number] = giver
            return [(replica.partner, self._joined_message(replica.number))]
        joining.next_s = now_s + joining.pause_s
        return [(replica.partner, self._join_message(replica.number))]
