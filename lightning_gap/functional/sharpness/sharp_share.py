"""In what share of the directions is a minimum sharp?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.distributed import ProcessGroup

from .._loss_surface import LossFunction, Params, loss_surface
from .._validation import real_number, seeded, whole_number
from ._neighbourhood import Neighbourhood
from ._search import Search
from .average import mean_and_deviation
from .result import Method, Start


@dataclass(frozen=True)
class SharpShare:
    """Result of `sharp_share`.

    Attributes:
        share: ``average_rise / worst_rise``: 1 where all directions are as steep, k / n where k of n are and the others
            flat. An upper bound, as far as ``worst_rise`` is a lower one. NaN where nothing rises or a loss is NaN,
            0 where only ``worst_rise`` is infinite.
        standard_error: Of the share, by the spread of the directions; NaN for a single one.
        average_rise: Mean rise of the loss over random directions, in units of the loss; may be negative.
        worst_rise: Highest rise found in the ball.
        steepest_sampled: Highest rise along a random direction.
        loss: Loss at the weights.
        radius: Of the ball.
        relative: Whether each coordinate of a direction is relative to ``|x_i|``.
        directions: Random directions used, each with both signs.
        weights: Number of dimensions, n. Where the loss is quadratic ``share * weights`` is the number of directions,
            at least 1; less where it rises faster than that in the worst one.
        evaluations: Of the loss.

    Example:
        >>> weight = torch.zeros(3, requires_grad=True)
        >>> found = sharp_share(lambda: weight.square().sum(), [weight], radius=0.1)
        >>> found.directions, found.weights
        (20, 3)
    """

    share: float
    standard_error: float
    average_rise: float
    worst_rise: float
    steepest_sampled: float
    loss: float
    radius: float
    relative: bool
    directions: int
    weights: int
    evaluations: int


def sharp_share(
    loss_fn: LossFunction,
    params: Params,
    *,
    radius: float,
    directions: int = 20,
    method: Method = "corner",
    max_evaluations: int = 21,
    relative: bool = False,
    generator: torch.Generator | None = None,
    process_group: ProcessGroup | None = None,
) -> SharpShare:
    """The share of the directions in which a minimum is sharp, if those are all as sharp as the worst: average / worst.

    Both rises are of the loss itself, at one distance ``radius`` from the weights. Where the loss is quadratic there,
    ``f + d H d / 2`` at a minimum, the average is ``trace(H) / n`` and the worst the largest eigenvalue, in one unit.
    So the share does not depend on the coordinates, and where no eigenvalue is negative it bounds the share of sharp
    directions whatever one calls sharp: at most ``share / c`` of the eigenvectors are at least c times as steep as
    the worst.

    It is meant for a minimum: a gradient at the weights raises the worst and not the average.

    Keskar et al. (2017) say that the loss around large-batch solutions is steep "in only about 5 % of the space" and
    flat elsewhere. They do not say how directions were drawn, how far they went, from which rise on a direction was
    steep, nor for which network. This function is one reading of the claim: compare ``share``, not more, with 0.05.
    Counting random directions that are steep cannot test it: in many dimensions each is nearly as steep as their mean.

    Args:
        loss_fn: As in `sharpness`.
        params: Tensors to perturb.
        radius: Euclidean distance from the weights. The corners of Metric 2.1's box are at ``epsilon * || |x| + 1 ||``
            from them. In float32 take it so large that ``average_rise`` is well above the rounding of the loss.
        directions: Random directions, uniform on the sphere, each used with both signs, so that what is linear cancels.
        method: Search for the worst: "corner", here along the gradient, or "apgd".
        max_evaluations: Most evaluations of that search.
        relative: Make the ball an ellipsoid, ``|| d / |x| || <= radius``.
        generator: Source of the directions, on the CPU; seed 0 by default.
        process_group: As in `sharpness`.

    Returns:
        The share with its standard error and the two rises.

    Raises:
        ValueError: As in `sharpness`, or if ``directions`` is below 1.
        UndefinedSharpnessError: A ValueError, if the loss or its gradient at ``params`` is not finite.

    Reference:
        Keskar, Mudigere, Nocedal, Smelyanskiy and Tang (2017), for the claim in an early version.

    Example:
        >>> weight = torch.zeros(100, requires_grad=True)
        >>> sharp = lambda: weight[:5].square().sum()  # in 5 of 100 directions
        >>> found = sharp_share(sharp, [weight], radius=0.1, directions=1000)
        >>> round(found.share, 2)
        0.05
    """
    radius = real_number("radius", radius, above=0, hint="a Euclidean distance, for instance 0.1")
    directions = whole_number("directions", directions)
    generator = seeded("generator", generator)
    search = Search(method, max_evaluations, relative=relative, norm="l2", generator=generator)
    rises: list[float] = []
    with loss_surface(loss_fn, params, process_group=process_group) as surface:
        start, gradient = Start.at_centre(surface, None)
        place = Neighbourhood(surface, subspace=None, norm="l2", relative=search.relative)
        worst = search.run(surface, place, start, search.slope(place, gradient), radius)
        for _ in range(directions):
            point = place.random(generator)
            for sign in (1, -1):
                place.move([sign * u for u in point], radius)
                rises.append(surface.loss() - start.loss)
    both = [(plus + minus) / 2 for plus, minus in zip(rises[::2], rises[1::2], strict=True)]
    average, deviation = mean_and_deviation(both)
    highest = max(worst.highest_loss - start.loss, *rises)  # a direction may be steeper than what the search found
    return SharpShare(
        share=average / highest if highest > 0 else math.nan,
        standard_error=deviation / math.sqrt(directions) / highest if highest > 0 else math.nan,
        average_rise=average,
        worst_rise=highest,
        steepest_sampled=max(rises),
        loss=start.loss,
        radius=radius,
        relative=search.relative,
        directions=directions,
        weights=sum(x.numel() for x in surface.centre),
        evaluations=worst.evaluations + len(rises),
    )
