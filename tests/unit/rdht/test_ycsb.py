"""The core workloads of YCSB: their mixes, how popular their records are, and their keys."""

import random
from collections import Counter
from itertools import islice, pairwise

import pytest

from rdht.coordinator import Command
from rdht.messages import Operation
from rdht.ycsb import MIXES, Zipfian, commands, key_of, load_commands

COUNT = 20_000
RECORDS = 100


def first(workload: str, count: int = COUNT, thread: str = "c1/0") -> list[Command]:
    return list(islice(commands(workload, RECORDS, 8, 7, thread), count))


def test_keys_are_those_of_ycsb() -> None:
    assert [key_of(0), key_of(1)] == [b"user6284781860667377211", b"user8517097267634966620"]


def test_all_records_are_written_before() -> None:
    written = list(load_commands(RECORDS, 8, 7))
    assert {command.operation for command in written} == {Operation.PUT}
    assert {command.key for command in written} == set(map(key_of, range(RECORDS)))
    assert {len(command.value) for command in written} == {8}
    assert len(written) == RECORDS


@pytest.mark.parametrize("workload", MIXES)
def test_the_same_seed_and_thread_give_the_same_commands(workload: str) -> None:
    assert first(workload, 100) == first(workload, 100)
    assert first(workload, 100) != first(workload, 100, "c1/1")


@pytest.mark.parametrize(
    ("workload", "gets", "puts", "adds"),
    [
        ("ycsb-a", 0.5, 0.5, 0),
        ("ycsb-b", 0.95, 0.05, 0),
        ("ycsb-c", 1, 0, 0),
        ("ycsb-d", 0.95, 0, 0.05),
        ("ycsb-f", 2 / 3, 1 / 3, 0),  # half of what it does is a get and a put
    ],
)
def test_a_workload_has_the_published_mix(
    workload: str, gets: float, puts: float, adds: float
) -> None:
    counts = Counter(command.operation for command in first(workload))
    shares = [counts[kind] / COUNT for kind in (Operation.GET, Operation.PUT, Operation.ADD)]
    assert shares == pytest.approx([gets, puts, adds], abs=0.015)
    assert {len(one.value) for one in first(workload) if one.operation is not Operation.GET} <= {8}


def test_a_read_modify_write_puts_what_was_got_just_before() -> None:
    follows = [
        one.operation is Operation.GET and one.key == other.key
        for one, other in pairwise(first("ycsb-f"))
        if other.operation is Operation.PUT
    ]
    assert follows
    assert all(follows)


@pytest.mark.parametrize("items", [2, 3, 1000])
def test_popularity_is_by_zipfs_law(items: int) -> None:
    drawn = Counter(islice(iter(Zipfian(random.Random(7), items).draw, -1), COUNT))
    weights = [number**-0.99 for number in range(1, items + 1)]
    assert set(drawn) <= set(range(items))
    for number in (0, 1):
        assert drawn[number] / COUNT == pytest.approx(weights[number] / sum(weights), abs=0.012)
    tail = sum(count for number, count in drawn.items() if number >= items // 2)
    assert tail / COUNT == pytest.approx(sum(weights[items // 2 :]) / sum(weights), abs=0.02)


def test_popularity_grows_with_the_items_as_if_there_had_been_so_many() -> None:
    grown, whole = Zipfian(random.Random(7), 50), Zipfian(random.Random(7), 60)
    for _ in range(10):
        grown.grow()
    assert [grown.draw() for _ in range(200)] == [whole.draw() for _ in range(200)]


def test_the_most_popular_record_has_the_share_that_ycsb_gives_it() -> None:
    counts = Counter(command.key for command in first("ycsb-c"))
    (_, most), (_, second) = counts.most_common(2)
    # 1 in the sum of all weights, and what the hash brings to the same of 100 records.
    assert most / COUNT >= 1 / 26.47 - 0.005
    assert second < most <= 0.1 * COUNT
    assert set(counts) <= set(map(key_of, range(RECORDS)))


def test_the_latest_records_are_read_most_also_when_they_are_new() -> None:
    before = set(map(key_of, range(RECORDS)))
    seen = first("ycsb-d")
    first_insert = next(at for at, one in enumerate(seen) if one.operation is Operation.ADD)
    assert {one.key for one in seen[:first_insert]} <= before
    inserted: list[bytes] = []
    newest = reads = 0
    for command in seen:
        if command.operation is Operation.ADD:
            assert command.key not in before
            inserted.append(command.key)
        else:
            assert command.key in before or command.key in inserted
            reads += 1
            newest += bool(inserted) and command.key == inserted[-1]
    assert newest / reads > 0.1  # of a thousand, with a hundredth each if all were alike
    assert len(set(inserted)) == len(inserted)
    others = {one.key for one in first("ycsb-d", thread="c1/1") if one.operation is Operation.ADD}
    assert others.isdisjoint(inserted)
