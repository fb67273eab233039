"""Intervals: of all that are made of random data, 95 % have the truth in them."""

import itertools
import random
from collections.abc import Callable

import pytest

from analysis import intervals
from analysis.intervals import Interval
from rdht.records import Histogram

TRIALS = 300
Draw = Callable[[random.Random], float]


def steady(chance: random.Random) -> float:
    return chance.gauss(100, 10)


def stalling(chance: random.Random) -> float:
    """Return a second's throughput, of which one in ten is a stall; their mean is 92."""
    return chance.gauss(100, 5) if chance.random() < 0.9 else 20.0


def covered(truth: float, make: Callable[[random.Random], Interval | None]) -> float:
    """Return the share of random data's intervals that the truth is in."""
    chance = random.Random(7)
    found = [interval for _ in range(TRIALS) if (interval := make(chance))]
    assert len(found) == TRIALS
    return sum(low <= truth <= high for low, high in found) / TRIALS


def histograms(
    chance: random.Random, count: int, values: int = 30, factor: float = 1
) -> list[Histogram]:
    """Return latencies around 3 ms of threads, some of which are slower than others."""
    made = []
    for _ in range(count):
        own, one = factor * chance.lognormvariate(0, 0.2), Histogram()
        for _ in range(values):
            one.add(int(own * chance.lognormvariate(8, 0.5)))
        made.append(one)
    return made


@pytest.mark.parametrize(
    ("degrees", "published"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1e6, 1.96)],
)
def test_students_quantiles_are_those_of_the_tables(degrees: float, published: float) -> None:
    assert intervals.student_quantile(degrees) == pytest.approx(published, abs=0.0006)


def test_a_fraction_of_a_degree_lies_between_whole_ones() -> None:
    quantiles = [intervals.student_quantile(degrees) for degrees in (2, 2.5, 3)]
    assert quantiles == sorted(quantiles, reverse=True)
    assert len(set(quantiles)) == 3


def test_the_interval_of_a_mean_is_that_of_the_textbook() -> None:
    # Mean 10, standard deviation 2, so half of it is 3.182 * 2 / sqrt(4).
    interval = intervals.of_mean([8, 10, 10, 12.0])
    assert interval == pytest.approx((10 - 2.598, 10 + 2.598), abs=0.001)
    assert intervals.of_mean([7.0]) is None
    assert intervals.of_mean([7.0, 7.0]) == (7.0, 7.0)


@pytest.mark.parametrize("size", [2, 3, 5, 20])
def test_a_mean_is_in_its_interval(size: int) -> None:
    share = covered(100, lambda chance: intervals.of_mean([steady(chance) for _ in range(size)]))
    assert 0.90 <= share <= 0.98


@pytest.mark.parametrize("sizes", [(2, 2), (2, 5), (3, 3), (5, 5), (30, 30)])
@pytest.mark.parametrize("draw", [steady, stalling])
def test_a_ratio_of_means_is_in_its_interval(sizes: tuple[int, int], draw: Draw) -> None:
    def make(chance: random.Random) -> Interval | None:
        a, b = ([draw(chance) for _ in range(size)] for size in sizes)
        return intervals.of_ratio(a, [1.5 * value for value in b])

    # Too wide rather than too narrow where a stall is likely to be in none of few values.
    assert 0.92 <= covered(1.5, make) <= 0.995


def test_a_difference_is_found_and_its_direction() -> None:
    low, high = intervals.of_ratio([100, 101, 99], [200, 202, 198]) or (0, 0)
    assert 1.9 < low < 2 < high < 2.1
    low, high = intervals.of_ratio([200, 202, 198], [100, 101, 99]) or (0, 0)
    assert 0.48 < low < 0.5 < high < 0.52


def test_values_that_are_equal_as_they_are_rounded_decide_nothing() -> None:
    low, high = intervals.of_ratio([28031, 28031], [28287, 28287], 1 / 128) or (1, 1)
    assert low < 1 < high
    wide = intervals.of_ratio([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]) or (0, 0)
    wider = intervals.of_ratio([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], 0.5) or (0, 0)
    assert wider[0] < wide[0] < wide[1] < wider[1]


def test_values_that_do_not_vary_have_an_interval_without_width() -> None:
    assert intervals.of_ratio([4, 4], [2, 2]) == (0.5, 0.5)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1, 2.0]), ([1, 2.0], [1.0]), ([0, 0.0], [1, 2.0])])
def test_what_has_no_ratio_or_does_not_vary_has_no_interval(a: list[float], b: list[float]) -> None:
    assert intervals.of_ratio(a, b) is None
    assert intervals.of_ratio(b, a) is None


@pytest.mark.parametrize(("count", "percent"), [(4, 50), (4, 99), (8, 99)])
def test_a_ratio_of_percentiles_is_in_its_interval(count: int, percent: float) -> None:
    def make(chance: random.Random) -> Interval | None:
        a, b = (histograms(chance, count, factor=factor) for factor in (1, 1.5))
        return intervals.of_percentile_ratio(a, b, percent)

    assert 0.90 <= covered(1.5, make) <= 0.99


def test_the_same_histograms_have_the_same_interval() -> None:
    found = []
    for seed in (*range(5), *range(5)):
        a, b = (histograms(random.Random(10 * seed + side), 40) for side in (1, 2))
        found.append(intervals.of_percentile_ratio(a, b, 50))
    assert found[:5] == found[5:]
    assert len(set(found)) == 5


def test_threads_that_are_alike_have_the_percentile_of_the_histogram_itself() -> None:
    (one,) = histograms(random.Random(3), 1, values=1000)
    (other,) = histograms(random.Random(4), 1, values=1000)
    for percent in (50, 99, 100):
        value, theirs = one.percentile(percent), other.percentile(percent)
        assert value
        assert theirs
        found = intervals.of_percentile_ratio([one] * 5, [other] * 5, percent)
        # The last bucket's end is known to the histogram, and not to the interval.
        assert found == pytest.approx((theirs / value,) * 2, rel=1e-12 if percent < 100 else 1 / 64)


def test_idle_threads_do_not_count_and_too_few_tell_nothing() -> None:
    a = histograms(random.Random(3), 4)
    assert intervals.of_percentile_ratio(a, a, 99) is not None
    idle = [*a, Histogram()]
    for one, other in itertools.permutations((a, idle)):
        assert intervals.of_percentile_ratio(one, other, 99) is not None
        assert intervals.of_percentile_ratio(one, [*other[:3], Histogram()], 99) is None
        assert intervals.of_percentile_ratio([], other, 99) is None
