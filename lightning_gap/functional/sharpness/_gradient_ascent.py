"""Climb inside a cube from corner to corner, or inside a ball from pole to pole; the same ascent with another wall."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .._loss_surface import euclidean_norm

Evaluate = Callable[[Sequence[Tensor], bool], tuple[float, Sequence[Tensor]]]
"""Loss, and its gradient if asked for, at a point of the unit cube or ball: one tensor for each tensor of the point."""

Stop = Literal["confirmed by its gradient", "evaluations used up", "iterations used up", "converged", "loss not finite"]


@dataclass(frozen=True)
class Ascent:
    """The highest point that an ascent found.

    Attributes:
        highest: Loss there; infinite as soon as it was met, for nothing is higher.
        point: Where it is, in the unit cube or ball.
        stopped_because: What ended the ascent.
        non_finite: Evaluations that gave no finite loss.
    """

    highest: float
    point: list[Tensor]
    stopped_because: Stop
    non_finite: int = 0


def sign_gradient_ascent(
    evaluate: Evaluate, point: Sequence[Tensor], highest: float, gradient: Sequence[Tensor], evaluations: int
) -> Ascent:
    """Climb in the cube ``|u_i| <= 1``: the Frank-Wolfe step for a convex function, halved whenever it does not climb.

    From the best point so far step along the sign of its gradient, at first by 2 (any corner is in reach), and half as
    far after every step that did not climb. Where the loss is convex on the cube the full step cannot lose. Coordinates
    whose gradient is exactly zero, dead units for instance, stay where they are.

    Args:
        evaluate: The loss, and its gradient if asked for, at a point.
        point: Where to start. Contiguous and in half precision it is written to, and becomes the point returned.
        highest: Loss there.
        gradient: Gradient there, up to a positive factor for each coordinate. Its `signs` will do, and are written to.
        evaluations: Most calls of ``evaluate``; the last one asks for no gradient.
    """
    # Half precision: steps are powers of two, so that these points are exact, and two of them weigh one vector.
    best = [u.half().contiguous() for u in point]
    direction = [signs(g) for g in gradient]
    step, non_finite = 2.0, 0
    for used in range(1, evaluations + 1):
        trial = [u.add(d, alpha=step).clamp_(-1, 1) for u, d in zip(best, direction, strict=True)]
        if all(torch.equal(new, old) for new, old in zip(trial, best, strict=True)):
            return Ascent(highest, best, "confirmed by its gradient", non_finite)
        value, new_gradient = evaluate(trial, used < evaluations)
        if value == math.inf:
            return Ascent(value, trial, "loss not finite", non_finite + 1)
        if math.isfinite(value) and value > highest:
            highest = value
            _write(best, trial)
            if new_gradient:
                _write(direction, map(signs, new_gradient))
        else:
            step /= 2
            non_finite += not math.isfinite(value)
        del trial, new_gradient  # not to be kept while the next ones are made
    return Ascent(highest, best, "evaluations used up", non_finite)


def incremental_ascent(halves: Sequence[Evaluate], gradient: Sequence[Tensor], passes: int) -> list[Tensor] | None:
    """Where to begin in the cube: the point steps after each half of the data, twice for the price of one evaluation.

    It starts at a quarter of the box half-width, towards the corner that the gradient names: there are several hills,
    and the one near that corner is often not the one that the loss climbs to. From there it steps by 2 along the signs
    of each half's gradient, and by 1 in the last pass, whether or not a half falls: the other may rise.

    Args:
        halves: Loss and gradient of each half at a point.
        gradient: Gradient at the weights, up to a positive factor for each coordinate; its signs will do.
        passes: How often to go through the halves.

    Returns:
        The point; None if the loss of a half was not finite on the way.

    Reference:
        Bertsekas (1997), the incremental gradient method.
    """
    point = [signs(g).half() / 4 for g in gradient]
    for step in (*(passes - 1) * (2,), 1):
        for half in halves:
            value, slope = half(point, True)
            if not math.isfinite(value):
                return None
            _step(point, slope, step)
            del slope  # not to be kept while the next one is made
    return point


def normalized_gradient_ascent(
    evaluate: Evaluate, point: Sequence[Tensor], highest: float, gradient: Sequence[Tensor], evaluations: int
) -> Ascent:
    """The same in the ball ``||u||_2 <= 1``: along the normalised gradient, and back onto the ball.

    Its first step is the perturbation of sharpness-aware minimization (Foret et al. 2021, equation 2).
    """
    best = list(point)
    direction = _normalised(gradient)
    step, non_finite = 2.0, 0
    for used in range(1, evaluations + 1):
        trial = [u + step * d for u, d in zip(best, direction, strict=True)]
        trial = _normalised(trial) if euclidean_norm(trial) > 1 else trial
        if euclidean_norm(new - old for new, old in zip(trial, best, strict=True)) < 1e-6:
            return Ascent(highest, best, "confirmed by its gradient", non_finite)
        value, new_gradient = evaluate(trial, used < evaluations)
        if value == math.inf:
            return Ascent(value, trial, "loss not finite", non_finite + 1)
        if math.isfinite(value) and value > highest:
            best, highest = trial, value
            direction = _normalised(new_gradient) if new_gradient else direction
        else:
            step /= 2
            non_finite += not math.isfinite(value)
    return Ascent(highest, best, "evaluations used up", non_finite)


def signs(gradient: Tensor) -> Tensor:
    """Sign of each entry, in a quarter of the memory; signs are given back as they are."""
    return gradient if gradient.dtype == torch.int8 else gradient.sign().to(torch.int8)


def _step(point: Iterable[Tensor], gradient: Iterable[Tensor], length: int) -> None:
    for u, g in zip(point, gradient, strict=True):
        u.add_(signs(g), alpha=length).clamp_(-1, 1)


def _write(tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _normalised(tensors: Sequence[Tensor]) -> list[Tensor]:
    norm = euclidean_norm(tensors)
    return [tensor / norm if norm > 0 else tensor.clone() for tensor in tensors]
