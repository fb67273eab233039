"""How the growth of a figure is named."""

import pytest

from benchmarks.growth import Axis, Measured, Point, curve, curves_of, fit
from benchmarks.growth_chart import chart


def test_a_power_is_found_whatever_its_factor() -> None:
    assert fit([(x, 7 * x**1.5) for x in (1, 10, 100)]) == pytest.approx(1.5)
    assert fit([(2, 5), (3, 5), (12, 5)]) == pytest.approx(0)


def test_a_curve_has_each_rounds_exponent_and_that_of_its_end() -> None:
    rounds: list[Measured] = [
        {1: {"s": 1}, 10: {"s": factor}, 100: {"s": 10 * factor}} for factor in (1, 10, 5)
    ]
    found = curve(rounds, "s")
    assert found is not None
    assert found.points[1:] == [Point(10, 5, 1, 10), Point(100, 50, 10, 100)]
    assert found.exponents[:2] == pytest.approx([0.5, 1])
    assert found.exponent == found.exponents[2]
    assert found.last_exponent == pytest.approx(1)


def test_a_round_that_lacks_a_point_names_no_exponent() -> None:
    whole: Measured = {1: {"s": 1}, 10: {"s": 10}}
    part: Measured = {1: {"s": 3}}
    found = curve([whole, part], "s")
    assert found is not None
    assert found.points[0] == Point(1, 2, 1, 3)
    assert found.exponents == pytest.approx([1])
    assert curve([part, part], "s") is None


def test_the_picture_tells_each_exponent_in_words() -> None:
    axis = Axis("servers", "servers", (2, 4), ["commands/s", "CPU µs"])
    measured: Measured = {
        2: {"commands/s": 100, "CPU µs": 5},
        4: {"commands/s": 50, "CPU µs": 10},
    }
    described = chart(curves_of([{"servers": measured}], [axis]), [axis]).description
    assert described == "commands/s over servers as n^-1.00; CPU µs over servers as n^1.00."
