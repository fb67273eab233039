import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rdht.errors import RemoteProtocolError
from rdht.limits import MAX_RESERVED_PAGES
from rdht.table import ABSENT, Entry, Rows, Table, cut, entries_of, pack_row, unpack_rows

# Short keys of few letters, and values that look like rows, meet each other within a page.
KEYS = st.text("ab", max_size=3).map(str.encode) | st.binary(max_size=40)
LIKE_A_ROW = st.builds(lambda key: b"v" + pack_row(key, Entry(key, 1)) + b"v", KEYS)
VALUES = st.binary(max_size=20) | LIKE_A_ROW | st.sampled_from([b"x" * 600, b"x" * 5000])
ENTRIES = st.builds(Entry, st.none() | VALUES, st.integers(0, 2**64 - 1))
PAIRS = st.lists(st.tuples(KEYS, ENTRIES), max_size=60)
TABLES = st.dictionaries(st.binary(max_size=40), ENTRIES, max_size=8)
ROWS = pack_row(b"key", Entry(b"value", 1)) + pack_row(b"gone", Entry(None, 2))


def test_an_absent_key_has_no_value_and_the_lowest_version() -> None:
    assert Entry(None, 0) == ABSENT
    assert Table().get(b"key", ABSENT) is ABSENT


@given(PAIRS, st.lists(KEYS))
@example([(b"a", Entry(pack_row(b"b", Entry(b"no", 1)), 1)), (b"b", Entry(b"yes", 2))], [b""])
def test_a_table_holds_what_a_dict_would(
    pairs: list[tuple[bytes, Entry]], asked: list[bytes]
) -> None:
    table, expected = Table(), {}
    for key, entry in pairs:
        table[key] = expected[key] = entry
        assert table[key] == entry
    assert table == expected
    assert len(table) == len(expected)
    assert set(table) == set(expected)
    assert table.values_held == sum(entry.value is not None for entry in expected.values())
    for key in [*asked, *expected]:
        assert table.get(key) == expected.get(key)
        assert (key in table) == (key in expected)


def test_no_such_key_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Table({b"a": Entry(b"", 1)})[b"b"]


@given(PAIRS, PAIRS)
def test_a_view_is_what_the_table_was_then(
    pairs: list[tuple[bytes, Entry]], more: list[tuple[bytes, Entry]]
) -> None:
    table = Table(pairs)
    before = dict(table.items())
    pages, keys = table.pages(), iter(table)
    table.update(more)
    assert {key: entry for page in pages for key, entry in entries_of(page)} == before
    assert set(keys) == set(before)


def test_pages_stay_short_however_many_keys_there_are() -> None:
    table = Table((b"%d" % at, Entry(b"x" * 64, at)) for at in range(10_000))
    sizes = [len(page) for page in table.pages()]
    assert 4000 < len(sizes) < 6000
    assert max(sizes) < 20 * sum(sizes) / len(sizes)


def test_long_values_have_pages_of_their_own() -> None:
    table = Table((b"%d" % at, Entry(bytes(100_000), at)) for at in range(100))
    assert sum(bool(page) for page in table.pages()) > 50


def test_a_page_takes_room_for_a_key_that_is_new_only() -> None:
    table = Table({b"key": Entry(b"x", 1)})
    for version in range(2, 1000):
        table[b"key"] = Entry(b"x" * (version % 7), version)
    assert len(table.pages()) == 1


@given(PAIRS, st.lists(st.integers(1, 2000), min_size=1, max_size=3))
def test_rows_are_cut_off_in_turn_however_many_at_once(
    pairs: list[tuple[bytes, Entry]], sizes_bytes: list[int]
) -> None:
    table = Table(pairs)
    found: dict[bytes, Entry] = {}
    pages, place = table.pages(), (0, 0)
    for size_bytes in itertools.cycle(sizes_bytes):
        rows, count, place = cut(pages, place, size_bytes)
        entries = dict(entries_of(rows))
        assert len(entries) == count
        assert len(rows) < 2 * size_bytes or len(rows) - size_bytes < 5100
        assert found.keys().isdisjoint(entries)
        found |= entries
        if place == (len(pages), 0):
            break
        assert rows
    assert table == found


@given(PAIRS, PAIRS, st.integers(0, 100))
def test_rows_are_put_together_as_one_by_one(
    pairs: list[tuple[bytes, Entry]], more: list[tuple[bytes, Entry]], reserved: int
) -> None:
    table, expected = Table(), Table(pairs + more)
    table.reserve(reserved)
    for some in (pairs, more):
        keys = [key for key, _ in some]
        table.put_all(Rows(keys, [pack_row(*pair) for pair in some]))
    assert table == expected
    assert (len(table), table.values_held) == (len(expected), expected.values_held)
    assert (table._load, table._room) == (expected._load, max(expected._room, table._room))


def test_a_table_that_knows_its_size_need_not_grow_up_to_it() -> None:
    one = Table((b"%d" % at, Entry(b"x", at)) for at in range(1000))
    other = Table()
    other.reserve(len(one.pages()))
    other.update(one)
    assert len(other.pages()) == len(one.pages())
    other.update({b"more %d" % at: Entry(b"x", at) for at in range(1000)})
    assert set(other) > set(one)
    other = Table()
    other.reserve(2**32 - 1)
    assert len(other.pages()) == MAX_RESERVED_PAGES


@given(TABLES, st.binary(max_size=20))
def test_rows_come_out_as_they_went_in_and_leave_what_follows(
    table: dict[bytes, Entry], rest: bytes
) -> None:
    page = b"".join(pack_row(key, entry) for key, entry in table.items())
    rows, left = unpack_rows(page + rest, len(table))
    assert left == rest
    assert rows.keys == list(table)
    assert rows.rows == [pack_row(key, entry) for key, entry in table.items()]
    assert list(entries_of(page)) == list(table.items())


def test_an_empty_value_and_a_deleted_key_are_told_apart() -> None:
    entries = {b"a": Entry(b"", 1), b"b": Entry(None, 1)}
    assert Table(entries) == entries


@pytest.mark.parametrize("size", range(len(ROWS)))
def test_rows_that_are_cut_anywhere_are_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=r"a page of a copy (is malformed|ends within)"):
        unpack_rows(ROWS[:size], 2)


@given(st.binary(max_size=100), st.integers(0, 3) | st.just(2**32 - 1))
def test_garbage_raises_nothing_but_a_remote_protocol_error(page: bytes, count: int) -> None:
    try:
        rows, rest = unpack_rows(page, count)
    except RemoteProtocolError:
        return
    assert len(rest) <= len(page)
    assert len(rows.keys) == len(rows.rows) == count
