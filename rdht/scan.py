"""The replica check: what a server tells of its entries, and whether two servers tell the same."""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rdht.errors import RemoteProtocolError
from rdht.limits import SCAN_PAGE_BYTES
from rdht.ring import Ring
from rdht.table import Entry

_ROW = struct.Struct("!HQ8s")


class Digest(NamedTuple):
    """An entry without its value: the version, and 8 bytes of BLAKE2s over value or absence."""

    version: int
    value_hash: bytes


def hash_value(value: bytes) -> bytes:
    """Return what stands for a value."""
    return hashlib.blake2s(b"+" + value, digest_size=8).digest()


ABSENT = hashlib.blake2s(b"-", digest_size=8).digest()


def pack_page(entries: Iterator[tuple[bytes, Entry]]) -> bytes:
    """Take entries until a page is full, and return it; an empty page is the end."""
    page = bytearray()
    for key, entry in entries:
        value_hash = ABSENT if entry.value is None else hash_value(entry.value)
        page += _ROW.pack(len(key), entry.version, value_hash) + key
        if len(page) >= SCAN_PAGE_BYTES:
            break
    return bytes(page)


def unpack_page(page: bytes) -> Iterator[tuple[bytes, Digest]]:
    """Yield a page's rows; RemoteProtocolError if it is cut."""
    at = 0
    while at < len(page):
        key_at = at + _ROW.size
        if key_at > len(page):
            why = "a scanned page ends within a row"
            raise RemoteProtocolError(why)
        key_bytes, version, value_hash = _ROW.unpack_from(page, at)
        at = key_at + key_bytes
        if at > len(page):
            why = "a scanned page ends within a key"
            raise RemoteProtocolError(why)
        yield page[key_at:at], Digest(version, value_hash)


def differing_keys(
    held: dict[str, dict[bytes, Digest]], ring: Ring
) -> Iterable[tuple[bytes, list[str]]]:
    """Yield each key whose replicas do not hold the same, or that a third server holds.

    `held` has what every server holds; a key comes with the servers that are concerned.
    """
    for key in sorted(set().union(*held.values())):
        replicas = ring.replicas(key)
        copies = {server: digests.get(key) for server, digests in held.items()}
        strangers = [name for name, copy in copies.items() if copy and name not in replicas]
        if copies[replicas.primary] != copies[replicas.backup] or strangers:
            yield key, [*replicas, *strangers]
