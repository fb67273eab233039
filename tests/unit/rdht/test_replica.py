import pytest

from rdht.limits import COPY_PAGE_BYTES
from rdht.messages import Message, Status
from rdht.replica import Copy, CopyPage, Mode, Replica, pack_pages
from rdht.table import Entry, Table


def test_a_new_replica_holds_nothing_and_waits_for_its_place() -> None:
    replica = Replica(3, "b")
    assert (replica.number, replica.partner) == (3, "b")
    assert (replica.mode, replica.epoch, replica.intact) == (Mode.JOINING, 0, False)
    assert replica.table == {}


def test_a_replica_with_a_copy_is_intact_and_has_lost_what_it_had() -> None:
    replica = Replica(3, "b")
    replica.table[b"old"] = Entry(b"x", 9)
    copy = Copy(*pack_pages(3, Table({b"k": Entry(b"v", 1)}).pages()))
    replica.install(Message(Status.JOINED, epoch=5, version=7), copy)
    assert (replica.epoch, replica.founded, replica.intact) == (5, 7, True)
    assert replica.table == {b"k": Entry(b"v", 1)}


@pytest.mark.parametrize("large", [0, 1, 9])
def test_a_table_of_many_pages_comes_back_from_them(large: int) -> None:
    table = Table({b"k%d" % at: Entry(bytes(COPY_PAGE_BYTES // 4), at) for at in range(30)})
    table.update({b"l%d" % at: Entry(bytes(2 * COPY_PAGE_BYTES), at) for at in range(large)})
    pages = list(pack_pages(3, table.pages()))
    assert len(pages) > 2
    assert all(page.value for page in pages)
    copy = Copy()
    for page in pages:
        assert (page.range, page.version) == (3, copy.size), "each goes on where the others end"
        copy.extend(CopyPage.unpack(page))
    assert copy.table == table
    assert Copy(*pages).pages == pages


def test_an_empty_table_is_one_page() -> None:
    (page,) = pack_pages(3, Table().pages())
    assert (page.version, page.value) == (0, b"")
