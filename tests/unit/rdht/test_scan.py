from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht import scan
from rdht.errors import RemoteProtocolError
from rdht.limits import MAX_KEY_BYTES, SCAN_PAGE_BYTES
from rdht.ring import Replicas, Ring
from rdht.roster import Roster
from rdht.scan import Digest
from rdht.table import Entry

ENTRIES = st.builds(Entry, st.none() | st.binary(max_size=20), st.integers(0, 2**64 - 1))
TABLES = st.dictionaries(st.binary(max_size=MAX_KEY_BYTES), ENTRIES, max_size=10)


def digest_of(value: bytes | None, version: int) -> Digest:
    page = scan.pack_page(iter([(b"k", Entry(value, version))]))
    ((_, digest),) = scan.unpack_page(page)
    return digest


@given(TABLES)
def test_a_page_tells_every_key_with_its_version(table: dict[bytes, Entry]) -> None:
    rows = list(scan.unpack_page(scan.pack_page(iter(table.items()))))
    assert [(key, digest.version) for key, digest in rows] == [
        (key, entry.version) for key, entry in table.items()
    ]


def test_pages_end_when_they_are_full_and_an_empty_one_is_the_end() -> None:
    table = {b"%05d" % number: Entry(b"v", 1) for number in range(10_000)}
    entries = iter(table.items())
    pages = []
    while page := scan.pack_page(entries):
        pages.append(page)
    row_bytes = len(pages[-1]) // len(list(scan.unpack_page(pages[-1])))
    assert len(pages) > 2
    assert all(0 <= len(page) - SCAN_PAGE_BYTES < row_bytes for page in pages[:-1])
    assert [key for page in pages for key, _ in scan.unpack_page(page)] == list(table)


def test_digests_tell_values_versions_and_absence_apart() -> None:
    digests = [digest_of(b"a", 1), digest_of(b"b", 1), digest_of(b"a", 2)]
    digests += [digest_of(None, 1), digest_of(b"", 1), digest_of(b"-", 1)]
    assert len(set(digests)) == len(digests)
    assert digest_of(b"a", 1) == digests[0]
    assert len(digests[0].value_hash) == 8


@pytest.mark.parametrize(
    ("missing", "why"), [(1, "within a key"), (3, "within a key"), (4, "within a row")]
)
def test_a_page_that_is_cut_is_refused(missing: int, why: str) -> None:
    page = scan.pack_page(iter([(b"key", Entry(b"v", 1))]))
    with pytest.raises(RemoteProtocolError, match=why):
        list(scan.unpack_page(page[:-missing]))


@given(st.binary(max_size=100))
def test_a_page_of_garbage_raises_nothing_but_a_remote_protocol_error(page: bytes) -> None:
    try:
        rows = list(scan.unpack_page(page))
    except RemoteProtocolError:
        return
    assert sum(18 + len(key) for key, _ in rows) == len(page)


KEY = b"b"
ONE, TWO = digest_of(b"one", 1), digest_of(b"two", 1)


@pytest.fixture
def ring(make_roster: Callable[..., Roster]) -> Ring:
    ring = Ring(make_roster("h0", "h1", "h2"), 3)
    assert ring.replicas(KEY) == Replicas("s2", "s0")
    return ring


def held(**copies: Digest) -> dict[str, dict[bytes, Digest]]:
    return {name: {KEY: copies[name]} if name in copies else {} for name in ("s0", "s1", "s2")}


@pytest.mark.parametrize(
    ("copies", "concerned"),
    [
        ({"s2": ONE, "s0": ONE}, None),
        ({"s2": ONE, "s0": TWO}, ["s2", "s0"]),
        ({"s2": ONE}, ["s2", "s0"]),
        ({"s0": ONE}, ["s2", "s0"]),
        ({"s2": ONE, "s0": ONE, "s1": ONE}, ["s2", "s0", "s1"]),
        ({"s1": ONE}, ["s2", "s0", "s1"]),
    ],
)
def test_a_key_differs_where_its_replicas_do_or_a_third_server_holds_it(
    copies: dict[str, Digest], concerned: list[str] | None, ring: Ring
) -> None:
    expected = [] if concerned is None else [(KEY, concerned)]
    assert list(scan.differing_keys(held(**copies), ring)) == expected


def test_differing_keys_come_in_order_and_equal_ones_not_at_all(ring: Ring) -> None:
    tables: dict[str, dict[bytes, Digest]] = {"s0": {}, "s1": {}, "s2": {}}
    for key in (b"z", b"a", b"m", b"b"):
        primary, backup = ring.replicas(key)
        tables[primary][key] = ONE
        tables[backup][key] = ONE if key == b"m" else TWO
    assert [key for key, _ in scan.differing_keys(tables, ring)] == [b"a", b"b", b"z"]
