"""The mixed workload: every operation, values written once, keys that change with the time."""

from collections import Counter
from itertools import islice

from rdht import mixed
from rdht.coordinator import Command
from rdht.messages import Operation


def first(count: int, elapsed_s: float = 0.0) -> list[tuple[Command, ...]]:
    stream = mixed.commands(1, "pi1/0", lambda: elapsed_s, {b"0-%d" % at: 77 for at in range(99)})
    return list(islice(stream, count))


def test_every_operation_is_there_on_one_key_and_two_on_many() -> None:
    kinds = Counter((parts[0].operation, len(parts) > 1) for parts in first(3000))
    single = {operation for operation, many in kinds if not many}
    assert single == {*Operation} - {Operation.NONE, Operation.MANY}
    assert {operation for operation, many in kinds if many} == {Operation.GET, Operation.PUT}
    assert min(kinds.values()) > 100


def test_a_command_on_many_keys_has_each_once() -> None:
    for parts in first(500):
        assert len({part.key for part in parts}) == len(parts) <= 4
        assert len({part.operation for part in parts}) == 1


def test_no_value_is_written_twice_not_even_with_the_same_seed() -> None:
    values = [part.value for parts in first(1000) + first(1000) for part in parts if part.value]
    assert len(set(values)) == len(values) > 1000
    sizes = {len(value) for value in values}
    assert min(sizes) < 100
    assert max(sizes) > 20_000


def test_a_cas_expects_what_the_thread_was_told_or_any_version() -> None:
    expected = [part.version for (part, *_) in first(5000) if part.operation is Operation.CAS]
    assert 0.6 < expected.count(77) / len(expected) < 0.8
    assert set(expected) - {77} == set(range(10))


def test_keys_change_with_the_time() -> None:
    earlier, later = (
        {part.key for parts in first(500, elapsed_s) for part in parts} for elapsed_s in (0.0, 4.1)
    )
    assert len(earlier) == len(later) == mixed.KEYS
    assert not earlier & later
