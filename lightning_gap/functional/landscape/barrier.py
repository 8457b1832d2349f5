"""How much higher the loss is between two solutions than at them; there are two definitions, and they differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .._validation import each, real_number


@dataclass(frozen=True)
class Barrier:
    """The highest point of a path between two solutions, above what is expected there.

    Attributes:
        height: In the units of the values; 0 where no point is above, NaN where a value is.
        alpha: Where it is.

    Example:
        >>> Barrier(height=0.5, alpha=0.5).height
        0.5
    """

    height: float
    alpha: float


def loss_barrier(alphas: Sequence[float], losses: Sequence[float]) -> Barrier:
    """The barrier of Entezari et al.: the loss above the straight line between the losses of the two ends.

    ``max over alpha of L(alpha) - ((1 - alpha) * L(0) + alpha * L(1))``, for alpha from 0 to 1.

    Args:
        alphas: Positions on a path; 0 and 1 must be among them, what lies outside does not count.
        losses: The loss, or an error, at each.

    Returns:
        The height, at least 0, and where it is.

    Raises:
        ValueError: If 0 or 1 is missing, or alphas and losses do not pair up.

    Reference:
        Entezari et al. (2022), definition 1.

    Example:
        >>> loss_barrier([0.0, 0.5, 1.0], [1.0, 4.0, 3.0])
        Barrier(height=2.0, alpha=0.5)
    """
    return _highest(alphas, losses, "losses", lambda alpha, first, last: (1 - alpha) * first + alpha * last)


def instability(alphas: Sequence[float], errors: Sequence[float]) -> Barrier:
    """The instability of Frankle et al.: the error above the mean of those of the two ends.

    ``max over alpha of E(alpha) - (E(0) + E(1)) / 2``, for alpha from 0 to 1. Where the ends differ it is not the
    `loss_barrier`: it is positive even on a straight line. They call two networks of test error (a fraction) stable
    below 0.02, with 30 positions.

    Args:
        alphas: Positions on a path; 0 and 1 must be among them, what lies outside does not count.
        errors: The error (1 - accuracy), or a loss, at each.

    Returns:
        The height, at least 0, and where it is.

    Raises:
        ValueError: If 0 or 1 is missing, or alphas and errors do not pair up.

    Reference:
        Frankle et al. (2020), section 2.

    Example:
        >>> instability([0.0, 0.5, 1.0], [1.0, 2.0, 3.0])
        Barrier(height=1.0, alpha=1.0)
    """
    return _highest(alphas, errors, "errors", lambda _, first, last: (first + last) / 2)


def _highest(
    alphas: Sequence[float], values: Sequence[float], name: str, expected: Callable[[float, float, float], float]
) -> Barrier:
    positions = each("alphas", alphas, real_number)
    numbers = each(name, values, lambda name, value: real_number(name, value, finite=False))
    if len(positions) != len(numbers):
        raise ValueError(f"alphas and {name} must pair up, got {len(positions)} and {len(numbers)}")
    if 0 not in positions or 1 not in positions:
        raise ValueError(f"alphas must hold 0 and 1, the two solutions, got {positions}")
    first, last = numbers[positions.index(0)], numbers[positions.index(1)]
    found = [
        Barrier(value - expected(alpha, first, last), alpha)
        for alpha, value in zip(positions, numbers, strict=True)
        if 0 <= alpha <= 1
    ]
    unknown = [barrier for barrier in found if math.isnan(barrier.height)]
    return unknown[0] if unknown else max(found, key=lambda barrier: barrier.height)
