"""Sharpness of a minimum: how high the loss climbs inside a small box around the weights (Keskar et al., 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

LossFunction = Callable[[], Tensor | Iterable[Tensor]]


class UndefinedSharpnessError(ValueError):
    """The loss at the weights is not finite, or so low that its relative rise has no meaning."""


@dataclass(frozen=True)
class Sharpness:
    """Result of `sharpness`.

    Attributes:
        percent: ``100 * (highest_loss - loss) / (1 + loss)``; never negative, a lower bound on the true maximum.
        loss: Loss at the weights themselves.
        highest_loss: Highest loss found in the box.
        gradient_norm: Euclidean norm of the gradient at the weights.
        epsilon: Box half-width, relative to ``|x_i| + 1``.
        evaluations: Evaluations of the loss, with or without gradient, the one at the weights included.
        random_start: Whether the gradient was exactly zero, so that the ascent had to start from a random point.
    """

    percent: float
    loss: float
    highest_loss: float
    gradient_norm: float
    epsilon: float
    evaluations: int
    random_start: bool


def sharpness(
    loss_fn: LossFunction,
    params: Iterable[Tensor],
    *,
    epsilon: float = 1e-3,
    max_evaluations: int = 7,
    generator: torch.Generator | None = None,
) -> Sharpness:
    """Relative rise of the loss within a small box around ``params``, in percent: Metric 2.1 in the full space.

    ``100 * (max f(x + y) - f(x)) / (1 + f(x))`` over ``|y_i| <= epsilon * (|x_i| + 1)``.

    The maximum is sought from corner to corner: from the best point so far step along the sign of its gradient, at
    first twice the box (any corner is in reach), and half as far after every step that did not climb. Where the
    loss is convex on the box the full step cannot lose. Coordinates whose gradient is exactly zero, dead units for
    instance, stay where they are; only where all are zero does the ascent start at a random point. It finds at
    least as much as the paper's ten L-BFGS-B iterations in fewer evaluations. The value is a lower bound whichever
    way, so compare only values found with equal terms.

    Args:
        loss_fn: Returns the scalar loss at the current values of ``params``, or an iterable of scalars that sum to
            it, of which only one keeps its graph at a time. Called ``max_evaluations`` times at most; it must be
            deterministic.
        params: Tensors to perturb, float32 or float64, any shapes, each requiring grad. On return, also by an
            exception, they hold the same values again in the same storage; `.grad` is not touched.
        epsilon: Box half-width, relative to ``|x_i| + 1``. The paper uses 1e-3 and 5e-4.
        max_evaluations: Most evaluations of the loss, the one at ``params`` included.
        generator: Source of the random start that is needed where the gradient is exactly zero; seed 0 by default.

    Returns:
        The percentage with the terms it was found under.

    Raises:
        ValueError: If ``epsilon`` or ``max_evaluations`` is out of range, a tensor cannot be perturbed, or the loss
            is not a scalar or does not depend on ``params``.
        UndefinedSharpnessError: A ValueError, if the loss at ``params`` is not finite, or is -1 or below.

    Reference:
        Keskar, Mudigere, Nocedal, Smelyanskiy and Tang (2017), Metric 2.1 with A the identity; Table 3.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> round(sharpness(lambda: (weight**2).sum(), [weight], epsilon=0.5).percent, 3)  # 100 * (2**2 - 1) / 2
        150.0
    """
    weights = checked_params(params)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be a positive number, got {epsilon!r}; the paper uses 1e-3 and 5e-4")
    if max_evaluations < 2:
        raise ValueError(f"max_evaluations must be at least 2, got {max_evaluations!r}; try 7")
    with _put_back(weights) as centre, torch.enable_grad():
        loss, gradient = _loss_and_gradient(loss_fn, weights)
        if not math.isfinite(loss) or loss <= -1:
            raise UndefinedSharpnessError(f"the loss at params must be finite and above -1, got {loss!r}")
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradient))
        box = [epsilon * (x.abs() + 1) for x in centre]
        y, highest, evaluations = [torch.zeros_like(x) for x in centre], loss, 1
        random_start = norm == 0.0
        if random_start:  # the sign of zero points nowhere: begin at a small random point instead
            generator = generator or torch.Generator().manual_seed(0)
            y = [0.1 * b * (2 * torch.rand(b.shape, generator=generator).to(b) - 1) for b in box]
            _write(weights, centre, y)
            value, gradient = _loss_and_gradient(loss_fn, weights)
            highest, evaluations = value if math.isfinite(value) else -math.inf, 2
        budget = max_evaluations - evaluations
        found, used = _climb(loss_fn, weights, centre, box, y, highest, gradient, budget)
    highest = max(loss, found)
    percent = 100 * (highest - loss) / (1 + loss)
    return Sharpness(percent, loss, highest, norm, epsilon, evaluations + used, random_start)


def _climb(
    loss_fn: LossFunction,
    weights: Sequence[Tensor],
    centre: Sequence[Tensor],
    box: Sequence[Tensor],
    y: Sequence[Tensor],
    highest: float,
    gradient: Sequence[Tensor],
    budget: int,
) -> tuple[float, int]:
    """Go from corner to corner of ``box``, starting at ``y``; the highest finite loss and the evaluations used."""
    step = 2.0
    for used in range(budget):
        trial = [(o + step * b * g.sign()).clamp(-b, b) for o, b, g in zip(y, box, gradient, strict=True)]
        if all(torch.equal(new, old) for new, old in zip(trial, y, strict=True)):
            return highest, used  # at a corner that its own gradient confirms
        _write(weights, centre, trial)
        last = used == budget - 1
        value, new_gradient = _loss_and_gradient(loss_fn, () if last else weights)
        if math.isfinite(value) and value > highest:
            y, highest, gradient = trial, value, new_gradient
        else:
            step /= 2
    return highest, budget


def epsilon_name(epsilon: float) -> str:
    """``epsilon`` as it is written in keys and tables.

    Example:
        >>> epsilon_name(0.001), epsilon_name(0.00025)
        ('1e-3', '2.5e-4')
    """
    mantissa, exponent = f"{epsilon:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def checked_params(params: Iterable[Tensor]) -> list[Tensor]:
    """Give ``params`` back as a list, or raise the error that says which one cannot be perturbed."""
    weights = list(params)
    if not weights:
        raise ValueError("params is empty; pass the tensors to perturb, for instance the model's trainable parameters")
    for index, weight in enumerate(weights):
        if weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"params[{index}] is {weight.dtype}; a box of this size is lost in its rounding, convert to float32"
            )
        if not weight.requires_grad:
            raise ValueError(f"params[{index}] does not require grad; pass only parameters that are trained")
    return weights


@contextmanager
def _put_back(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield copies of the weights and write them back at the end: adding and subtracting would not be exact."""
    centre = [weight.detach().clone() for weight in weights]
    try:
        yield centre
    finally:
        with torch.no_grad():
            for weight, original in zip(weights, centre, strict=True):
                weight.copy_(original)


@torch.no_grad()
def _write(weights: Sequence[Tensor], centre: Sequence[Tensor], offset: Sequence[Tensor]) -> None:
    for weight, x, y in zip(weights, centre, offset, strict=True):
        torch.add(x, y, out=weight)


def _loss_and_gradient(loss_fn: LossFunction, weights: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """Loss summed over its parts in float64, and its gradient; without ``weights`` the loss alone."""
    total, gradient = 0.0, [torch.zeros_like(weight) for weight in weights]
    parts = loss_fn()
    for part in (parts,) if isinstance(parts, Tensor) else parts:
        if part.numel() != 1:
            raise ValueError(f"loss_fn must return a scalar or parts that are scalars, got shape {tuple(part.shape)}")
        total += float(part.detach())
        if weights:
            if not part.requires_grad:
                raise ValueError("the loss does not depend on params; compute it with gradients enabled")
            for g, new in zip(gradient, torch.autograd.grad(part, weights, allow_unused=True), strict=True):
                if new is not None:
                    g += new
    return total, gradient
