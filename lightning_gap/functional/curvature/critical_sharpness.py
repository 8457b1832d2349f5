"""How far a step could go before the loss exceeds where it began, by a few evaluations of the loss alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .._loss_surface import LossFunction, Params, euclidean_norm, loss_surface
from .._validation import each, flag, instance, real_number, whole_number
from ..errors import UndefinedCurvatureError
from ._crossing import Crossing

_ROUNDING = 4  # a change of the loss by no more than so many units in its last place is not one


@dataclass(frozen=True)
class CriticalSharpness:
    """Result of `critical_sharpness`.

    Attributes:
        learning_rate: The critical one; NaN where the direction does not lead down, infinite where the loss never came
            back.
        sharpness: 2 over it, in units of the loss over those of the weights squared, times those of the direction over
            those of the gradient.
        lower: Largest learning rate that was tried and does not exceed the loss; 0 if there is none.
        upper: Smallest that was tried and does; infinite if there is none.
        loss: Loss at the weights.
        evaluations: Evaluations of the loss, that at the weights among them.
        reason: Why there is no finite value; empty where there is one.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> found = critical_sharpness(lambda: 2 * weight.square().sum(), [weight], [torch.tensor([4.0])])
        >>> round(found.sharpness, 4), found.lower < 0.5 < found.upper
        (4.0, True)
    """

    learning_rate: float
    sharpness: float
    lower: float
    upper: float
    loss: float
    evaluations: int
    reason: str = ""


def critical_sharpness(
    loss_fn: LossFunction,
    params: Params,
    direction: Sequence[Tensor],
    *,
    guess: float = 1.0,
    tolerance: float = 0.05,
    largest: float | None = None,
    max_evaluations: int = 20,
    check_repeatable: bool = True,
    process_group: ProcessGroup | None = None,
) -> CriticalSharpness:
    """The learning rate at which a step ``params - learning_rate * direction`` no longer lowers the loss; 2 over it.

    Where the loss is a parabola along the direction u, the critical learning rate is ``2 g.u / (u.H u)``, g the
    gradient and H the Hessian; along the gradient the sharpness is the curvature ``g.H g / g.g``, at most the largest
    eigenvalue. No gradient is computed: any loss that can be evaluated will do, fused attention and compiled modules
    too.

    Both ends of the final bracket were tried: the lower one does not exceed the loss, the upper one does. The result
    lies between them, exact for a parabola, where five evaluations are enough; elsewhere one or two more are needed.
    If the loss comes back several times, it is one of them.

    Args:
        loss_fn: Returns the scalar loss at the current values of ``params``, or an iterable of scalars that sum to it.
            It must be deterministic.
        params: Float32 or float64 tensors, each requiring grad, or a mapping from names to them. On return, also by an
            exception, they hold the same values in the same storage.
        direction: What a step subtracts, over the learning rate: the gradient for plain gradient descent. One tensor in
            the shape of each of ``params``.
        guess: Learning rate to try first. One within a factor of 10 saves evaluations.
        tolerance: Width of the final bracket, relative to its lower end.
        largest: Largest learning rate to try; ``None`` for no limit but that of the evaluations.
        max_evaluations: Most evaluations, at least 5; where they run out, the bracket is wider than ``tolerance``.
        check_repeatable: Evaluate once more at ``params``, to refuse a random loss.
        process_group: Processes that call alike and hold one share of ``loss_fn`` each, the loss being their sum.

    Returns:
        The critical learning rate in units of ``direction``, and 2 over it; NaN or infinity with a reason where there
        is none.

    Raises:
        ValueError: If an argument is out of range, ``direction`` does not have the shapes of ``params``, a tensor
            cannot be used, or the loss is not a scalar, or random.
        UndefinedCurvatureError: A ValueError, if the loss at ``params`` or ``direction`` is not finite.

    Reference:
        Kalra et al. (2026) for the quantity; Kalra and Barkeshli (2024). The search is our own: theirs does not try the
        lower end of its bracket.

    Example:
        >>> weight = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> gradient = [torch.tensor([1.0, 3.0])]
        >>> found = critical_sharpness(lambda: (weight[0] ** 2 + 3 * weight[1] ** 2) / 2, [weight], gradient)
        >>> round(found.sharpness, 4)  # (1 + 27) / (1 + 9)
        2.8
    """
    guess = real_number("guess", guess, above=0, hint="for instance the present learning rate")
    tolerance = real_number("tolerance", tolerance, above=0, below=1, hint="try 0.05")
    most = math.inf if largest is None else real_number("largest", largest, above=0, hint="or None for no limit")
    max_evaluations = whole_number("max_evaluations", max_evaluations, 5)
    check_repeatable = flag("check_repeatable", check_repeatable)
    direction = each("direction", direction, lambda name, tensor: instance(name, tensor, Tensor))
    with loss_surface(loss_fn, params, process_group=process_group) as surface:
        shapes, expected = ([tuple(t.shape) for t in tensors] for tensors in (direction, surface.weights))
        if shapes != expected:
            raise ValueError(f"direction must hold one tensor in the shape of each of params, {expected}, got {shapes}")
        start = surface.loss()
        if not math.isfinite(start):
            raise UndefinedCurvatureError(f"the loss at params must be finite, got {start!r}")
        length = euclidean_norm(direction)
        if not math.isfinite(length):
            raise UndefinedCurvatureError(f"direction must be finite, got a norm of {length!r}")
        if check_repeatable:
            surface.check_repeatable()
        if not length:
            return _none("the direction is zero: a step changes nothing", start, evaluations=1)
        steps = [step.detach().to(weight) for step, weight in zip(direction, surface.weights, strict=True)]
        evaluations = 1

        def rise(learning_rate: float) -> float:
            nonlocal evaluations
            evaluations += 1
            surface.move(-learning_rate * step for step in steps)
            return surface.loss() - start

        noise = _ROUNDING * max(torch.finfo(weight.dtype).eps for weight in surface.weights) * abs(start)
        search = Crossing(rise, noise, tolerance, most, max_evaluations - 1)
        reason = search.find(guess)
    if reason == "no descent":
        told = (
            "no learning rate was found at which a step along the direction lowers the loss by more than its rounding"
        )
        return _none(told, start, evaluations, search)
    if reason == "no rise":
        told = f"the loss does not exceed {start:.6g} up to a learning rate of {search.lower:.3g}"
        return CriticalSharpness(math.inf, 0.0, search.lower, math.inf, start, evaluations, told)
    found = search.crossing
    return CriticalSharpness(found, 2 / found, search.lower, search.upper, start, evaluations)


def _none(reason: str, loss: float, evaluations: int, search: Crossing | None = None) -> CriticalSharpness:
    lower, upper = (0.0, math.inf) if search is None else (search.lower, search.upper)
    return CriticalSharpness(math.nan, math.nan, lower, upper, loss, evaluations, reason)
