"""Message types, their encoding, and an incremental decoder.

A frame is a fixed header, the key, the value, and padding with zeros up to the sender's frame
size (256 bytes in the classic profile, none otherwise):

    length u32 | protocol version u8 | status u8 | operation u8 | reason u8 | flags u8
    | range u16 | epoch u32 | client u64 | sequence u64 | attempt u32 | version u64
    | key length u16 | value length u32

in network byte order. `length` counts the bytes that follow it. The status numbers 1 to 9 are
those of the original program that this project repeats; 10 and above are ours.
"""

import struct
from collections import defaultdict
from collections.abc import Callable
from enum import IntEnum, IntFlag
from functools import partial
from typing import Any, NamedTuple, NoReturn

from rdht.authentication import TAG_BYTES, Seal
from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.limits import MAX_BODY_BYTES, MAX_FRAME_BYTES, MAX_KEY_BYTES

PROTOCOL_VERSION = 2


class Status(IntEnum):
    """What a message is."""

    NO = 1  # vote: refused, with a reason
    REQUEST = 2  # take the locks, stage the effect
    YES = 3  # vote: locks taken, effect staged; `version` and `value` are what is there now
    ABORT = 4
    ABORTED = 5  # abort acknowledged
    PROCEED = 6
    DONE = 7  # done, succeeded
    DONE_NOTHING = 9  # done: nothing found (get, delete), already there (add), other version (cas)
    HELLO = 10  # the client's first message, JSON in `value`
    WELCOME = 11  # the handshake is over, JSON in `value`
    ERROR = 12  # the sender closes the connection after this; the reason as text in `value`
    STATS = 13  # ask for the server's figures; the answer carries JSON in `value`
    SCAN = 14  # ask for the next page of all entries; it comes in `value`, the last one is empty
    CHALLENGE = 15  # the server's nonce and proof
    PROOF = 16  # the client's proof
    READ = 17  # a get of one replica, without locks
    RESOLVE = 20  # server to server: how do you vote on this transaction? YES, NO or DONE
    JOIN = 21  # server to server: I am back; let me take your copy of the range
    COPY = 22  # a page of the copy in `value`; an empty one is the last
    JOINED = 23  # server to server: I hold the copy and serve at this epoch
    KNOWN = 24  # server to server: the ranges that I know to have been served, in `value`


class Operation(IntEnum):
    """What a command does to its key."""

    NONE = 0
    GET = 1
    PUT = 2
    ADD = 3  # put if absent: the original's put
    DELETE = 4
    CAS = 5  # put if the key is at `version`
    MANY = 6  # several of the above, packed into `value`; all or nothing


class Reason(IntEnum):
    """Why a vote is no, or what else there is to say of a vote."""

    NONE = 0
    BUSY = 1  # another transaction holds a lock
    STOPPING = 2  # the server takes no new transactions
    NOTHING = 3  # the command's condition does not hold; on a yes: there is nothing to do
    STALE_EPOCH = 4  # the range has moved on; `epoch` is the current one
    SYNCING = 5  # the range waits for its other replica
    LOST = 6  # both replicas of the range have lost their memory
    OVERLOADED = 7  # the lock's queue is full
    VETOED = 8  # another participant has asked before this one had voted
    ALONE = 9  # on a yes: the range's other replica is rejoining, this vote stands for both
    UNSAFE = 10  # the server's disk has failed, it can promise nothing
    ELSEWHERE = 11  # the server is no replica of the range
    TOO_LONG = 12  # the results would not fit into a message


class Flag(IntFlag):
    """How a request or proceed is to be treated."""

    NONE = 0
    QUEUE = 1  # wait for a lock instead of voting no
    LATE = 2  # vote yes even if the condition fails; `DONE_NOTHING` tells it in the end
    SILENT = 4  # do not acknowledge
    INTACT = 8  # on a join: I hold a complete copy, as of `epoch`


class Name(NamedTuple):
    """A transaction: one attempt at one command of one client."""

    client: int  # incarnation, random, one a client thread
    sequence: int
    attempt: int


NOBODY = Name(0, 0, 0)


class Message(NamedTuple):
    """One message; a vote and a result carry the key's version."""

    status: Status
    name: Name = NOBODY
    operation: Operation = Operation.NONE
    reason: Reason = Reason.NONE
    flags: int = 0
    range: int = 0
    epoch: int = 0
    version: int = 0
    key: bytes = b""
    value: bytes = b""


Destination = int | str  # a client by its incarnation, a server by its name
Outgoing = list[tuple[Destination, Message]]
Tally = defaultdict[Status, list[int]]  # of each kind: how many messages, and their bytes

# A message of all its fields; the class itself costs three times as much, its `_make` twice.
new_message: Callable[[tuple[Any, ...]], Message] = partial(tuple.__new__, Message)
_new_name: Callable[[tuple[int, int, int]], Name] = partial(tuple.__new__, Name)
_LENGTH = struct.Struct("!I")
_HEADER = struct.Struct("!IBBBBBHIQQIQHI")
_FIELDS = struct.Struct("!IIBHIQQIQHI")  # the same bytes, four of them read as one number
_unpack_fields = _FIELDS.unpack_from
HEADER_BYTES = _HEADER.size
_LENGTH_BYTES = _LENGTH.size
_MIN_LENGTH = HEADER_BYTES - _LENGTH_BYTES
_KINDS = {
    PROTOCOL_VERSION << 24 | status << 16 | operation << 8 | reason: (status, operation, reason)
    for status in Status
    for operation in Operation
    for reason in Reason
}


