"""Means over seeds, with how far they can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ..gap import Gap


def plus_minus(sample: Sequence[float], form: str) -> str:
    """Mean and sample standard deviation.

    Example:
        >>> plus_minus([1.0, 2.0, 3.0], ".1f")
        '2.0 ± 1.0'
    """
    spread = statistics.stdev(sample) if len(sample) > 1 else math.nan
    return f"{statistics.fmean(sample):{form}} ± {spread:{form}}"


def interval(sample: Sequence[float]) -> str:
    """Mean and 95 % interval by Student's t; the mean alone of one value.

    Example:
        >>> interval([1.0, 2.0, 3.0])
        '+2.000 (-0.484 to +4.484)'
    """
    gap = Gap(tuple(sample))
    mean, half = gap.mean, gap.half_width
    if math.isnan(half):
        return f"{mean:+.3f}"
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"
