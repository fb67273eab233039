"""The entries of one range, packed so that a key costs little more than its bytes.

A table is a list of pages, and a page is one immutable `bytes`: rows, one after the other, as a
copy and a snapshot carry them. A key's page is told by its hash. Each row that is new may split
one page into two (linear hashing), so pages stay short and the table grows without a pause. As
pages never change, a copy of the list is a view of the whole table as it was then.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar, overload

from rdht.errors import RemoteProtocolError
from rdht.limits import MAX_RESERVED_PAGES

_ROW = struct.Struct("!HQ?I")  # key's length, version, whether there is a value, its length
_LENGTHS = struct.Struct("!H9xI")
_ROW_BYTES = _ROW.size
_HAS_VALUE = 10  # where it stands in a row
# A page is read through for each get and copied for each put, but it also costs 50 bytes: so many
# bytes of rows, each counted as so much longer, are its mean. That is two rows with values of 64.
_PAGE_LOAD = 512
_ROW_LOAD = 160
_T = TypeVar("_T")


class Entry(NamedTuple):
    """What the table holds for a key.

    A deleted key keeps its version, so that a version never stands for two values.
    """

    value: bytes | None
    version: int


ABSENT = Entry(None, 0)


class Rows(NamedTuple):
    """Packed entries, each beside its key."""

    keys: list[bytes]
    rows: list[bytes]


Place = tuple[int, int]  # of a row: the number of its page, and where it stands there
_pack, _unpack, _lengths = _ROW.pack, _ROW.unpack_from, _LENGTHS.unpack_from
_new_tuple = tuple.__new__  # a named tuple's own constructor costs three times as much


def pack_row(key: bytes, entry: Entry) -> bytes:
    """Return an entry as a row."""
    value, version = entry
    if value is None:
        return _pack(len(key), version, False, 0) + key
    return _pack(len(key), version, True, len(value)) + key + value


def unpack_rows(page: bytes, count: int) -> tuple[Rows, bytes]:
    """Return the first `count` rows of a page of a copy, and what follows them.

    Raises RemoteProtocolError if the page is cut.
    """
    keys: list[bytes] = []
    rows: list[bytes] = []
    at = 0
    try:
        for _ in range(count):
            key_bytes, value_bytes = _lengths(page, at)
            key_at = at + _ROW_BYTES
            value_at = key_at + key_bytes
            end = value_at + value_bytes
            keys.append(page[key_at:value_at])
            rows.append(page[at:end])
            at = end
    except struct.error as error:
        why = f"a page of a copy is malformed: {error}"
        raise RemoteProtocolError(why) from error
    if at > len(page):
        why = "a page of a copy ends within a row"
        raise RemoteProtocolError(why)
    return Rows(keys, rows), page[at:]


def entries_of(page: bytes) -> Iterator[tuple[bytes, Entry]]:
    """Yield the entries of a page that has nothing but rows."""
    at, end = 0, len(page)
    while at < end:
        key_bytes, version, has_value, value_bytes = _unpack(page, at)
        key_at = at + _ROW_BYTES
        value_at = key_at + key_bytes
        at = value_at + value_bytes
        yield page[key_at:value_at], Entry(page[value_at:at] if has_value else None, version)


def cut(pages: list[bytes], place: Place, size_bytes: int) -> tuple[bytes, int, Place]:
    """Return about so many bytes of rows from that place on, their number, and the next place.

    They may be a row more, or a page of at most the same size. (len(pages), 0) is the end.
    """
    number, at = place
    taken: list[bytes] = []
    missing = size_bytes
    while number < len(pages) and (missing > 0 or not pages[number]):
        piece = pages[number]
        if at or len(piece) > size_bytes:  # row by row
            end = _end(piece, at)
            piece, at = piece[at:end], end if end < len(piece) else 0
        number += not at
        taken.append(piece)
        missing -= len(piece)
    rows = b"".join(taken)
    count = end = 0
    while end < len(rows):
        end = _end(rows, end)
        count += 1
    return rows, count, (number, at)


def _end(page: bytes, at: int) -> int:
    """Return where the row ends that begins there."""
    key_bytes, value_bytes = _lengths(page, at)
    end: int = at + _ROW_BYTES + key_bytes + value_bytes
    return end


class Table(Mapping[bytes, Entry]):
    """Keys and their entries; no key is ever removed."""

    __slots__ = ("_load", "_mask", "_pages", "_room", "_rows", "values_held")

    def __init__(self, entries: Mapping[bytes, Entry] | Iterable[tuple[bytes, Entry]] = ()) -> None:
        """Hold these entries."""
        self.values_held = 0  # keys that have a value
        self._pages = [b""]
        self._mask = 0  # bits of a hash: the number of a page, or of one not split off yet
        self._rows = 0
        self._load, self._room = 0, _PAGE_LOAD
        self.update(entries)

    @overload
    def get(self, key: bytes, /) -> Entry | None: ...
    @overload
    def get(self, key: bytes, /, default: Entry | _T) -> Entry | _T: ...
    def get(self, key: bytes, /, default: Entry | _T | None = None) -> Entry | _T | None:
        """Return the entry of a key."""
        pages = self._pages
        number = hash(key) & self._mask
        if number >= len(pages):
            number &= self._mask >> 1
        page = pages[number]
        # As in `_find`, which would cost half as much again.
        hit = page.find(key, _ROW_BYTES)
        at = 0
        while hit >= 0:
            key_bytes, version, has_value, value_bytes = _unpack(page, at)
            key_at = at + _ROW_BYTES
            value_at = key_at + key_bytes
            at = value_at + value_bytes
            if hit == key_at and key_bytes == len(key):
                return _new_tuple(Entry, (page[value_at:at] if has_value else None, version))
            if hit < at + _ROW_BYTES:
                hit = page.find(key, at + _ROW_BYTES)
        return default

    def __getitem__(self, key: bytes) -> Entry:
        """Return the entry of a key; KeyError if there is none."""
        entry = self.get(key)
        if entry is None:
            raise KeyError(key)
        return entry

    def __setitem__(self, key: bytes, entry: Entry) -> None:
        """Set the entry of a key."""
        self.put(key, pack_row(key, entry))

    def update(self, entries: Mapping[bytes, Entry] | Iterable[tuple[bytes, Entry]]) -> None:
        """Set the entries of many keys."""
        for key, entry in entries.items() if isinstance(entries, Mapping) else entries:
            self.put(key, pack_row(key, entry))

    def put(self, key: bytes, row: bytes) -> None:
        """Set the entry of a key, packed as a row."""
        pages = self._pages
        number = hash(key) & self._mask
        if number >= len(pages):
            number &= self._mask >> 1
        page = pages[number]
        at, end = _find(page, key)
        if end:
            pages[number] = page[:at] + row + page[end:]
            self._load += len(row) - end + at
            self.values_held += bool(row[_HAS_VALUE]) - bool(page[at + _HAS_VALUE])
        else:
            pages[number] = page + row
            self._load += len(row) + _ROW_LOAD
            self.values_held += bool(row[_HAS_VALUE])
            self._rows += 1
        if self._load > self._room:
            self._grow()

    def reserve(self, pages: int) -> None:
        """Let an empty table begin with so many pages: it need not share out rows to grow there."""
        pages = min(max(pages, 1), MAX_RESERVED_PAGES)
        self._pages = [b""] * pages
        self._mask = (1 << (pages - 1).bit_length()) - 1
        self._room = pages * _PAGE_LOAD

    def put_all(self, rows: Rows) -> None:
        """Set the entries of many keys, at a third of the cost a key if most of them are new."""
        self._load += sum(map(len, rows.rows)) + _ROW_LOAD * len(rows.rows)
        self._grow()
        pages, mask = self._pages, self._mask
        count, held = len(rows.rows), self.values_held
        again: list[tuple[bytes, bytes]] = []
        for key, row in zip(rows.keys, rows.rows, strict=True):
            number = hash(key) & mask
            if number >= len(pages):
                number &= mask >> 1
            page = pages[number]
            if key in page:
                again.append((key, row))
            else:
                pages[number] = page + row
                held += row[_HAS_VALUE] != 0
        self.values_held = held
        self._rows += count - len(again)
        for key, row in again:
            self._load -= len(row) + _ROW_LOAD
            self.put(key, row)

    def _grow(self) -> None:
        """Share out the rows of the next page in turn to it and a new one, till there is room."""
        pages, room, mask = self._pages, self._room, self._mask
        while self._load > room:
            if len(pages) > mask:
                mask = 2 * mask + 1
            number = len(pages) & (mask >> 1)
            page = pages[number]
            kept: list[bytes] = []
            moved: list[bytes] = []
            for key, row in _rows(page):
                (kept if hash(key) & mask == number else moved).append(row)
            pages[number] = b"".join(kept)
            pages.append(b"".join(moved))
            room += _PAGE_LOAD
        self._room, self._mask = room, mask

    def pages(self) -> list[bytes]:
        """Return all pages as they are now, for `entries_of` and `cut`."""
        return self._pages.copy()

    def __iter__(self) -> Iterator[bytes]:
        """Yield all keys as they are now."""
        return (key for page in self.pages() for key, _ in entries_of(page))

    def __len__(self) -> int:
        """Return the number of keys, those without a value too."""
        return self._rows


def _find(page: bytes, key: bytes) -> tuple[int, int]:
    """Return where the key's row begins and ends in a page; (0, 0) if it has none."""
    hit = page.find(key, _ROW_BYTES)  # may be within a value, or within another key
    at = 0
    while hit >= 0:
        key_bytes, value_bytes = _lengths(page, at)
        key_at = at + _ROW_BYTES
        end = key_at + key_bytes + value_bytes
        if hit == key_at and key_bytes == len(key):
            return at, end
        at = end
        if hit < at + _ROW_BYTES:
            hit = page.find(key, at + _ROW_BYTES)
    return 0, 0


def _rows(page: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each key of a page with its row."""
    at, end = 0, len(page)
    while at < end:
        key_bytes, value_bytes = _lengths(page, at)
        key_at = at + _ROW_BYTES
        value_at = key_at + key_bytes
        row_at, at = at, value_at + value_bytes
        yield page[key_at:value_at], page[row_at:at]
