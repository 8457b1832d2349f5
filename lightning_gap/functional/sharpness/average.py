"""How the loss rises in random directions, where sharpness asks for the worst one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.distributed import ProcessGroup

from .._loss_surface import LossFunction, Params, loss_surface
from .._validation import flag, seeded, whole_number
from ..errors import UndefinedSharpnessError
from ._neighbourhood import Neighbourhood
from .sharpness import checked_epsilon


@dataclass(frozen=True)
class AverageSharpness:
    """Result of `average_sharpness`.

    Attributes:
        rise: Mean of ``f(x + d) - f(x)`` over the directions; may be negative. Infinite or NaN where a loss was.
        standard_error: Of that mean; NaN for a single direction.
        loss: Loss at the weights.
        directions: Random directions used.

    Example:
        >>> AverageSharpness(rise=0.25, standard_error=0.01, loss=1.0, directions=10).rise
        0.25
    """

    rise: float
    standard_error: float
    loss: float
    directions: int


def average_sharpness(
    loss_fn: LossFunction,
    params: Params,
    *,
    epsilon: float = 1e-3,
    directions: int = 10,
    relative: bool = False,
    generator: torch.Generator | None = None,
    process_group: ProcessGroup | None = None,
) -> AverageSharpness:
    """Mean rise of the loss in random directions: a cheap negative control, near 0 where the worst case is large.

    Args:
        loss_fn: As in `sharpness`; needs no gradient here.
        params: Tensors to perturb.
        epsilon: Standard deviation of each coordinate, relative to ``|x_i| + 1``.
        directions: Random directions, Gaussian, each used with both signs, so that what is linear cancels.
        relative: Relative to ``|x_i|`` alone.
        generator: Source of the directions, on the CPU; seed 0 by default.
        process_group: As in `sharpness`.

    Returns:
        The mean rise, in units of the loss, with its standard error.

    Raises:
        ValueError: As in `sharpness`, or if ``directions`` is below 1.
        UndefinedSharpnessError: A ValueError, if the loss at ``params`` is not finite.

    Example:
        >>> weight = torch.zeros(1000, requires_grad=True)
        >>> found = average_sharpness(lambda: weight.square().mean(), [weight], epsilon=0.1, directions=100)
        >>> round(found.rise, 3)  # the variance of each coordinate
        0.01
    """
    directions = whole_number("directions", directions)
    epsilon = checked_epsilon(epsilon)
    relative = flag("relative", relative)
    generator = seeded("generator", generator)
    rises: list[float] = []
    with loss_surface(loss_fn, params, process_group=process_group) as surface:
        loss = surface.loss()
        if not math.isfinite(loss):
            raise UndefinedSharpnessError(f"the loss at params must be finite, got {loss!r}")
        surface.check_repeatable()
        place = Neighbourhood(surface, subspace=None, norm="max", relative=relative)
        for _ in range(directions):
            z = [torch.randn(x.shape, generator=generator).to(x) for x in surface.centre]
            both: list[float] = []
            for sign in (1, -1):
                place.move([sign * u for u in z], epsilon)
                both.append(surface.loss() - loss)
            rises.append(sum(both) / 2)
    mean, deviation = mean_and_deviation(rises)
    return AverageSharpness(mean, deviation / math.sqrt(directions), loss, directions)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, NaN for a single value; where one is not finite the mean is not either."""
    if not all(map(math.isfinite, values)):
        return sum(values), math.nan  # infinite, or NaN where one is
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan
