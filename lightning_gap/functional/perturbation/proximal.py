"""Conservative training: a few optimizer steps on one batch, held close to where they began."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor
from torch.optim import Optimizer

from .._validation import instance, real_number, refusal, whole_number
from ._weights import (
    BeforeSteps,
    back_on_error,
    checked_gradients,
    checked_loss,
    checked_tensors,
    checked_weights,
    matched,
    unchanged,
)


def proximal_gradient(
    weights: Iterable[Tensor], anchor: Iterable[Tensor], gradients: Iterable[Tensor | None], strength: float
) -> None:
    """Add ``strength * (w - anchor)`` to the gradients, in place: the gradient of ``strength / 2 ||w - anchor||^2``.

    Args:
        weights: Floating-point tensors of any shapes; read only.
        anchor: Where they are held, a tensor in the shape of each.
        gradients: Written to: the gradient of each weight, unscaled. None for one that is left out.
        strength: Lambda of the proximal term, the inverse of a step size. Keskar et al. use 1e-3.

    Raises:
        ValueError: If ``strength`` is negative or not finite, or the tensors do not pair up.

    Reference:
        Li, Zhang, Chen and Smola (2014); Keskar et al. (2017), section 4.

    Example:
        >>> import torch
        >>> gradient = torch.tensor([1.0])
        >>> proximal_gradient([torch.tensor([3.0])], [torch.tensor([1.0])], [gradient], 0.5)
        >>> gradient
        tensor([2.])
    """
    strength = real_number("strength", strength, at_least=0)
    listed = checked_weights(weights)
    anchored = matched("anchor", anchor, listed)
    for weight, held, slope in zip(listed, anchored, checked_gradients(gradients, listed), strict=True):
        if slope is not None:  # the difference first: two large products would cancel
            slope.add_(weight.detach() - held.to(weight), alpha=strength)


def conservative_step(
    loss_fn: Callable[[], Tensor],
    weights: Iterable[Tensor],
    optimizer: Optimizer,
    *,
    strength: float = 1e-3,
    inner_steps: int = 3,
    buffers: Iterable[Tensor] = (),
) -> Tensor:
    """Solve ``min_w L(w) + strength / 2 ||w - w_k||^2`` on one batch, inexactly, from ``w_k``.

    Every inner step costs one gradient. Whether the optimizer's moments live on from one batch to the next, which the
    paper does not say, is the caller's choice: pass the same optimizer, or a new one for each batch. Learning-rate
    schedules count batches, not inner steps. If a pass fails or is interrupted, weights and optimizer are put back to
    where the batch began; in memory there are a copy of the weights, ``w_k``, and one of the optimizer's state.

    Args:
        loss_fn: Returns the scalar loss of one batch at the current weights; called once for each inner step.
        weights: Those that ``optimizer`` steps. Their ``.grad`` is overwritten, and holds the last inner gradient.
        optimizer: The inner optimizer; Keskar et al. use Adam.
        strength: Lambda of the proximal term. At 0 these are ``inner_steps`` plain steps on the batch; as it grows,
            they come closer to one gradient step of size ``1 / strength``.
        inner_steps: Steps on the batch; 3 in the paper. The first one does not feel the proximal term.
        buffers: Tensors that only the first of these passes may change; pass ``model.buffers()`` for BatchNorm.

    Returns:
        The loss at ``w_k``, detached.

    Raises:
        ValueError: If ``strength`` is negative or not finite, ``inner_steps`` is below 1, ``optimizer`` needs a closure
            or does not step just ``weights``, or the loss is no scalar, or has no graph.

    Reference:
        Keskar et al. (2017), section 4, after Li, Zhang, Chen and Smola (2014).

    Example:
        >>> import torch
        >>> weight = torch.zeros(1, requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=0.2)
        >>> loss = conservative_step(  # the minimum is at 3 w + strength w = 3
        ...     lambda: 1.5 * (weight - 1).square().sum(), [weight], optimizer, strength=1.0, inner_steps=40
        ... )
        >>> loss, weight.detach()
        (tensor(1.5000), tensor([0.7500]))
    """
    strength = real_number("strength", strength, at_least=0)
    inner_steps = whole_number("inner_steps", inner_steps)
    listed = checked_weights(weights)
    kept = checked_tensors("buffers", buffers)
    _check_optimizer(optimizer, listed)
    before = BeforeSteps(listed, optimizer)
    first, trained = None, [weight for weight in listed if weight.requires_grad]
    with back_on_error(before):
        for step in range(inner_steps):
            with unchanged(kept if step else []):
                loss = checked_loss(loss_fn)
                for weight in trained:
                    weight.grad = None
                loss.backward(inputs=trained)  # type: ignore[no-untyped-call]
            proximal_gradient(listed, before.values, [weight.grad for weight in listed], strength)
            optimizer.step()
            first = loss.detach() if first is None else first
    assert first is not None
    return first


def _check_optimizer(optimizer: Optimizer, weights: Sequence[Tensor]) -> None:
    instance("optimizer", optimizer, Optimizer)
    stepped = {id(weight) for group in optimizer.param_groups for weight in group["params"] if weight.requires_grad}
    if not stepped or stepped != {id(weight) for weight in weights if weight.requires_grad}:
        raise ValueError("optimizer must step all trainable weights, and no others; make it of the same parameters")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(refusal("optimizer", "must step without a closure, as Adam does", type(optimizer).__name__))
