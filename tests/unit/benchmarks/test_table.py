"""What the table of our speed beside others' says of a run."""

import pytest

from benchmarks.contenders import CONTENDERS, Counted
from benchmarks.peers import ADAPTERS, holders
from benchmarks.stage import Usage
from benchmarks.table import LATENCY_TARGETS, TARGETS, Round, Target, ratios
from benchmarks.trial import Figures

TARGET = Target("", "fast", ("redis", "redis-together"), 2.5)


def figures(per_s: float) -> Figures:
    return Figures(Counted(1, per_s, 2, 0, {}, {}), Usage(1 / per_s, 0, 1, 100))


def speeds(rounds: list[Round]) -> list[float]:
    return ratios(rounds, TARGET, lambda one: one.counted.per_s)


def test_a_ratio_is_to_the_best_of_the_others_of_the_same_round() -> None:
    quiet = {"fast": figures(30), "redis": figures(10), "redis-together": figures(15)}
    busy = {"fast": figures(4), "redis": figures(4), "redis-together": figures(2)}
    assert speeds([quiet, busy]) == [2, 1]


@pytest.mark.parametrize("failed", ["fast", "redis", "redis-together"])
def test_a_round_without_one_of_them_has_no_ratio(failed: str) -> None:
    whole = {"fast": figures(30), "redis": figures(10), "redis-together": figures(15)}
    part = {name: one for name, one in whole.items() if name != failed}
    assert speeds([part, whole]) == [2]


def test_a_target_and_a_peers_load_name_contenders() -> None:
    names = {contender.name for contender in CONTENDERS}
    assert len(names) == len(CONTENDERS)
    assert set(ADAPTERS) <= names
    for target in [*TARGETS, *LATENCY_TARGETS.values()]:
        assert {target.ours, *target.others} <= names


def test_a_key_is_held_by_two_neighbours_on_the_ring() -> None:
    servers = [0, 1, 2, 3, 4]
    pairs = {holders(b"%d" % number, servers) for number in range(1000)}
    assert pairs == {(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)}
