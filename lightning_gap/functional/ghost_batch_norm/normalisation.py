"""Normalise each ghost of a batch with its own mean and variance.

One function, two ways to compute it: in blocks, for ordinary tensors, and by the formula, for whoever must see every
operation: the compiler, function transforms, and gradients of gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .._validation import function, real_number, refusal
from . import _blocks
from .runs import Runs


class Normalised(NamedTuple):
    """A normalised batch, and the mean and biased variance of each of its k ghosts, both of shape (k, C)."""

    output: Tensor
    mean: Tensor
    variance: Tensor


Observe = Callable[[Tensor, Tensor], None]
"""Takes the mean and biased variance of each ghost, both of shape (k, C)."""


def ghost_batch_norm(
    input: Tensor,
    runs: Runs,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    observe: Observe | None = None,
) -> Normalised:
    """Normalise each ghost of a batch with its own mean and biased variance, then scale and shift by channel.

    Statistics are taken in float32 at least. Gradients of every order, `torch.func` transforms, forward-mode
    differentiation and `torch.compile` work.

    Args:
        input: Batch of shape (N, C, ...), N samples and C channels.
        runs: The ghosts, from `ghost_runs`; they must add up to N samples.
        weight: Scale of each channel, (C,), shared by all ghosts.
        bias: Shift of each channel, (C,), shared by all ghosts.
        eps: Added to the variance.
        observe: Called once with the statistics, before anything is saved for the backward pass: checkpointing of
            activations stops its second forward pass at the last tensor saved, and BatchNorm's kernel has written
            its running statistics by then.

    Returns:
        The output in the input's shape, type and memory format, and the statistics, which carry no gradient.

    Raises:
        ValueError: If ``runs`` do not add up to N, the input is empty, or a tensor has another shape.

    Reference:
        Hoffer, Hubara and Soudry (2017), Algorithm 1.

    Example:
        >>> output, mean, variance = ghost_batch_norm(torch.tensor([[1.0], [3.0], [10.0], [30.0]]), ((2, 2),))
        >>> mean.flatten().tolist(), variance.flatten().tolist()
        ([2.0, 20.0], [1.0, 100.0])
    """
    if not isinstance(input, Tensor) or input.dim() < 2:
        raise ValueError(refusal("input", "must be a tensor of shape (N, C, ...)", input))
    if not isinstance(runs, (tuple, list)) or not all(isinstance(run, tuple) and len(run) == 2 for run in runs):
        raise ValueError(refusal("runs", "must be pairs of a count and a size, as ghost_runs gives them", runs))
    samples = sum(count * size for count, size in runs)
    if samples != input.shape[0] or input.numel() == 0:
        raise ValueError(
            f"runs must add up to the samples of input, at least one: they hold {samples}, input has shape "
            f"{tuple(input.shape)}; use ghost_runs(len(input), ...)"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and (not isinstance(tensor, Tensor) or tensor.shape != input.shape[1:2]):
            raise ValueError(refusal(name, f"must be a tensor of shape ({input.shape[1]},)", tensor))
    if observe is not None:
        function("observe", observe, "(mean, variance)")
    if is_eager(input, weight, bias):
        eps = real_number("eps", eps, at_least=0)
        return Normalised(*_InBlocks.apply(input, weight, bias, runs, eps, observe))
    normalised = _by_formula(input, runs, weight, bias, eps)
    if observe is not None:
        observe(normalised.mean, normalised.variance)
    return normalised


def _by_formula(input: Tensor, runs: Runs, weight: Tensor | None, bias: Tensor | None, eps: float) -> Normalised:
    """The definition on whole tensors: the compiler fuses it for any size, and every transform knows its parts."""
    outputs, means, variances = [], [], []
    per_channel = (-1,) + (1,) * (input.dim() - 2)
    start = 0
    for count, size in runs:
        ghosts = input[start : start + count * size].view(count, size, *input.shape[1:])
        ghosts = ghosts.to(torch.promote_types(input.dtype, torch.float32))
        over = [1, *range(3, ghosts.dim())]
        mean = ghosts.mean(over, keepdim=True)
        centred = ghosts - mean
        squares = centred.square().mean(over, keepdim=True)
        output = centred * torch.rsqrt(squares + eps)
        if weight is not None:
            output = output * weight.view(per_channel)
        if bias is not None:
            output = output + bias.view(per_channel)
        outputs.append(output.flatten(0, 1).to(input.dtype))
        means.append(mean.flatten(1).detach())
        variances.append(squares.flatten(1).detach())
        start += count * size
    return Normalised(torch.cat(outputs), torch.cat(means), torch.cat(variances))


def is_eager(*tensors: Tensor | None) -> bool:
    """Whether these are ordinary tensors in ordinary execution.

    Not so for the compiler, `torch.func`, forward-mode differentiation, `is_grads_batched`, and tensor subclasses such
    as fake or distributed ones: they must see every operation, and nothing that they touch may be kept.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if torch._C._get_tracing_state() is not None:  # torch.jit.trace
        return False
    return all(_is_ordinary(tensor) for tensor in tensors if tensor is not None)


def _is_ordinary(tensor: Tensor) -> bool:
    if type(tensor) not in (Tensor, nn.Parameter) or torch._C._functorch.is_legacy_batchedtensor(tensor):
        return False
    return forward_ad.unpack_dual(tensor).tangent is None  # type: ignore[no-untyped-call]


class _InBlocks(torch.autograd.Function):
    """The eager way; see `_blocks`."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        runs: Runs,
        eps: float,
        observe: Observe | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        output, mean, variance, inverse = _blocks.forward(input, weight, bias, runs, eps)
        statistics = mean[:, 0, :, 0], variance[:, 0, :, 0]
        if observe is not None:
            observe(*statistics)
        ctx.save_for_backward(input, weight, bias, mean, inverse)
        ctx.runs, ctx.eps = runs, eps
        ctx.mark_non_differentiable(*statistics)
        ctx.set_materialize_grads(False)
        return (output, *statistics)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        if gradient is None:
            return (None,) * 6
        *sources, mean, inverse = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        found: Sequence[Tensor | None]
        if torch.is_grad_enabled() or not is_eager(gradient):
            found = _gradients_by_formula(gradient, sources, wanted, ctx.runs, ctx.eps)
        else:
            input, weight, _ = sources
            found = _blocks.backward(gradient, input, weight, mean, inverse, ctx.runs, wanted_input=wanted[0])
        parts = zip(found, sources, wanted, strict=True)
        return (
            *(part.to(source.dtype) if part is not None and want else None for part, source, want in parts),
            None,
            None,
            None,
        )


def _gradients_by_formula(
    gradient: Tensor, sources: Sequence[Tensor | None], wanted: Sequence[bool], runs: Runs, eps: float
) -> list[Tensor | None]:
    """The gradients as functions that can be differentiated again, or mapped over a batch of gradients."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: the sources may depend on one another, and those paths are for the engine that called us.
        input, weight, bias = (None if source is None else source.view_as(source) for source in sources)
        output = _by_formula(input, runs, weight, bias, eps).output  # type: ignore[arg-type]
        pairs = zip((input, weight, bias), wanted, strict=True)
        sought = [alias for alias, want in pairs if want and alias is not None]
        found = iter(torch.autograd.grad(output, sought, gradient, create_graph=create_graph))
    return [next(found) if want else None for want in wanted]
