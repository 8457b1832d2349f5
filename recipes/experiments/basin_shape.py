"""The shape of a curve through two solutions as numbers: basin widths, hump, collapse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BasinShape:
    """Of a training accuracy along a line, the small batch at 0 and the large batch at 1.

    Attributes:
        outward_small: How far to the left of 0 it stays above nine tenths of its value at 0; at most to the grid's end.
        outward_large: The same to the right of 1, of its value at 1.
        inward_small: The same from 0 towards 1, and no further.
        inward_large: The same from 1 towards 0, and no further.
        lowest: Of the accuracies between, percent.
        lowest_at: Its alpha.
        beyond: Accuracy a quarter beyond the large batch, at 1.25, percent.
    """

    outward_small: float
    outward_large: float
    inward_small: float
    inward_large: float
    lowest: float
    lowest_at: float
    beyond: float


def basin_shape(alphas: Sequence[float], accuracy: Sequence[float]) -> BasinShape:
    """Measure a curve.

    Args:
        alphas: Rising; 0, 1 and 1.25 are among them.
        accuracy: Percent, one for each.

    Example:
        >>> shape = basin_shape([-1, 0, 0.5, 1, 1.25], [80, 100, 50, 100, 10])
        >>> shape.outward_small, round(shape.inward_small, 3), shape.outward_large > 0.02, shape.lowest
        (0.5, 0.1, True, 50)
    """
    zero, one = alphas.index(0), alphas.index(1)
    between = range(zero, one + 1)
    lowest = min(between, key=lambda i: accuracy[i])
    return BasinShape(
        outward_small=_extent(alphas, accuracy, zero, -1),
        outward_large=_extent(alphas, accuracy, one, 1),
        inward_small=min(1.0, _extent(alphas, accuracy, zero, 1)),
        inward_large=min(1.0, _extent(alphas, accuracy, one, -1)),
        lowest=accuracy[lowest],
        lowest_at=alphas[lowest],
        beyond=accuracy[alphas.index(1.25)],
    )


def _extent(alphas: Sequence[float], accuracy: Sequence[float], start: int, step: int) -> float:
    """Distance from a solution to where the curve falls below nine tenths, linear between the grid's points."""
    level, at = 0.9 * accuracy[start], start
    while 0 <= at + step < len(alphas):
        here, there = accuracy[at], accuracy[at + step]
        if there < level:
            share = (here - level) / (here - there)
            return abs(alphas[at] + share * (alphas[at + step] - alphas[at]) - alphas[start])
        at += step
    return abs(alphas[at] - alphas[start])
