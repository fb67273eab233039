"""Confidence intervals: of a mean, of a ratio of means, of a ratio of percentiles.

Means have Student's intervals, which hold from two values on. A bootstrap of few values does not:
of two against two it has the true ratio in it 65 times of 100, of five against five 88 times.
Percentiles of merged histograms have no such formula, so theirs is a bootstrap.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, variance

import numpy as np
from numpy.typing import NDArray

from rdht.records import Histogram

CONFIDENCE = 0.95
_RESAMPLES = 2000
_FEWEST_HISTOGRAMS = 4  # of three, the extremes of all draws are too near to each other
_SEED = 1  # of the resamples: the same data has the same interval
_STEPS = 500
Interval = tuple[float, float]


def student_quantile(degrees: float) -> float:
    """Return the t that a value of Student's distribution exceeds neither way, with CONFIDENCE.

    `degrees` of freedom may be a fraction, from 1 on. The distribution is integrated with x =
    sqrt(degrees) * tan(angle), which makes its density a power of a cosine (Abramowitz and Stegun,
    Handbook of Mathematical Functions, 26.7.1).
    """
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))
    middles = (np.arange(_STEPS) + 0.5) / _STEPS
    low, high = 1.0, 13.0  # 1.96 of infinitely many degrees, 12.7 of one
    while high - low > 1e-6:  # noqa: PLR2004 - far below what is shown
        middle = (low + high) / 2
        angle = math.atan(middle / math.sqrt(degrees))
        area = angle * float(np.mean(np.cos(middles * angle) ** (degrees - 1)))
        inside = 2 * scale / math.sqrt(math.pi) * area
        low, high = (middle, high) if inside < CONFIDENCE else (low, middle)
    return high


def of_mean(values: Sequence[float]) -> Interval | None:
    """Return Student's interval of the mean of independent values; None of fewer than two."""
    if len(values) < 2:  # noqa: PLR2004 - one value does not vary
        return None
    half = student_quantile(len(values) - 1) * math.sqrt(variance(values) / len(values))
    return fmean(values) - half, fmean(values) + half


def of_ratio(a: Sequence[float], b: Sequence[float], known_to: float = 0.0) -> Interval | None:
    """Return the interval of mean(b) / mean(a); None if a side has one value, or a mean of 0.

    It is Welch's for samples whose variances differ (Biometrika 34, 1947), of the logarithm of the
    ratio, whose variance is to first order the sum of the two squared relative errors. Each value
    is known to within a share `known_to` of itself.
    """
    if min(len(a), len(b)) < 2 or min(fmean(a), fmean(b)) <= 0:  # noqa: PLR2004 - as in of_mean
        return None
    rounding = known_to**2 / 12  # of what lies anywhere in an interval of that width
    errors = [(variance(side) / fmean(side) ** 2 + rounding) / len(side) for side in (a, b)]
    ratio = fmean(b) / fmean(a)
    if not sum(errors):
        return ratio, ratio
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(side) - 1) for error, side in zip(errors, (a, b), strict=True)
    )
    factor = math.exp(student_quantile(freedom) * math.sqrt(sum(errors)))
    return ratio / factor, ratio * factor


def of_percentile_ratio(
    a: Sequence[Histogram], b: Sequence[Histogram], percent: float
) -> Interval | None:
    """Return the interval of B's percentile as a multiple of A's, each of all its histograms.

    Whole histograms are resampled, as the latencies in one are not independent of each other;
    None if a side has fewer than four that are not empty. It is a bootstrap's percentile interval,
    expanded as small samples need it (T. Hesterberg, What Teachers Should Know About the Bootstrap,
    The American Statistician 69, 2015). BCa would correct for skew, and not for the small sample,
    which matters more with as few histograms as a run has threads.
    """
    sides = [[one for one in side if one.total] for side in (a, b)]
    size = min(map(len, sides))
    if size < _FEWEST_HISTOGRAMS:
        return None
    chance = np.random.default_rng(_SEED)
    of_a, of_b = (_resampled(side, percent, chance) for side in sides)
    expanded = math.sqrt(size / (size - 1)) * student_quantile(size - 1)
    tail = NormalDist().cdf(-expanded)
    low, high = np.quantile(of_b / of_a, [tail, 1 - tail])
    return float(low), float(high)


def _resampled(
    histograms: Sequence[Histogram], percent: float, chance: np.random.Generator
) -> NDArray[np.float64]:
    """Return the percentile (us) of each of many draws, with replacement, of as many histograms."""
    buckets = sorted({bucket for one in histograms for bucket in one.counts})
    counts = np.array([[one.counts.get(bucket, 0) for bucket in buckets] for one in histograms])
    upper_us = np.array([max(1.0, Histogram.upper_us(bucket)) for bucket in buckets])
    size = len(histograms)
    draws = chance.multinomial(size, [1 / size] * size, _RESAMPLES)
    reached = (draws @ counts).cumsum(axis=1)
    needed = reached[:, -1:] * percent / 100
    percentiles_us: NDArray[np.float64] = upper_us[(reached >= needed).argmax(axis=1)]
    return percentiles_us
