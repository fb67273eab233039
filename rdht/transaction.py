"""What a participant knows of a transaction, what is staged for it, and what is said of it."""

from collections.abc import Callable, Mapping

from rdht import parts
from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.limits import MAX_BODY_BYTES, MAX_VALUE_BYTES
from rdht.messages import Flag, Message, Operation, Reason, Status, new_message
from rdht.parts import Result
from rdht.replica import Replica
from rdht.table import ABSENT, Entry
from rdht.transitions import State

# Looking a member up in its enum costs 0.2 us in Python 3.11, a name of the module a tenth.
_IDLE, _LATE = State.IDLE, int(Flag.LATE)
_NO_REASON, _NOTHING = Reason.NONE, Reason.NOTHING
_NO, _YES, _DONE, _DONE_NOTHING = Status.NO, Status.YES, Status.DONE, Status.DONE_NOTHING
_NONE, _MANY, _DELETE = Operation.NONE, Operation.MANY, Operation.DELETE

_EFFECTS: dict[Operation, Callable[[Message, Entry], tuple[bool, bool]]] = {
    # whether the operation finds what it asks for, and whether it writes if it does
    Operation.GET: lambda _, current: (current.value is not None, False),
    Operation.PUT: lambda _, __: (True, True),
    Operation.ADD: lambda _, current: (current.value is None, True),
    Operation.DELETE: lambda _, current: (current.value is not None, True),
    Operation.CAS: lambda part, current: (part.version == current.version, True),
}


class Transaction:
    """What a participant knows of one attempt at one command."""

    __slots__ = (
        "answers",
        "deadline_s",
        "held",
        "name",
        "parts",
        "pledged",
        "ranges",
        "refusal",
        "request",
        "result",
        "staged",
        "state",
    )

    def __init__(self, message: Message) -> None:
        """Take a request, or another message that has its name and ranges."""
        self.name = message.name
        self.request = message
        self.ranges: tuple[tuple[int, int], ...]
        self.parts: tuple[Message, ...]
        if message.operation is _MANY:
            self.ranges, self.parts = parts.unpack(message.value, message.name)
        else:
            self.ranges = ((message.range, message.epoch),)
            self.parts = (message,)
        self.state = _IDLE
        self.held = 0  # locks, in the order of `parts`
        self.staged: list[tuple[Replica, bytes, Entry]] = []
        self.result: Message | None = None  # the yes vote
        self.refusal: Message | None = None  # the no vote
        self.deadline_s = 0.0
        self.pledged = False  # whether another participant may have been told the yes
        self.answers: dict[str, Message] = {}  # what the other participants said

    def touches(self, number: int) -> bool:
        """Return whether the transaction concerns the range."""
        return any(number == range_ for range_, _ in self.ranges)

    def check(self, range_count: int) -> None:
        """Raise RemoteProtocolError for a request that no client of so many ranges sends."""
        request = self.request
        if request.operation is _MANY:
            self.check_ranges(range_count)
        elif len(request.value) > MAX_VALUE_BYTES:
            why = f"a value of {len(request.value)} bytes, at most {MAX_VALUE_BYTES} are allowed"
            raise RemoteProtocolError(why)
        if request.operation is _NONE or not self.parts:
            why = "a request asks for nothing"
            raise RemoteProtocolError(why)

    def check_ranges(self, range_count: int) -> None:
        """Raise RemoteProtocolError for a range that is none of so many."""
        highest = max((number for number, _ in self.ranges), default=0)
        if highest >= range_count:
            why = f"there is no range {highest}, only {range_count} of them"
            raise RemoteProtocolError(why)

    def stage(self, replicas: Mapping[int, Replica]) -> bool:
        """Work out effect and result; return False if a condition fails and the vote is no."""
        self.staged = []
        request = self.request
        late = request.flags & _LATE
        results = []
        for part in self.parts:
            replica = replicas[part.range]
            operation = part.operation
            current = replica.table.get(part.key, ABSENT)
            found, writes = _EFFECTS[operation](part, current)
            if found and writes:
                value = None if operation is _DELETE else part.value
                self.staged.append((replica, part.key, Entry(value, current.version + 1)))
            elif writes and not late:
                self.refuse(_NOTHING, version=current.version)
                return False
            read = b"" if writes or current.value is None else current.value
            results.append((found, current.version, read))
        if request.operation is _MANY:
            packed = parts.pack_results(Result(*result) for result in results)
            if len(packed) > MAX_BODY_BYTES:
                self.refuse(Reason.TOO_LONG)
                return False
            found, version, read = True, 0, packed
        else:
            ((found, version, read),) = results
        reason = _NO_REASON if found else _NOTHING
        name, operation, range_, epoch = self.name, request.operation, request.range, request.epoch
        vote = (_YES, name, operation, reason, 0, range_, epoch, version, b"", read)
        self.result = new_message(vote)
        return True

    def drop(self, number: int) -> list[Message]:
        """Have no part in the range any more; return the parts that were in it."""
        dropped = [part for part in self.parts if part.range == number]
        self.parts = tuple(part for part in self.parts if part.range != number)
        self.held = len(self.parts)
        self.staged = [effect for effect in self.staged if effect[0].number != number]
        if self.request.operation is _MANY:  # what a snapshot keeps must not have them either
            packed = parts.pack(self.ranges, self.parts)
            self.request = self.request._replace(value=packed)
        return dropped

    def end(self) -> None:
        """Keep no more than what may still be asked about a transaction that is over."""
        self.answers, self.staged, self.parts = {}, [], ()
        self.request = self.request._replace(value=b"")

    def refuse(self, reason: Reason, *, number: int = 0, epoch: int = 0, version: int = 0) -> None:
        """Make the vote no."""
        name, operation = self.name, self.request.operation
        self.refusal = Message(_NO, name, operation, reason, 0, number, epoch, version)

    # Messages.

    def yes(self) -> Message:
        """Return the vote of a transaction that was staged."""
        return _known(self.result)

    def no(self) -> Message:
        """Return the vote of a transaction that was refused."""
        return _known(self.refusal)

    def done(self, message: Message) -> Message:
        """Return the answer to a proceed, or to whoever asks for what is committed already."""
        if self.result is None:  # it was forgotten: whoever proceeds knows the result
            return Message(_DONE, self.name, message.operation)
        _, name, operation, reason, *rest = self.result
        status = _DONE if reason is _NO_REASON else _DONE_NOTHING
        return new_message((status, name, operation, _NO_REASON, *rest))

    def memory(self) -> Message:
        """Return what another replica must know of a commit: its result, or the ranges it spans."""
        if self.request.operation is _MANY:
            return Message(_DONE, self.name, _MANY, value=parts.pack(self.ranges, ()))
        return self.yes()._replace(status=_DONE)

    def news(self) -> Message:
        """Return what tells another participant of a commit of several keys."""
        return Message(Status.PROCEED, self.name, _MANY, value=parts.pack(self.ranges, ()))

    def question(self) -> Message:
        """Return what asks another participant for its vote."""
        question = self.request._replace(status=Status.RESOLVE, flags=0)
        if question.operation is _MANY:
            return question._replace(value=parts.pack(self.ranges, ()))
        if self.staged:  # the version that was there before tells whether it was applied
            return question._replace(version=self.yes().version, value=b"")
        return question._replace(operation=Operation.GET, value=b"")


def _known(vote: Message | None) -> Message:
    if vote is None:  # pragma: no cover - nobody asks for it before
        why = "a transaction has no such vote yet"
        raise LocalProtocolError(why)
    return vote
