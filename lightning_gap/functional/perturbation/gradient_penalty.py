"""A penalty on the norm of the gradient: the regularisation that small batches bring along, made explicit."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .._loss_surface import _refuse_reentrant_checkpoints
from .._validation import function, real_number
from ..curvature.hessian_products import _check_twice_differentiable
from ._weights import checked_gradients, checked_loss, checked_weights, differentiated, global_norm
from .sharpness_aware import ascent_direction, perturbed


def finite_difference_penalty(
    gradients_at: Callable[[], Iterable[Tensor | None]],
    weights: Iterable[Tensor],
    gradients: Iterable[Tensor | None],
    *,
    strength: float,
    length: float = 0.01,
) -> list[Tensor | None]:
    """Gradient of ``L + strength / 2 ||grad L||^2`` for one more gradient: ``g + strength H g``, with a difference.

    ``H g`` is ``||g|| (g(w + length g / ||g||) - g) / length``, exact where the loss is quadratic.

    What ``strength`` stands for, at learning rate eta:

    - Gradient descent follows ``L + eta / 4 ||grad L||^2`` (Barrett and Dherin): that is ``strength = eta / 2``.
      Stochastic descent has in its place the mean of ``||grad L_i||^2`` over its batches (Smith et al.).
    - Geiping et al.'s code adds ``eta / 4 s H g`` with s = 0.5: ``strength = s eta / 4``, 0.1 at their rate of 0.8. Its
      branch by double backward is twice as large.

    They penalise each block of 128 samples, 32 for the strong version, not the whole batch: call this for each
    micro-batch, and average.

    Args:
        gradients_at: Returns the gradients of the same loss, with the same random numbers, at the current weights;
            called once, at the moved weights.
        weights: Floating-point tensors; on return they hold their values again.
        gradients: Gradients at the weights, without a gradient scaler's factor; read only. None for weights left out.
        strength: Factor of half the squared gradient norm; in the units of a learning rate.
        length: Euclidean norm of the step over which the difference is taken; 0.01 in Geiping et al.'s code.

    Returns:
        ``g + strength H g`` for each weight, a new tensor; None where either gradient is.

    Raises:
        ValueError: If ``strength`` is negative or not finite, ``length`` is not positive, or gradients do not pair up
            with ``weights``.

    Reference:
        Geiping et al. (2022) and their code; Barrett and Dherin (2021); Smith et al. (2021).

    Example:
        >>> weight = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> gradient = lambda: [weight * torch.tensor([1.0, 3.0])]  # of a quadratic: H is diagonal
        >>> finite_difference_penalty(gradient, [weight], gradient(), strength=0.1)
        [tensor([1.1000, 7.8000], dtype=torch.float64)]
    """
    function("gradients_at", gradients_at, "no arguments")
    strength = real_number("strength", strength, at_least=0)
    length = real_number("length", length, above=0)
    listed = checked_weights(weights)
    slopes = checked_gradients(gradients, listed)
    with perturbed(listed, ascent_direction(listed, slopes, rho=length)):
        ahead = checked_gradients(gradients_at(), listed)
    counted = {id(weight): slope for weight, slope in zip(listed, slopes, strict=True) if slope is not None}
    factor = global_norm(counted.values()) * (strength / length)
    return [
        None if here is None or there is None else here + (there - here) * factor.to(here.device)
        for here, there in zip(slopes, ahead, strict=True)
    ]


def loss_with_hessian_product(
    loss: Tensor, weights: Iterable[Tensor], gradients: Iterable[Tensor | None], *, strength: float
) -> Tensor:
    """The loss and ``strength <grad loss, gradients>``, whose own gradient is ``grad loss + strength H gradients``.

    With the gradients of a whole batch, the sum of this over its parts has the gradient of the whole batch's penalty.

    Args:
        loss: A scalar with its graph.
        weights: The model's parameters.
        gradients: The fixed vector that the Hessian is multiplied with; None for weights left out.
        strength: As in `finite_difference_penalty`.

    Returns:
        A scalar with its graph. Its value means nothing.

    Raises:
        ValueError: If ``strength`` is negative or not finite, gradients do not pair up with ``weights``, or the loss
            uses none of them.
        RuntimeError: As in `exact_gradient_penalty`.
    """
    strength = real_number("strength", strength, at_least=0)
    listed = checked_weights(weights)
    fixed = checked_gradients(gradients, listed)
    _refuse_reentrant_checkpoints(loss)
    slopes = differentiated(loss, listed, create_graph=True)
    _check_twice_differentiable(slopes)
    pairs = {id(weight): (slope, vector) for weight, slope, vector in zip(listed, slopes, fixed, strict=True)}
    products = [
        (slope * vector).sum().to(loss.device)
        for slope, vector in pairs.values()
        if slope is not None and vector is not None
    ]
    return loss + strength * torch.stack(products).sum()


def exact_gradient_penalty(
    loss_fn: Callable[[], Tensor], weights: Iterable[Tensor], *, strength: float
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss, and the gradient of ``L + strength / 2 ||grad L||^2`` by double backward.

    It costs about three gradients, and keeps the graph of the first one.

    Args:
        loss_fn: Returns the scalar loss at the current weights; called once.
        weights: The model's parameters; ``.grad`` is not touched.
        strength: Factor of half the squared gradient norm, as in `finite_difference_penalty`.

    Returns:
        The loss without the penalty, detached, and ``g + strength H g`` for each weight; None for those that are frozen
        or unused.

    Raises:
        ValueError: If ``strength`` is negative or not finite, or the loss is no scalar, has no graph, or uses none of
            ``weights``.
        RuntimeError: If an operation has no double backward, as fused attention and compiled modules have none; use
            `finite_difference_penalty` there.

    Reference:
        Geiping et al. (2022); Barrett and Dherin (2021).

    Example:
        >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> loss, gradients = exact_gradient_penalty(lambda: (weight**3).sum(), [weight], strength=0.5)
        >>> gradients  # 3 w^2 + 0.5 * 6 w * 3 w^2
        [tensor([12., 84.])]
    """
    strength = real_number("strength", strength, at_least=0)
    listed = checked_weights(weights)
    loss = checked_loss(loss_fn)
    slopes = differentiated(loss, listed, create_graph=True)
    counted = {id(weight): slope for weight, slope in zip(listed, slopes, strict=True) if slope is not None}
    squares = sum(slope.square().sum().to(loss.device) for slope in counted.values())
    try:
        _check_twice_differentiable(slopes)
        return loss.detach(), differentiated(loss + strength / 2 * squares, listed)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RuntimeError("the loss cannot be differentiated twice; use finite_difference_penalty") from error
