import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht.errors import RemoteProtocolError
from rdht.limits import COPY_PAGE_BYTES
from rdht.messages import Message, Status
from rdht.replica import (
    ABSENT,
    Copy,
    Entry,
    Mode,
    Replica,
    pack_pages,
    pack_row,
    unpack_rows,
)

ENTRIES = st.builds(Entry, st.none() | st.binary(max_size=20), st.integers(0, 2**64 - 1))
TABLES = st.dictionaries(st.binary(max_size=40), ENTRIES, max_size=8)
ROWS = pack_row(b"key", Entry(b"value", 1)) + pack_row(b"gone", Entry(None, 2))


def test_a_new_replica_holds_nothing_and_waits_for_its_place() -> None:
    replica = Replica(3, "b")
    assert (replica.number, replica.partner) == (3, "b")
    assert (replica.mode, replica.epoch, replica.intact) == (Mode.JOINING, 0, False)
    assert replica.table == {}


def test_an_absent_key_has_no_value_and_the_lowest_version() -> None:
    assert Entry(None, 0) == ABSENT


def test_a_replica_with_a_copy_is_intact_and_has_lost_what_it_had() -> None:
    replica = Replica(3, "b")
    replica.table[b"old"] = Entry(b"x", 9)
    copy = Copy(*pack_pages(3, [(b"k", Entry(b"v", 1))]))
    replica.install(Message(Status.JOINED, epoch=5, version=7), copy)
    assert (replica.epoch, replica.founded, replica.intact) == (5, 7, True)
    assert replica.table == {b"k": Entry(b"v", 1)}


@given(TABLES, st.binary(max_size=20))
def test_rows_come_out_as_they_went_in_and_leave_what_follows(
    table: dict[bytes, Entry], rest: bytes
) -> None:
    page = b"".join(pack_row(key, entry) for key, entry in table.items())
    entries: dict[bytes, Entry] = {}
    assert unpack_rows(page + rest, len(table), entries) == rest
    assert entries == table


def test_an_empty_value_and_a_deleted_key_are_told_apart() -> None:
    entries: dict[bytes, Entry] = {}
    unpack_rows(pack_row(b"a", Entry(b"", 1)) + pack_row(b"b", Entry(None, 1)), 2, entries)
    assert entries == {b"a": Entry(b"", 1), b"b": Entry(None, 1)}


@pytest.mark.parametrize("size", range(len(ROWS)))
def test_rows_that_are_cut_anywhere_are_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=r"a page of a copy (is malformed|ends within)"):
        unpack_rows(ROWS[:size], 2, {})


@given(st.binary(max_size=100), st.integers(0, 3) | st.just(2**32 - 1))
def test_garbage_raises_nothing_but_a_remote_protocol_error(page: bytes, count: int) -> None:
    entries: dict[bytes, Entry] = {}
    try:
        rest = unpack_rows(page, count, entries)
    except RemoteProtocolError:
        return
    assert len(rest) <= len(page)
    assert len(entries) <= count


def test_a_table_of_many_pages_comes_back_from_them() -> None:
    table = {b"k%d" % at: Entry(bytes(COPY_PAGE_BYTES // 4), at) for at in range(9)}
    pages = list(pack_pages(3, table.items()))
    assert len(pages) > 2
    copy = Copy()
    for page in pages:
        assert (page.range, page.version) == (3, copy.size), "each goes on where the others end"
        copy.extend(Copy(page))
    assert copy.entries == table
    assert copy.pages == pages