def new_tally() -> Tally:
    """Return a tally with nothing in it."""
    return defaultdict(lambda: [0, 0])


def encode(message: Message, frame_bytes: int = 0) -> bytes:
    """Return the message as one frame of at least `frame_bytes`.

    Raises LocalProtocolError for a key, value or number over its limit.
    """
    status, name, operation, reason, flags, range_, epoch, version, key, value = message
    key_bytes, value_bytes = len(key), len(value)
    if key_bytes > MAX_KEY_BYTES or value_bytes > MAX_BODY_BYTES:
        why = (
            f"a key of {key_bytes} and a value of {value_bytes} bytes; "
            f"at most {MAX_KEY_BYTES} and {MAX_BODY_BYTES} are allowed"
        )
        raise LocalProtocolError(why)
    size = HEADER_BYTES + key_bytes + value_bytes
    if size < frame_bytes:
        value += bytes(frame_bytes - size)
        size = frame_bytes
    client, sequence, attempt = name
    try:
        header = _HEADER.pack(
            size - _LENGTH_BYTES,
            PROTOCOL_VERSION,
            status,
            operation,
            reason,
            flags,
            range_,
            epoch,
            client,
            sequence,
            attempt,
            version,
            key_bytes,
            value_bytes,
        )
    except struct.error as error:
        why = f"a number is outside its field: {error}"
        raise LocalProtocolError(why) from error
    return header + key + value


class Decoder:
    """Bytes in, messages out; frames may arrive joined together or cut anywhere."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        """Start with nothing received."""
        self.max_frame_bytes = max_frame_bytes
        self.seal: Seal | None = None  # if set, each frame is followed by its tag
        self.tally = new_tally()
        self._rest = bytearray()
        self._needed = 0  # bytes to hold before the next frame can be complete

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that `data` completes.

        Raises RemoteProtocolError for bytes that are no frame, AuthenticationError for a wrong
        tag; the decoder is of no use then.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        messages = []
        seal, tally = self.seal, self.tally
        tag_bytes = TAG_BYTES if seal else 0
        at, end = 0, len(data)
        while end - at >= HEADER_BYTES:
            # One function, as this is where a message costs most.
            (
                length,
                kind,
                flags,
                range_,
                epoch,
                client,
                sequence,
                attempt,
                version,
                key_bytes,
                value_bytes,
            ) = _unpack_fields(data, at)
            if not _MIN_LENGTH <= length <= self.max_frame_bytes:
                self._refuse_length(length)
            frame_end = at + _LENGTH_BYTES + length
            next_at = frame_end + tag_bytes
            if next_at > end:
                break
            if seal:
                seal.check(data[at:frame_end], data[frame_end:next_at])
            value_at = at + HEADER_BYTES + key_bytes
            value_end = value_at + value_bytes
            kinds = _KINDS.get(kind)
            if (
                kinds is None
                or value_end > frame_end
                or key_bytes > MAX_KEY_BYTES
                or value_bytes > MAX_BODY_BYTES
            ):
                raise RemoteProtocolError(_mistake(kind, key_bytes, value_bytes, length))
            status, operation, reason = kinds
            count = tally[status]
            count[0] += 1
            count[1] += next_at - at
            name = _new_name((client, sequence, attempt))
            key, value = data[value_at - key_bytes : value_at], data[value_at:value_end]
            content = status, name, operation, reason, flags, range_, epoch, version, key, value
            messages.append(new_message(content))
            at = next_at
        if at < end:
            self._keep(data[at:], tag_bytes)
        return messages

    def _keep(self, rest: bytes, tag_bytes: int) -> None:
        """Hold the beginning of a frame until the rest of it arrives."""
        self._rest = bytearray(rest)
        self._needed = _LENGTH_BYTES
        if len(rest) >= _LENGTH_BYTES:
            (length,) = _LENGTH.unpack_from(rest)
            if not _MIN_LENGTH <= length <= self.max_frame_bytes:
                self._refuse_length(length)
            self._needed += length + tag_bytes

    def _refuse_length(self, length: int) -> NoReturn:
        why = f"a frame of {length} bytes, allowed are {_MIN_LENGTH} to {self.max_frame_bytes}"
        raise RemoteProtocolError(why)


def _mistake(kind: int, key_bytes: int, value_bytes: int, length: int) -> str:
    """Return what is wrong with a frame's header."""
    if kind in _KINDS or key_bytes > MAX_KEY_BYTES or value_bytes > MAX_BODY_BYTES:
        return f"a key of {key_bytes} and a value of {value_bytes} bytes in a frame of {length}"
    protocol, *kinds = kind.to_bytes(4)
    if protocol != PROTOCOL_VERSION:
        return f"protocol version {protocol}, this side speaks {PROTOCOL_VERSION}"
    return f"no message has the status, operation and reason {kinds}"
