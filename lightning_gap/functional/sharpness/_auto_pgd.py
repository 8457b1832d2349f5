"""Auto-PGD: projected gradient ascent with momentum, whose step is halved where it stops paying."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from .._loss_surface import euclidean_norm
from ._gradient_ascent import Ascent, Evaluate, signs

_MOMENTUM = 0.75  # of the new step; the rest goes along the last one
_RISING = 0.75  # share of the steps between two checkpoints that must rise


def auto_pgd_ascent(
    evaluate: Evaluate,
    point: Sequence[Tensor],
    highest: float,
    gradient: Sequence[Tensor],
    evaluations: int,
    *,
    ball: bool,
) -> Ascent:
    """Climb in the box ``|u_i| <= 1`` or the ball ``||u||_2 <= 1``; the best point it saw.

    The step is 2 at first, the width of the neighbourhood. At each checkpoint it is halved, and the ascent goes on from
    the best point so far, if fewer than three quarters of the steps since the last one rose, or if neither the step nor
    the best value has changed since.

    Args:
        evaluate: The loss, and its gradient if asked for, at a point.
        point: Where to start.
        highest: Loss there.
        gradient: Gradient there, in the precision of the points.
        evaluations: Most calls of ``evaluate``, one for each step; the last one asks for no gradient.
        ball: Whether the neighbourhood is the ball.

    Reference:
        Croce and Hein (2020), algorithm 1; Andriushchenko et al. (2023) for its use on weights, with 20 steps.
    """
    here, before = [u.to(g.dtype) for u, g in zip(point, gradient, strict=True)], None
    towards = best_towards = _direction(gradient, ball)
    best, value, step, non_finite = here, highest, 2.0, 0
    ends, began, risen, last = checkpoints(evaluations), 0, 0, (0.0, 0.0)
    for k in range(1, evaluations + 1):
        moved = _projected([u.add(d, alpha=step) for u, d in zip(here, towards, strict=True)], ball)
        if before is not None:
            steps = zip(here, moved, before, strict=True)
            moved = _projected([u + _MOMENTUM * (z - u) + (1 - _MOMENTUM) * (u - old) for u, z, old in steps], ball)
        before, here, previous = here, moved, value
        value, new_gradient = evaluate(here, k < evaluations)
        if value == math.inf:
            return Ascent(value, here, "loss not finite", non_finite + 1)
        finite = math.isfinite(value)
        non_finite += not finite
        risen += value > previous
        towards = _direction(new_gradient, ball) if finite and new_gradient else best_towards
        if finite and value > highest:
            best, highest, best_towards = here, value, towards
        if k in ends or not finite:
            stuck = last == (step, highest)
            last = step, highest
            if stuck or not finite or risen < _RISING * (k - began):
                step /= 2
                here, value, towards = best, highest, best_towards
            began, risen = k, 0
    return Ascent(highest, best, "evaluations used up", non_finite)


def checkpoints(steps: int) -> set[int]:
    """After which of the steps to ask whether to halve: 22 % of them, then at ever shorter distances."""
    found, last, share = set(), 0.0, 0.22
    while share <= 1:
        found.add(math.ceil(share * steps))
        last, share = share, share + max(share - last - 0.03, 0.06)
    return found


def _direction(gradient: Sequence[Tensor], ball: bool) -> list[Tensor]:
    if not ball:
        return [signs(g) for g in gradient]
    norm = euclidean_norm(gradient)
    return [g / norm if norm > 0 else g for g in gradient]


def _projected(point: list[Tensor], ball: bool) -> list[Tensor]:
    if not ball:
        return [u.clamp_(-1, 1) for u in point]
    norm = euclidean_norm(point)
    return [u / norm if norm > 1 else u for u in point]
