"""What is known of a solution's sharpness: at the weights before the search, and after it, with all of its terms."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .._loss_surface import LossFunction, LossSurface, euclidean_norm
from ..errors import UndefinedSharpnessError
from ._gradient_ascent import Stop
from ._neighbourhood import Norm
from .random_subspace import RandomSubspace

Method = Literal["corner", "lbfgsb", "best", "apgd"]
Searched = Literal["corner", "lbfgsb", "lbfgsb after corner", "apgd"]
"""A single search: "lbfgsb" begins at the weights, "lbfgsb after corner" where corner ascent ended."""


@dataclass(frozen=True)
class Sharpness:
    """Result of `sharpness`: the number, and every term it was found under. Compare only numbers of equal terms.

    Attributes:
        percent: ``100 * (highest_loss - loss) / (1 + loss)``; never negative, a lower bound on the true maximum.
            Infinite where the loss was infinite at a point of the neighbourhood, NaN where it was NaN, or its gradient
            not finite: the maximum is then infinite, or not known, and no finite number stands for it.
        loss: Loss at the weights themselves.
        highest_loss: Highest loss found; infinite or NaN where ``percent`` is.
        epsilon: Size of the neighbourhood.
        norm: "max", a box, or "l2", a ball.
        relative: Whether the size of each coordinate is relative to ``|x_i|`` alone.
        subspace: The random subspace; None for the full space.
        method: What sought the maximum.
        found_by: Which search found it: with "best" the highest of "corner", "lbfgsb" and "lbfgsb after corner"; with
            the others the method itself.
        evaluations: Evaluations of the loss by all searches, with or without gradient, the one at the weights included;
            two halves of it are one. Not those of the loss to report.
        gradients: Those of them with gradient.
        stopped_because: What ended the search.
        at_bound: Share of the coordinates at the wall of the box; in a ball, 1 if the point lies on its surface.
        offset_norm: Euclidean norm of the step from the weights to the highest point.
        weight_norm: Euclidean norm of the weights.
        gradient_norm: Euclidean norm of the gradient at the weights.
        largest_gradient: Its largest entry by magnitude. Below 1e-5 SciPy's default settings report no sharpness.
        random_start: Whether the gradient was exactly zero, so that the search had to start from a random point.
        non_finite: Evaluations inside the neighbourhood whose loss or gradient was not finite, those of the loss to
            report included. Above 0 exactly where ``percent`` is not finite.
        samples: Samples the loss was measured on, where ``loss_fn`` says: `DatasetLoss` does.
        batch_norm: How BatchNorm was evaluated, where ``loss_fn`` says.
        dtype: Precision of the weights.
        seconds: Wall time in seconds, the shared evaluation at the weights included.

    Reference:
        Keskar, Mudigere, Nocedal, Smelyanskiy and Tang (2017), Metric 2.1.

    Example:
        >>> from lightning_gap.functional import sharpness
        >>> weight = torch.ones(1, requires_grad=True)
        >>> found = sharpness(lambda: (weight**2).sum(), [weight], epsilon=0.5)
        >>> found.loss, found.highest_loss, found.at_bound, round(found.percent, 3)
        (1.0, 4.0, 1.0, 150.0)
    """

    percent: float
    loss: float
    highest_loss: float
    epsilon: float
    norm: Norm
    relative: bool
    subspace: RandomSubspace | None
    method: Method
    found_by: Searched
    evaluations: int
    gradients: int
    stopped_because: Stop
    at_bound: float
    offset_norm: float
    weight_norm: float
    gradient_norm: float
    largest_gradient: float
    random_start: bool
    non_finite: int
    samples: int | None
    batch_norm: str | None
    dtype: torch.dtype
    seconds: float


@dataclass(frozen=True)
class Start:
    """What is known at the weights themselves before any search begins.

    Attributes:
        loss: The loss that is climbed.
        reported_loss: The loss that is reported; the same one, unless another was given.
        gradient_norm: Euclidean norm of the gradient.
        largest_gradient: Its largest entry by magnitude.
        weight_norm: Euclidean norm of the weights.
        seconds: Time that it took, in seconds.
    """

    loss: float
    reported_loss: float
    gradient_norm: float
    largest_gradient: float
    weight_norm: float
    seconds: float

    @classmethod
    def at_centre(cls, surface: LossSurface, report_on: LossFunction | None) -> tuple[Start, list[Tensor]]:
        """Measure where the weights are now; also the gradient, one tensor for each weight."""
        began = time.perf_counter()
        loss, gradient = surface.loss_and_gradient()
        surface.check_used()
        reported = loss if report_on is None else surface.loss(report_on)
        for value in (loss, reported):
            if not math.isfinite(value) or value <= -1:
                raise UndefinedSharpnessError(f"the loss at params must be finite and above -1, got {value!r}")
        surface.check_repeatable()
        start = cls.known(surface, loss, reported, gradient, time.perf_counter() - began)
        if not math.isfinite(start.gradient_norm):
            raise UndefinedSharpnessError("the gradient of the loss at params must be finite; it tells where to climb")
        return start, gradient

    @classmethod
    def known(
        cls, surface: LossSurface, loss: float, reported: float, gradient: Sequence[Tensor], seconds: float
    ) -> Start:
        """What follows from the gradient at the centre of the surface."""
        norm, weight_norm = euclidean_norm(gradient), euclidean_norm(surface.centre)
        largest = max((float(g.abs().max()) for g in gradient if g.numel()), default=0.0)
        return cls(loss, reported, norm, largest, weight_norm, seconds)
