"""Adversarial and noisy inputs: perturbed within a box or a ball so that the loss rises, or so that it must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from .._loss_surface import _refuse_reentrant_checkpoints
from .._validation import each, flag, function, instance, one_of, real_number, refusal, whole_number

PerChannel: TypeAlias = float | Sequence[float] | Tensor
"""One number for all, or one for each channel."""


def adversarial_inputs(
    loss_fn: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    epsilon: PerChannel,
    steps: int = 1,
    step_size: PerChannel | None = None,
    norm: Literal["max", "l2"] = "max",
    clip: tuple[PerChannel, PerChannel] | None = None,
    random_start: bool | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Inputs close by whose loss is high: the fast gradient sign method for one step, projected gradient for several.

    Every step moves along the sign of the gradient (``norm="max"``), or along the gradient of each sample divided by
    its Euclidean norm (``"l2"``), is projected back to where ``|d| <= epsilon`` (``||d / epsilon||_2 <= 1``) for the
    perturbation d, and clipped. The loss is differentiated by the inputs alone: no ``.grad`` is touched. A positive
    factor on the loss does not matter; under float16 use one, or small gradients are rounded to zero, and zeros do not
    move. Nor do entries whose gradient is not finite.

    The model runs as it stands: in training mode BatchNorm's running statistics move with every step, unless
    `batch_statistics` is around the call.

    Inputs that were normalised, ``(x - mean) / std`` by channel, need ``epsilon / std`` and the bounds
    ``((0 - mean) / std, (1 - mean) / std)``, each as a tuple by channel. The ball is then the one of the pixels.

    Args:
        loss_fn: Takes inputs, returns their scalar loss, a mean or a sum over samples that do not affect each other.
        inputs: Floating point, of shape (N, ...), or (N, C, ...) where something is given by channel; never written to.
        epsilon: How far an entry may move, or in the ball all entries of a sample together; in the units of the inputs.
            Goodfellow et al. use 0.25 on MNIST, Madry et al. 0.3 there and 8 / 255 on CIFAR-10, for inputs in [0, 1].
        steps: Gradients taken; 1 in Goodfellow et al., 7 in Madry et al.'s training on CIFAR-10.
        step_size: Length of a step, in the units of ``epsilon``; ``2.5 * epsilon / steps`` by default, with which Madry
            et al. (2018) evaluate: it reaches the boundary from any start. One step alone ends on the boundary.
        norm: ``"max"`` for a box around each sample, ``"l2"`` for a ball.
        clip: Lowest and highest value that an input can have, as ``(0.0, 1.0)`` for pixels; None for no bounds.
        random_start: Whether to start uniformly in the box or the ball, as Madry et al. do; by default where there is
            more than one step.
        generator: Source of the random start, on any device; torch's global one for None.

    Returns:
        New inputs, of the same shape, type and device, without a graph.

    Raises:
        ValueError: If ``inputs`` are not floating point, or lie outside of ``clip`` by more than a hundredth of its
            range; if ``epsilon`` or ``step_size`` is not positive and finite, or not one number for each channel; if
            ``loss_fn`` does not return a scalar that depends on the inputs, or one through reentrant checkpoints.

    Reference:
        Goodfellow, Shlens and Szegedy (2015), section 4; Madry et al. (2018), section 2.1.

    Example:
        >>> x = torch.tensor([[0.2, 0.5], [0.6, 0.95]])
        >>> adversarial_inputs(lambda x: (x * torch.tensor([-1.0, 2.0])).sum(), x, epsilon=0.1, clip=(0.0, 1.0))
        tensor([[0.1000, 0.6000],
                [0.5000, 1.0000]])
    """
    function("loss_fn", loss_fn, "inputs")
    x = _checked_inputs(inputs)
    width = _by_channel("epsilon", epsilon, x, _positive)
    steps = whole_number("steps", steps)
    stride = width * (2.5 / steps) if step_size is None else _by_channel("step_size", step_size, x, _positive)
    norm = one_of("norm", norm, ("max", "l2"))
    bounds = _bounds(clip, x)
    starts_anywhere = steps > 1 if random_start is None else flag("random_start", random_start)
    if generator is not None:
        instance("generator", generator, torch.Generator)

    def confined(moved: Tensor) -> Tensor:
        if norm == "max":
            near = torch.clamp(moved, x - width, x + width)
        else:
            near = x + (moved - x) / _norm_of_each((moved - x) / width).clamp_(min=1)
        return near if bounds is None else torch.clamp(near, *bounds)

    found = confined(x + width * _random_point(x, norm, generator)) if starts_anywhere else x
    for _ in range(steps):
        slope = _gradient(loss_fn, found)
        if norm == "max":
            direction = slope.sign()
        else:
            direction = slope * width
            length = _norm_of_each(direction)
            direction = direction / torch.where(length > 0, length, 1)
        found = confined(found + stride * direction)
    return found


