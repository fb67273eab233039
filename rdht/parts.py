"""A command on many keys: how its share for one server, and the answer to it, are packed.

A MANY request names all ranges that the command touches, each with its epoch, and has the
operations on those keys that the receiver holds. Each of them is a REQUEST message of its own.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rdht.errors import RemoteProtocolError
from rdht.limits import MAX_KEY_BYTES, MAX_KEYS, MAX_VALUE_BYTES
from rdht.messages import Message, Name, Operation, Status

_COUNTS = struct.Struct("!HH")
_RANGE = struct.Struct("!HI")
_PART = struct.Struct("!HBQHI")
_RESULT = struct.Struct("!?QI")
_OPERATIONS = {int(member): member for member in Operation if 0 < member < Operation.MANY}


class Result(NamedTuple):
    """What became of one key: whether the operation found what it asks for, and what is there."""

    found: bool
    version: int
    value: bytes = b""


def pack(ranges: Iterable[tuple[int, int]], parts: Sequence[Message]) -> bytes:
    """Return the value of a MANY request for all `ranges` (range, epoch) of the command."""
    packed = b"".join(_RANGE.pack(*pair) for pair in ranges)
    rows = [
        _PART.pack(part.range, part.operation, part.version, len(part.key), len(part.value))
        + part.key
        + part.value
        for part in parts
    ]
    return _COUNTS.pack(len(packed) // _RANGE.size, len(rows)) + packed + b"".join(rows)


def unpack(value: bytes, name: Name) -> tuple[tuple[tuple[int, int], ...], tuple[Message, ...]]:
    """Return the ranges with their epochs and the parts; RemoteProtocolError if cut or too many."""
    try:
        range_count, part_count = _COUNTS.unpack_from(value)
        at = _COUNTS.size + range_count * _RANGE.size
        pairs = tuple(_RANGE.iter_unpack(value[_COUNTS.size : at]))
        epochs: dict[int, int] = dict(pairs)
        parts = []
        for _ in range(part_count):
            range_, operation, version, key_bytes, value_bytes = _PART.unpack_from(value, at)
            key_at = at + _PART.size
            value_at = key_at + key_bytes
            at = value_at + value_bytes
            if key_bytes > MAX_KEY_BYTES or value_bytes > MAX_VALUE_BYTES:
                why = f"a part has a key of {key_bytes} and a value of {value_bytes} bytes"
                raise RemoteProtocolError(why)
            parts.append(
                Message(
                    Status.REQUEST,
                    name,
                    _OPERATIONS[operation],
                    range=range_,
                    epoch=epochs[range_],
                    version=version,
                    key=value[key_at:value_at],
                    value=value[value_at:at],
                )
            )
    except (struct.error, KeyError) as error:
        why = f"the parts of a command are malformed: {error}"
        raise RemoteProtocolError(why) from error
    keys = {part.key for part in parts}
    if at != len(value) or len(epochs) != range_count or not len(keys) == part_count <= MAX_KEYS:
        why = f"a command of {part_count} parts on {len(keys)} keys, {at} of {len(value)} bytes"
        raise RemoteProtocolError(why)
    return pairs, tuple(sorted(parts, key=lambda part: part.key))


def pack_results(results: Iterable[Result]) -> bytes:
    """Return the value of a vote on a MANY request: a result a part, in order of the keys."""
    return b"".join(
        _RESULT.pack(found, version, len(value)) + value for found, version, value in results
    )


def unpack_results(value: bytes) -> list[Result]:
    """Return the results in order of the keys; RemoteProtocolError if they are cut."""
    results = []
    at = 0
    while at < len(value):
        try:
            found, version, value_bytes = _RESULT.unpack_from(value, at)
        except struct.error as error:
            why = f"the results of a command are malformed: {error}"
            raise RemoteProtocolError(why) from error
        value_at = at + _RESULT.size
        at = value_at + value_bytes
        results.append(Result(found, version, value[value_at:at]))
    if at != len(value):
        why = "the results of a command are cut short"
        raise RemoteProtocolError(why)
    return results
