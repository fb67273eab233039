"""Message types, their encoding, and an incremental decoder.

A frame is a fixed header, the key, the value, and padding with zeros up to the sender's frame
size (256 bytes in the classic profile, none otherwise):

    length u32 | protocol version u8 | status u8 | operation u8 | reason u8
    | client u64 | sequence u64 | attempt u32 | version u64 | key length u16 | value length u32

in network byte order. `length` counts the bytes that follow it. The status numbers 1 to 9 are
those of the original program that this project repeats; 10 and above are ours.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.limits import MAX_FRAME_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES

PROTOCOL_VERSION = 1


class Status(IntEnum):
    """What a message is."""

    NO = 1  # vote: lock refused
    REQUEST = 2  # take the lock
    YES = 3  # vote: lock taken, effect staged
    ABORT = 4
    ABORTED = 5  # abort acknowledged
    PROCEED = 6
    DONE = 7  # done, succeeded
    DONE_NOTHING = 9  # done: nothing found (get, delete), already there (add), other version (cas)
    HELLO = 10  # the client's first message, JSON in `value`
    WELCOME = 11  # the answer to it, JSON in `value`
    ERROR = 12  # the sender closes the connection after this; the reason as text in `value`
    STATS = 13  # ask for the server's figures; the answer carries JSON in `value`
    SCAN = 14  # ask for the next page of all entries; it comes in `value`, the last one is empty


class Operation(IntEnum):
    """What a command does to its key."""

    NONE = 0
    GET = 1
    PUT = 2
    ADD = 3  # put if absent: the original's put
    DELETE = 4
    CAS = 5  # put if the key is at `version`


class Reason(IntEnum):
    """Why a vote is no."""

    NONE = 0
    BUSY = 1  # another transaction holds the key's lock
    STOPPING = 2  # the server takes no new transactions


class Name(NamedTuple):
    """A transaction: one attempt at one command of one client."""

    client: int  # incarnation, random, one a client thread
    sequence: int
    attempt: int


class Message(NamedTuple):
    """One message; a vote and a result carry the key's version."""

    status: Status
    name: Name = Name(0, 0, 0)
    operation: Operation = Operation.NONE
    reason: Reason = Reason.NONE
    version: int = 0
    key: bytes = b""
    value: bytes = b""


_new_tuple = tuple.__new__  # a named tuple's own constructor costs three times as much
_LENGTH = struct.Struct("!I")
_HEADER = struct.Struct("!IBBBBQQIQHI")
HEADER_BYTES = _HEADER.size
_STATUS = {int(member): member for member in Status}
_OPERATION = {int(member): member for member in Operation}
_REASON = {int(member): member for member in Reason}


def encode(message: Message, frame_bytes: int = 0) -> bytes:
    """Return the message as one frame of at least `frame_bytes`.

    Raises LocalProtocolError for a key, value or number over its limit.
    """
    status, name, operation, reason, version, key, value = message
    key_bytes, value_bytes = len(key), len(value)
    if key_bytes > MAX_KEY_BYTES or value_bytes > MAX_VALUE_BYTES:
        why = (
            f"a key of {key_bytes} and a value of {value_bytes} bytes; "
            f"at most {MAX_KEY_BYTES} and {MAX_VALUE_BYTES} are allowed"
        )
        raise LocalProtocolError(why)
    size = max(HEADER_BYTES + key_bytes + value_bytes, frame_bytes)
    try:
        header = _HEADER.pack(
            size - _LENGTH.size,
            PROTOCOL_VERSION,
            status,
            operation,
            reason,
            *name,
            version,
            key_bytes,
            value_bytes,
        )
    except struct.error as error:
        why = f"a number is outside its field: {error}"
        raise LocalProtocolError(why) from error
    return (header + key + value).ljust(frame_bytes, b"\0")


class Decoder:
    """Bytes in, messages out; frames may arrive joined together or cut anywhere."""

    def __init__(self) -> None:
        """Start with nothing received."""
        self._rest = bytearray()
        self._needed = 0  # bytes to hold before the next frame can be complete

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that `data` completes.

        Raises RemoteProtocolError for bytes that are no frame; the decoder is of no use then.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        messages = []
        at, end = 0, len(data)
        while end - at >= HEADER_BYTES:
            fields = _HEADER.unpack_from(data, at)
            frame_end = at + _LENGTH.size + _check_length(fields[0])
            if frame_end > end:
                break
            messages.append(_parse(data, at, frame_end, fields))
            at = frame_end
        if at < end:
            self._keep(data[at:])
        return messages

    def _keep(self, rest: bytes) -> None:
        """Hold the beginning of a frame until the rest of it arrives."""
        self._rest = bytearray(rest)
        self._needed = _LENGTH.size
        if len(rest) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(rest)
            self._needed += _check_length(length)


def _check_length(length: int) -> int:
    if not HEADER_BYTES - _LENGTH.size <= length <= MAX_FRAME_BYTES:
        why = f"a frame of {length} bytes, allowed are {HEADER_BYTES - 4} to {MAX_FRAME_BYTES}"
        raise RemoteProtocolError(why)
    return length


def _parse(data: bytes, at: int, frame_end: int, fields: tuple[int, ...]) -> Message:
    (
        length,
        protocol,
        status,
        operation,
        reason,
        client,
        sequence,
        attempt,
        version,
        key_bytes,
        value_bytes,
    ) = fields
    if protocol != PROTOCOL_VERSION:
        why = f"protocol version {protocol}, this side speaks {PROTOCOL_VERSION}"
        raise RemoteProtocolError(why)
    key_at = at + HEADER_BYTES
    value_at = key_at + key_bytes
    value_end = value_at + value_bytes
    if key_bytes > MAX_KEY_BYTES or value_bytes > MAX_VALUE_BYTES or value_end > frame_end:
        why = f"a key of {key_bytes} and a value of {value_bytes} bytes in a frame of {length}"
        raise RemoteProtocolError(why)
    try:
        return _new_tuple(
            Message,
            (
                _STATUS[status],
                _new_tuple(Name, (client, sequence, attempt)),
                _OPERATION[operation],
                _REASON[reason],
                version,
                data[key_at:value_at],
                data[value_at:value_end],
            ),
        )
    except KeyError:
        why = f"no message has status {status}, operation {operation}, reason {reason}"
        raise RemoteProtocolError(why) from None