def stability_loss(logits: Tensor, noisy_logits: Tensor) -> Tensor:
    """KL divergence from the prediction on clean inputs to that on noisy ones, for stability training.

    The loss to minimise is ``L(f(x), y) + alpha * stability_loss(f(x), f(x + n))`` with normal noise n of standard
    deviation s, the task's loss on clean inputs alone. Zheng et al. use alpha = 0.01 and s = 0.04 for inputs in [0, 1].
    They write the cross-entropy of the two predictions: it has the entropy of the clean one in addition, whose
    gradient does not vanish without noise. That of the divergence does.

    Args:
        logits: On clean inputs, of shape (N, classes, ...), as `torch.nn.functional.cross_entropy` takes them.
        noisy_logits: On noisy inputs, of the same shape. Gradients reach both.

    Returns:
        A scalar in nats, at least 0, averaged over all predictions; in float32 at least.

    Raises:
        ValueError: If the shapes differ, or there is no axis of classes.

    Reference:
        Zheng, Song, Leung and Goodfellow (2016), section 3.

    Example:
        >>> sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> print(f"{stability_loss(sure, unsure):.2f} {stability_loss(unsure, unsure):.2f}")
        0.69 0.00
    """
    for name, given in (("logits", logits), ("noisy_logits", noisy_logits)):
        if instance(name, given, Tensor).ndim < 2 or not given.is_floating_point():
            shape = f"{given.dtype} of shape {tuple(given.shape)}"
            raise ValueError(f"{name} must be floating point, of shape (N, classes, ...), got {shape}")
    if logits.shape != noisy_logits.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(noisy_logits.shape)}"
        raise ValueError(f"logits and noisy_logits must have one shape, got {shapes}")
    wide = torch.promote_types(logits.dtype, torch.float32)
    clean, noisy = (log_softmax(given, dim=1, dtype=wide) for given in (logits, noisy_logits))
    return kl_div(noisy, clean, reduction="none", log_target=True).sum(dim=1).mean()


def _gradient(loss_fn: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Gradient of the loss by the inputs, zero where it is not finite."""
    if torch.is_inference_mode_enabled():
        raise ValueError("there are no gradients under torch.inference_mode; call this in `inference_mode(False)`")
    with torch.enable_grad():
        point = at.detach().requires_grad_()
        loss = loss_fn(point)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss_fn must return a scalar tensor, got {got}")
        slopes: Sequence[Tensor | None] = [None]
        if loss.requires_grad:
            _refuse_reentrant_checkpoints(loss)
            slopes = torch.autograd.grad(loss, [point], allow_unused=True)
    slope = slopes[0]
    if slope is None:
        raise ValueError(
            "loss_fn returned a loss that does not depend on the inputs that it was given; compute it from its argument"
        )
    return slope.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _random_point(x: Tensor, norm: str, generator: torch.Generator | None) -> Tensor:
    """Uniform in the unit cube or the unit ball of each sample."""
    device = x.device if generator is None else generator.device
    if norm == "max":
        return (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype, device=device) - 1).to(x.device)
    point = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device)
    each_one = (len(x), *[1] * (x.ndim - 1))
    # A ball of radius r has r^n of the volume.
    radius = torch.rand(each_one, generator=generator, dtype=x.dtype, device=device) ** (len(x) / max(1, x.numel()))
    return (point * (radius / _norm_of_each(point))).to(x.device)


def _norm_of_each(batch: Tensor) -> Tensor:
    """Euclidean norm of each sample, with axes of size 1 for the others."""
    wide = torch.promote_types(batch.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(batch.flatten(1), dim=1, dtype=wide)
    return norms.to(batch.dtype).view(-1, *[1] * (batch.ndim - 1))


def _checked_inputs(inputs: Tensor) -> Tensor:
    if not instance("inputs", inputs, Tensor).is_floating_point():
        raise ValueError(f"inputs must be floating point, got {inputs.dtype}; attack embeddings in place of tokens")
    if not inputs.ndim or not inputs.numel():
        raise ValueError(f"inputs must hold at least one sample, along their first axis, got {tuple(inputs.shape)}")
    return inputs.detach()


def _by_channel(name: str, value: PerChannel, x: Tensor, check: Callable[[str, object], float]) -> Tensor:
    """The value as a tensor that goes with x: without axes, or of shape (C, 1, ...)."""
    if isinstance(value, Tensor):
        value = value.tolist() if value.ndim == 1 else value
    if not isinstance(value, list | tuple):
        return torch.tensor(check(name, value), dtype=x.dtype, device=x.device)
    numbers = each(name, value, check)
    if x.ndim < 2 or len(numbers) != x.shape[1]:
        rule = f"must be one number, or one for each channel of inputs of shape {tuple(x.shape)}"
        raise ValueError(refusal(name, rule, value))
    return torch.tensor(numbers, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 2))


def _bounds(clip: object, x: Tensor) -> tuple[Tensor, Tensor] | None:
    if clip is None:
        return None
    if not isinstance(clip, list | tuple) or len(clip) != 2:
        raise ValueError(refusal("clip", "must be the lowest and the highest value of an input", clip, "(0.0, 1.0)"))
    low, high = (_by_channel("clip", bound, x, _finite) for bound in clip)
    if not bool((low < high).all()):
        raise ValueError(refusal("clip", "must have its lowest value below its highest", clip))
    slack = (high - low) / 100  # rounding, but not inputs that were normalised where the bounds were not
    if bool(((x < low - slack) | (x > high + slack)).any()):
        reach = f"which reach from {float(x.min()):.3g} to {float(x.max()):.3g}"
        raise ValueError(refusal("clip", f"must be bounds of the inputs, {reach}", clip, "shift it where they are"))
    return low, high


def _positive(name: str, value: object) -> float:
    return real_number(name, value, above=0)


def _finite(name: str, value: object) -> float:
    return real_number(name, value)
