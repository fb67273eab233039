"""How a figure grows with what is varied: curves over rounds, and their exponents."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Measured = Mapping[int, Mapping[str, float]]  # of one round: by what is varied, by quantity


class Axis(NamedTuple):
    """What is varied, and what is measured of it."""

    name: str  # that is typed
    title: str
    values: tuple[int, ...]
    quantities: list[str]


class Point(NamedTuple):
    """A figure over all rounds."""

    x: int
    median: float
    low: float
    high: float


class Curve(NamedTuple):
    """A quantity over what is varied; `exponents` has the k of y ~ x^k of each whole round."""

    points: list[Point]
    exponents: list[float]

    @property
    def exponent(self) -> float:
        """The median round's."""
        return statistics.median(self.exponents)

    @property
    def last_exponent(self) -> float:
        """The medians' between the last two points, where what is fixed weighs least."""
        return fit([(point.x, point.median) for point in self.points[-2:]])


Curves = dict[tuple[str, str], Curve]  # by the axis's name and the quantity


def curves_of(rounds: Sequence[Mapping[str, Measured]], axes: Sequence[Axis]) -> Curves:
    """Return each quantity of each axis that at least two points were measured of."""
    curves = {
        (axis.name, quantity): curve([one[axis.name] for one in rounds], quantity)
        for axis in axes
        for quantity in axis.quantities
    }
    return {name: found for name, found in curves.items() if found}


def curve(rounds: Sequence[Measured], quantity: str) -> Curve | None:
    """Return how a quantity grew; None if fewer than two points were measured."""
    found: dict[int, list[float]] = {}
    for one in rounds:
        for x, figures in one.items():
            found.setdefault(x, []).append(figures[quantity])
    points = [
        Point(x, statistics.median(values), min(values), max(values))
        for x, values in sorted(found.items())
    ]
    pairs = [[(x, figures[quantity]) for x, figures in one.items()] for one in rounds]
    exponents = [fit(one) for one in pairs if len(one) == len(points) > 1]
    return Curve(points, exponents) if exponents else None


def fit(pairs: Sequence[tuple[float, float]]) -> float:
    """Return k of y ~ x^k: the slope of the least squares' line through the logarithms."""
    xs, ys = zip(*((math.log(x), math.log(y)) for x, y in pairs), strict=True)
    return statistics.linear_regression(xs, ys).slope
