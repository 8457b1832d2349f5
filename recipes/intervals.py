"""What a few seeds tell of a mean, and of the ratio of two."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean or a ratio with the ends of its 95 % interval: NaN where one value tells nothing of its spread."""

    mean: float
    low: float
    high: float

    def covers(self, value: float) -> bool:
        """Whether a value lies inside; False where the ends are NaN."""
        return self.low <= value <= self.high

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below zero, else 0."""
        return (self.low > 0) - (self.high < 0)


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval by Student's t: of differences paired by seed, pass the differences.

    Args:
        values: One for each seed; all must be finite for the result to be.

    Example:
        >>> [round(end, 3) for end in mean_interval([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484]
    """
    if not values or not all(map(math.isfinite, values)):
        return Interval(math.nan, math.nan, math.nan)
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    half = _t(len(values)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Ratio of two means over the same seeds, and its 95 % interval by Fieller's theorem.

    Args:
        numerators: One for each seed.
        denominators: The same seeds. Where their own interval covers zero, the ratio has no interval: its ends are NaN.

    Example:
        >>> [round(end, 3) for end in ratio_interval([2.0, 2.7, 2.9], [4.0, 5.1, 6.0])]
        [0.503, 0.445, 0.592]
    """
    n = len(numerators)
    if n != len(denominators):
        raise ValueError(f"numerators and denominators must have the same seeds, got {n} and {len(denominators)}")
    top, bottom = mean_interval(numerators), mean_interval(denominators)
    ratio = top.mean / bottom.mean if bottom.mean else math.nan
    if not bottom.sign:
        return Interval(ratio, math.nan, math.nan)
    # The ends are the roots of (mean_n - r mean_d)^2 = t^2 var(n - r d) / seeds.
    share = _t(n) ** 2 / n
    var_n, var_d = statistics.variance(numerators), statistics.variance(denominators)
    both = statistics.fmean(
        (a - top.mean) * (b - bottom.mean) for a, b in zip(numerators, denominators, strict=True)
    ) * (n / (n - 1))
    a = bottom.mean**2 - share * var_d
    b = top.mean * bottom.mean - share * both
    c = top.mean**2 - share * var_n
    half = math.sqrt(max(b * b - a * c, 0.0))
    return Interval(ratio, (b - half) / a, (b + half) / a)


def _t(n: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.975))
