"""Batch sharpness: the curvature of each batch's own loss along the step that the batch asks for, in the mean."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .._loss_surface import LossFunction, LossSurface, Params, checked_params, euclidean_norm, loss_surface
from .._validation import each, flag, function, instance, real_number, refusal, whole_number
from ..errors import UndefinedCurvatureError
from .hessian_products import _check_twice_differentiable

# Length of a forward difference's step, relative to 1 + |x|. Measured on networks with tanh and GELU at their start and
# after 300 steps, n = 18,000, batches of 32: the ratio of a single batch is then off by at most 3e-3 (float32) and 3e-7
# (float64); ten times as long or as short a step is off by up to ten times as much.
_STEP = {torch.float32: 3e-5, torch.float64: 1e-9}

StepOf = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class BatchSharpness:
    """Result of `batch_sharpness`.

    Attributes:
        value: Mean of the batches' ratios, in units of the loss over those of the weights squared.
        standard_error: Of that mean; NaN for a single batch.
        batches: Batches measured.
        converged: Whether the standard error is within the tolerance.

    Example:
        >>> found = BatchSharpness(value=9.5, standard_error=0.1, batches=100, converged=True)
        >>> round(found.value * 0.2 / 2, 2)  # at a learning rate of 0.2: near its edge
        0.95
    """

    value: float
    standard_error: float
    batches: int
    converged: bool


def batch_sharpness(
    loss_fns: Iterable[LossFunction],
    params: Params,
    *,
    velocity: Sequence[Tensor] | None = None,
    momentum: float = 0.0,
    second_derivatives: bool = True,
    tolerance: float = 0.02,
    min_batches: int = 10,
    max_batches: int = 1000,
    process_group: ProcessGroup | None = None,
) -> BatchSharpness:
    """Mean over batches of ``g.H g / g.g``, each batch with the gradient g and the Hessian H of its own loss.

    SGD without momentum brings it to 2 over the learning rate, and holds it there, while the largest eigenvalue of the
    Hessian stays below. It is a mean of ratios, whose own standard error decides when to stop. With ``velocity`` v and
    ``momentum`` m, a batch's step is ``s = m v + g`` and its ratio ``s.H s / s.g``: at the edge 2 (1 - m) over the
    learning rate for small batches, 2 (1 + m) over it for large ones.

    A batch costs about three gradients, by double backward, or two without second derivatives.

    Args:
        loss_fns: Loss functions, one for each batch, as `hessian_vector_product` takes them; may go on for ever. For
            the run's own measure let them be fresh batches of the size that it trains on.
        params: Tensors that the losses depend on.
        velocity: The optimizer's momentum buffer, one tensor in the shape of each of ``params``; none by default.
        momentum: m, from 0 to below 1; above 0 it needs ``velocity``.
        second_derivatives: Exact, by double backward; otherwise by a forward difference of gradients, for losses that
            have no second derivative, as with fused attention or compiled modules. With tanh or GELU a batch's ratio is
            then off by 3e-3 of itself at most in float32, and by 1e-6 in float64. Differences see the kinks of ReLU,
            which the Hessian does not: single batches may be off by more than their ratio.
        tolerance: Stop once the standard error is below this share of the mean.
        min_batches: Fewest batches to stop at.
        max_batches: Most batches.
        process_group: Processes that hold one share of each loss, the loss being their sum; all call alike, with as
            many losses.

    Returns:
        The mean with its standard error.

    Raises:
        ValueError: If an argument is out of range, there is no loss, a tensor cannot be used, a loss is not a scalar,
            is random, does not depend on ``params``, or has no double backward where it is needed.
        UndefinedCurvatureError: A ValueError, if a loss or a ratio is not finite, as where a batch's gradient is zero.

    Reference:
        Andreyev and Beneventano (2024), version 3 and later; their step version for momentum (2026).

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> losses = [lambda: weight.square().sum(), lambda: 3 * weight.square().sum()]
        >>> batch_sharpness(losses, [weight]).value  # the mean of 2 and 6
        4.0
    """
    momentum = real_number("momentum", momentum, at_least=0, below=1)
    if momentum and velocity is None:
        raise ValueError(refusal("momentum", "needs velocity=..., the optimizer's momentum buffer", momentum))
    if velocity is not None:
        velocity = each("velocity", velocity, lambda name, tensor: instance(name, tensor, Tensor))
    second_derivatives = flag("second_derivatives", second_derivatives)
    tolerance = real_number("tolerance", tolerance, above=0, below=1, hint="try 0.02")
    min_batches, max_batches = whole_number("min_batches", min_batches, 2), whole_number("max_batches", max_batches)
    if isinstance(loss_fns, str | bytes) or hasattr(loss_fns, "ndim") or not isinstance(loss_fns, Iterable):
        raise ValueError(refusal("loss_fns", "must be loss functions, one for each batch", loss_fns))
    params = checked_params(params)  # which may be a generator, and is read for each batch
    ratio = _exact if second_derivatives else _by_difference
    ratios: list[float] = []
    for loss_fn in loss_fns:
        with loss_surface(
            function("loss_fns", loss_fn, "no arguments"), params, process_group=process_group
        ) as surface:
            _check_shapes(surface, velocity)
            value = ratio(surface, _step_with(velocity, momentum), check=not ratios)
        if not math.isfinite(value):
            raise UndefinedCurvatureError(
                f"the ratio of batch {len(ratios)} is not finite: its loss is not, or the gradient is zero"
            )
        ratios.append(value)
        if len(ratios) >= max_batches or (len(ratios) >= min_batches and _is_known(ratios, tolerance)):
            break
    if not ratios:
        raise ValueError("loss_fns is empty; pass one loss for each batch")
    error = _standard_error(ratios)
    return BatchSharpness(statistics.fmean(ratios), error, len(ratios), _is_known(ratios, tolerance))


def _exact(surface: LossSurface, step_of: StepOf, *, check: bool) -> float:
    """``s.H s / s.g`` by double backward."""
    kept: list[Sequence[Tensor | None]] = []  # the gradient with its graph, where the loss comes whole

    def gradient_of(part: Tensor) -> Sequence[Tensor | None]:
        slopes = surface.gradient(part, create_graph=True)
        if surface.came_whole:
            kept.append(slopes)
        return [None if slope is None else slope.detach() for slope in slopes]

    def bent(slopes: Sequence[Tensor | None]) -> Sequence[Tensor]:
        pairs = [(a, s) for a, s in zip(slopes, step, strict=True) if a is not None and a.requires_grad]
        if not pairs:
            return [torch.zeros_like(weight) for weight in surface.weights]
        ends, along = zip(*pairs, strict=True)
        try:
            _check_twice_differentiable(slopes)
            return torch.autograd.grad(ends, surface.weights, along, materialize_grads=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            told = str(error).partition("\n")[0]
            raise ValueError(f"a loss has no double backward ({told}); pass second_derivatives=False") from error

    def along_step() -> tuple[float, list[Tensor]]:
        if kept:
            return 0.0, [tensor.to_dense() for tensor in bent(kept.pop())]
        return surface.over_parts(lambda part: bent(surface.gradient(part, create_graph=True)))

    _, gradient = surface.summed(lambda: surface.over_parts(gradient_of))
    if check:
        _check(surface)
    step = step_of(gradient)
    _, product = surface.summed(along_step)
    return _over(_dot(step, product), _dot(step, gradient))


def _by_difference(surface: LossSurface, step_of: StepOf, *, check: bool) -> float:
    """``s.H s / s.g`` by ``(g(x + h s) - g(x)) / h``."""
    _, gradient = surface.loss_and_gradient()
    if check:
        _check(surface)
    step = step_of(gradient)
    length = euclidean_norm(step)
    if not length:
        return math.nan
    h = max(_STEP[weight.dtype] for weight in surface.weights) * (1 + euclidean_norm(surface.centre)) / length
    surface.move(h * s for s in step)
    _, ahead = surface.loss_and_gradient()
    change = [after - before for after, before in zip(ahead, gradient, strict=True)]
    return _over(_dot(step, change) / h, _dot(step, gradient))


def _step_with(velocity: Sequence[Tensor] | None, momentum: float) -> StepOf:
    if velocity is None or not momentum:
        return list
    return lambda gradient: [g + momentum * v.detach().to(g) for g, v in zip(gradient, velocity, strict=True)]


def _check(surface: LossSurface) -> None:
    surface.check_used()
    surface.check_repeatable()


def _check_shapes(surface: LossSurface, velocity: Sequence[Tensor] | None) -> None:
    if velocity is not None:
        shapes, expected = ([tuple(t.shape) for t in tensors] for tensors in (velocity, surface.weights))
        if shapes != expected:
            raise ValueError(f"velocity must hold one tensor in the shape of each of params, {expected}, got {shapes}")


def _dot(first: Iterable[Tensor], second: Iterable[Tensor]) -> float:
    """Summed in float64 where the device has it."""
    exact = torch.float32 if any(t.device.type == "mps" for t in first) else torch.float64
    return math.fsum(float((a.to(exact) * b.to(exact)).sum()) for a, b in zip(first, second, strict=True))


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _standard_error(ratios: Sequence[float]) -> float:
    return statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan


def _is_known(ratios: Sequence[float], tolerance: float) -> bool:
    return _standard_error(ratios) <= tolerance * abs(statistics.fmean(ratios))
