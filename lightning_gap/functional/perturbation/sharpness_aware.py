"""Sharpness-aware minimization: the gradient where the loss is highest near the weights, to first order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.random import fork_rng

from .._uninterrupted import uninterrupted_exit
from .._validation import each, flag, one_of, real_number, refusal
from ._weights import (
    checked_gradients,
    checked_tensors,
    checked_weights,
    global_norm,
    loss_and_gradients,
    matched,
    unchanged,
)


def ascent_direction(
    weights: Iterable[Tensor],
    gradients: Iterable[Tensor | None],
    *,
    rho: float,
    adaptive: bool | Sequence[bool] = False,
    norm: Literal["l2", "max"] = "l2",
    eta: float = 0.0,
) -> list[Tensor]:
    """The perturbation e within a ball or a box that raises the loss most, to first order.

    With ``g`` the gradient of all weights together, and ``T = |w| + eta`` where ``adaptive``, ``T = 1`` elsewhere:

    - ``norm="l2"``: ``e = rho T^2 g / ||T g||_2``, on the ball ``||e / T||_2 = rho``. It is SAM, and adaptive ASAM.
    - ``norm="max"``: ``e = rho T sign(g)``, at a corner of the box ``|e / T| <= rho``. It is the robust problem
      ``min_w max_{|e| <= rho} L(w + e)`` of Keskar et al., linearised.

    A positive factor on the loss, a gradient scaler's for instance, does not change e. Where the gradient is zero, e is
    zero. So is all of e if an entry of the gradient is not finite: the second gradient is then the first, and a scaler
    skips the step as it would without. Nothing here waits for the device.

    Args:
        weights: Floating-point tensors of any shapes, on any devices; read only. One that is listed twice counts once.
        gradients: Gradient of each weight, in its shape; None for one that is left out, whose e is zero.
        rho: Norm of ``e / T``. Foret et al. use 0.05 on CIFAR-10 and 0.1 on CIFAR-100, Kwon et al. (adaptive) 0.5
            and 1.0.
        adaptive: Whether e follows the size of each weight: for all weights, as in Kwon et al.'s equations, or one
            bool for each. Their code adapts weights and the scales of norm layers, and no biases: pass for instance
            ``["bias" not in name.rpartition(".")[2] for name, _ in model.named_parameters()]``. A tensor alone does not
            tell a bias from the scale of a norm layer.
        norm: ``"l2"`` for one ball over all tensors, ``"max"`` for the box.
        eta: Added to ``|w|`` where ``adaptive``, so that a weight of zero moves too. Kwon et al.'s class has 0.01,
            their CIFAR runs 0. No effect without ``adaptive``.

    Returns:
        e, one new tensor for each weight, in its shape, type and device. In bfloat16 weights most entries of e are
        rounded away when they are added: keep the weights in float32.

    Raises:
        ValueError: If ``rho`` or ``eta`` is negative or not finite, ``norm`` is unknown, or ``gradients`` or
            ``adaptive`` do not pair up with ``weights``.

    Reference:
        Foret et al. (2021), equation 2; Kwon et al. (2021), algorithm 1; Keskar et al. (2017), section 4.

    Example:
        >>> weight, gradient = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -4.0])
        >>> ascent_direction([weight], [gradient], rho=0.5)
        [tensor([ 0.3000, -0.4000])]
        >>> ascent_direction([weight], [gradient], rho=0.5, norm="max", adaptive=True)
        [tensor([ 0.5000, -1.0000])]
    """
    rho = real_number("rho", rho, at_least=0)
    norm = one_of("norm", norm, ("l2", "max"))
    eta = real_number("eta", eta, at_least=0)
    listed = checked_weights(weights)
    slopes = checked_gradients(gradients, listed)
    adapted = _adapted(adaptive, len(listed))
    # T g; where T = 1 the gradient itself, which must not be written to.
    along = [
        slope * _scale(weight, eta) if slope is not None and adapts else slope
        for weight, slope, adapts in zip(listed, slopes, adapted, strict=True)
    ]
    counted = {id(weight): part for weight, part in zip(listed, along, strict=True) if part is not None}
    # The box needs a norm only to learn whether every entry is finite.
    length = global_norm(counted.values(), 2.0 if norm == "l2" else torch.inf)
    unusable = ~(length.isfinite() & (length > 0))
    directions = []
    for weight, part, adapts in zip(listed, along, adapted, strict=True):
        if part is None:
            directions.append(torch.zeros_like(weight, requires_grad=False))
            continue
        moved = (part.sign() if norm == "max" else part / length.to(part.device)).mul_(rho)
        if adapts:
            moved.mul_(_scale(weight, eta))
        directions.append(moved.masked_fill_(unusable.to(part.device), 0).to(weight.device, weight.dtype))
    return directions


@uninterrupted_exit
def perturbed(weights: Iterable[Tensor], directions: Iterable[Tensor]) -> Iterator[None]:
    """Add the directions to the weights inside the block, and put the very bits back after it.

    Also after an exception; Ctrl-C and SIGTERM wait until the weights are back. They stay in their storage. Adding and
    subtracting would leave rounding errors, and NaN for ever after a perturbation that is not finite. Inside the block
    there is one more copy of the weights in memory; two, if the caller keeps the directions.

    Args:
        weights: Floating-point tensors. One that is listed twice, as tied weights may be, moves once.
        directions: What to add to each, in its shape, for instance from `ascent_direction`.

    Raises:
        ValueError: If ``directions`` do not pair up with ``weights``.

    Reference:
        Foret et al. (2021), algorithm 1.

    Example:
        >>> weight = torch.tensor([0.1])
        >>> with perturbed([weight], [torch.tensor([0.2])]):
        ...     print(weight)
        tensor([0.3000])
        >>> weight
        tensor([0.1000])
    """
    listed = checked_weights(weights)
    added = {
        id(weight): (weight, direction)
        for weight, direction in zip(listed, matched("directions", directions, listed), strict=True)
    }
    del directions
    with unchanged([weight for weight, _ in added.values()]):
        _add(added.values())
        added.clear()  # the caller may have kept none of them
        yield


def sharpness_aware_gradient(
    loss_fn: Callable[[], Tensor],
    weights: Iterable[Tensor],
    *,
    rho: float,
    adaptive: bool | Sequence[bool] = False,
    norm: Literal["l2", "max"] = "l2",
    eta: float = 0.0,
    buffers: Iterable[Tensor] = (),
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss at the weights, and its gradient at the weights plus `ascent_direction`.

    Step with this gradient in place of the plain one, for sharpness-aware minimization in any training loop. Both
    passes draw the same random numbers from torch, hence the same dropout masks. Clip the gradient that is returned.
    With weight decay in the optimizer, as here, e knows nothing of it; Foret et al.'s code has it in the loss.

    Args:
        loss_fn: Returns the scalar loss of one batch at the current weights; called twice.
        weights: The model's parameters. Frozen ones and those that the loss does not use stay where they are. On
            return all hold their values again, and ``.grad`` is not touched.
        rho: As in `ascent_direction`, like the following three.
        adaptive: Whether e follows the size of each weight.
        norm: ``"l2"`` for a ball, ``"max"`` for a box.
        eta: Added to ``|w|`` where ``adaptive``.
        buffers: Tensors that only the first pass may change. Pass ``model.buffers()``, so that BatchNorm's running
            statistics move once per batch, and are those of the weights.

    Returns:
        The first loss, detached, and one gradient for each weight; None for those that have none.

    Raises:
        ValueError: If an argument is refused by `ascent_direction`, or the loss is no scalar, has no graph, or uses
            none of ``weights``.

    Reference:
        Foret et al. (2021), algorithm 1.

    Example:
        >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> loss, (weight.grad,) = sharpness_aware_gradient(lambda: weight.square().sum() / 2, [weight], rho=0.5)
        >>> optimizer.step()
        >>> loss, weight  # the gradient of this loss at w + e is w + e, and e = rho w / ||w||
        (tensor(12.5000), tensor([2.6700, 3.5600], requires_grad=True))
    """
    listed = checked_weights(weights)
    kept = checked_tensors("buffers", buffers)
    devices = {weight.device for weight in listed if weight.device.type not in ("cpu", "mps")}
    kind = next((device.type for device in devices), "cuda")
    # It goes back to where the random numbers began: the second pass draws them again and leaves them as one pass does.
    with fork_rng([device.index for device in devices], device_type=kind):
        loss, gradients = loss_and_gradients(loss_fn, listed)
    directions = ascent_direction(listed, gradients, rho=rho, adaptive=adaptive, norm=norm, eta=eta)
    del gradients
    with unchanged(kept), perturbed(listed, directions):
        del directions
        return loss, loss_and_gradients(loss_fn, listed)[1]


def _adapted(adaptive: bool | Sequence[bool], weights: int) -> list[bool]:
    if not isinstance(adaptive, list | tuple):
        return [flag("adaptive", adaptive)] * weights
    marks = each("adaptive", adaptive, flag)
    if len(marks) != weights:
        raise ValueError(refusal("adaptive", f"must be one bool, or one for each of the {weights} weights", adaptive))
    return marks


def _scale(weight: Tensor, eta: float) -> Tensor:
    """T of ASAM."""
    return weight.detach().abs().add_(eta)


def _add(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for weight, direction in pairs:
        weight.detach().add_(direction.detach())
    torch.clear_autocast_cache()
