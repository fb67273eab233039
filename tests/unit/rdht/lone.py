"""A participant by itself, and what may happen to it."""

from collections.abc import Callable, Iterable
from typing import Any

from rdht import parts
from rdht.limits import PREPARED_TIMEOUT_S, RESUME_TIMEOUT_S
from rdht.messages import Flag, Message, Name, Operation, Outgoing, Reason, Status
from rdht.participant import Participant
from rdht.replica import Copy, Mode
from rdht.ring import Replicas
from rdht.table import Entry, Table
from rdht.transitions import State

# This is server a: it shares range 0 with b and range 2 with c, and has no part in range 1.
LAYOUT = (Replicas("a", "b"), Replicas("b", "c"), Replicas("c", "a"))
KEY, OTHER_KEY, FAR_KEY = b"key", b"other key", b"far key"  # the last one lies in range 2
T1, T2, T3 = Name(1, 1, 1), Name(2, 1, 1), Name(3, 1, 1)
NOW_S = 1000.0
LATER_S = NOW_S + PREPARED_TIMEOUT_S
MUCH_LATER_S = NOW_S + RESUME_TIMEOUT_S
YES, NO, DONE, DONE_NOTHING = Status.YES, Status.NO, Status.DONE, Status.DONE_NOTHING
THERE, DELETED = Entry(b"old", 3), Entry(None, 4)
Happening = Callable[[Participant], Outgoing]


def serving(*, durable: bool = False) -> Participant:
    participant = Participant("a", LAYOUT, durable=durable)
    for replica in participant.replicas.values():
        replica.install(Message(Status.JOINED, epoch=1), Copy())
        replica.mode = Mode.SERVING
    for client in (1, 2, 3):
        assert participant.connect(client, NOW_S, resume=False) == []
    return participant


def request(
    name: Name,
    operation: Operation = Operation.PUT,
    key: bytes = KEY,
    value: bytes = b"",
    **changed: Any,
) -> Message:
    value = value or b"%d" % name[0]
    message = Message(Status.REQUEST, name, operation, epoch=1, key=key, value=value)
    return message._replace(**{"range": 2 if key == FAR_KEY else 0, **changed})


def spanning(
    name: Name, asked: Iterable[Message] = (), ranges: tuple[int, ...] = (0, 2), flags: int = 0
) -> Message:
    """Return a request of several keys; unless told otherwise, it puts one of each range."""
    wanted = list(asked) or [request(name), request(name, key=FAR_KEY)]
    value = parts.pack([(number, 1) for number in ranges], wanted)
    return Message(Status.REQUEST, name, Operation.MANY, flags=flags, value=value)


def decide(status: Status, message: Message, **changed: Any) -> Message:
    """Return the proceed, abort or question that belongs to a request."""
    if message.operation is Operation.MANY:
        message = message._replace(value=parts.pack(parts.unpack(message.value, T1)[0], ()))
    else:
        message = message._replace(value=b"", version=0)
    return message._replace(status=status, flags=0)._replace(**changed)


def proceed(name: Name, **changed: Any) -> Message:
    return decide(Status.PROCEED, request(name), **changed)


def abort(name: Name, **changed: Any) -> Message:
    return decide(Status.ABORT, request(name), **changed)


def ask(message: Message, **changed: Any) -> Message:
    return decide(Status.RESOLVE, message, **changed)


def answer(status: Status, name: Name = T1, reason: Reason = Reason.NONE, **more: Any) -> Message:
    return Message(status, name, Operation.PUT, reason, **more)


def read(name: Name, key: bytes = KEY, **changed: Any) -> Message:
    return request(name, Operation.GET, key, status=Status.READ, **changed)


def act(*messages: Message) -> Happening:
    def happen(participant: Participant) -> Outgoing:
        return [sent for one in messages for sent in participant.handle(one, NOW_S)]

    return happen


def hear(server: str, message: Message) -> Happening:
    return lambda participant: participant.handle_peer(server, message, NOW_S)


def leave(client: int) -> Happening:
    return lambda participant: participant.disconnect(client, NOW_S)


def told(out: Outgoing) -> list[tuple[int | str, Status, Reason]]:
    return [(to, message.status, message.reason) for to, message in out]


def statuses(out: Outgoing, to: int | str) -> list[Status]:
    return [message.status for receiver, message in out if receiver == to]


def after(*happenings: Happening, durable: bool = False) -> Participant:
    participant = serving(durable=durable)
    for happen in happenings:
        happen(participant)
    return participant


def state_of(participant: Participant, name: Name = T1) -> State:
    tx = participant.transactions.get(name)
    return State.IDLE if tx is None else tx.state


def table(participant: Participant, number: int = 0) -> Table:
    return participant.replicas[number].table


def with_entry(entry: Entry | None) -> Participant:
    participant = serving()
    if entry is not None:
        table(participant)[KEY] = entry
    return participant


def mode(number: int, mode: Mode) -> Happening:
    def happen(participant: Participant) -> Outgoing:
        participant.replicas[number].mode = mode
        return []

    return happen


def attribute(name: str) -> Happening:
    def happen(participant: Participant) -> Outgoing:
        setattr(participant, name, True)
        return []

    return happen


# What has happened so far.

BUSY = act(request(T2))
WAITING = act(request(T2), request(T1, flags=Flag.QUEUE))
ADD_WAITING = act(request(T2), request(T1, Operation.ADD, flags=Flag.QUEUE))
PREPARED = act(request(T1))
SPANNING = act(spanning(T1))
PROCEED_SPANNING = act(decide(Status.PROCEED, spanning(T1)))
COMMITTED = act(spanning(T1), decide(Status.PROCEED, spanning(T1)))
ABORTED = hear("b", ask(request(T1)))


def learned(participant: Participant) -> Outgoing:
    """Come to the commit of a single key by the other replica's vote."""
    participant.handle(request(T1), NOW_S)
    return participant.handle_peer("b", answer(Status.YES), NOW_S)


def nothing(_: Participant) -> Outgoing:
    return []
