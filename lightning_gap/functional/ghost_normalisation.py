"""Normalise each ghost of a batch with its own mean and variance.

One function, three ways to compute it. The eager one works in blocks of whole ghosts, writes each into its slice of
one output, and uses that slice as its scratch; so nothing is allocated but the output and the input gradient, and on a
CPU a block stays in the cache from its statistics to its last pass. Passes over N values, one unit each read or write:

====================  =========================================  ==========================================
what                  forward                                    backward
====================  =========================================  ==========================================
BatchNorm             2 reads, 1 write                           4 reads, 1 write
chunk loop and `cat`  3 reads, 2 writes                          5 reads, 2 writes, as autograd cats back
here, CPU             1 read, 1 write of memory, rest in cache   2 reads, 1 write of memory, rest in cache
here, other devices   2 reads, 1 write                           planes 5 reads, 2 writes; rows 8 and 4
====================  =========================================  ==========================================

A tensor lies in memory as *planes* (N, C, L) or as *rows* (N x L, C), which is how (N, C) and channels_last inputs
lie. BatchNorm's own kernels pass over rows fast but over planes slowly, and cost some microseconds a call: they serve
rows wherever a ghost is large, and plain reductions serve the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .ghosts import Runs

_CPU_BLOCK = 2**21
"""Bytes of a block on the CPU: few enough to stay in the cache, many enough to hide the cost of a call."""

_DEVICE_BLOCK = 2**28
"""Bytes of a block elsewhere: few launches, and bounded scratch for half precision."""

_LARGE_GHOST = 2**19
"""Bytes from which a ghost is worth a kernel call of its own."""

_FEW_GHOSTS, _SMALL_BATCH = 16, 2**22
"""Ghosts and bytes of a batch up to which a call for each ghost is fastest for (N, C)."""

_LONG_PLANE = 16
"""Positions from which BatchNorm's kernels pass well over planes."""


class Normalised(NamedTuple):
    """A normalised batch, and the mean and biased variance of each of its k ghosts, both of shape (k, C)."""

    output: Tensor
    mean: Tensor
    variance: Tensor


def ghost_batch_norm(
    input: Tensor, runs: Runs, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5
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

    Returns:
        The output in the input's shape, type and memory format, and the statistics, which carry no gradient.

    Reference:
        Hoffer, Hubara and Soudry (2017), Algorithm 1.

    Example:
        >>> output, mean, variance = ghost_batch_norm(torch.tensor([[1.0], [3.0], [10.0], [30.0]]), ((2, 2),))
        >>> mean.flatten().tolist(), variance.flatten().tolist()
        ([2.0, 20.0], [1.0, 100.0])
    """
    if not is_eager(input, weight, bias):
        return _by_formula(input, runs, weight, bias, eps)
    if _is_small(input, runs):
        return _by_slices(input, runs, weight, bias, eps)
    return Normalised(*_InBlocks.apply(input, weight, bias, runs, eps))


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
        squares = (ghosts - mean).square().mean(over, keepdim=True)
        output = (ghosts - mean) * torch.rsqrt(squares + eps)
        if weight is not None:
            output = output * weight.view(per_channel)
        if bias is not None:
            output = output + bias.view(per_channel)
        outputs.append(output.flatten(0, 1).to(input.dtype))
        means.append(mean.flatten(1).detach())
        variances.append(squares.flatten(1).detach())
        start += count * size
    return Normalised(torch.cat(outputs), torch.cat(means), torch.cat(variances))


def _by_slices(input: Tensor, runs: Runs, weight: Tensor | None, bias: Tensor | None, eps: float) -> Normalised:
    """BatchNorm's own kernel on each ghost: for few small ghosts, and for gradients of gradients on the CPU."""
    sizes = [size for count, size in runs for _ in range(count)]
    found = [
        torch.native_batch_norm(ghost, weight, bias, None, None, True, 0.0, eps) for ghost in torch.split(input, sizes)
    ]
    outputs, means, inverses = zip(*found, strict=True)
    variance = torch.stack(inverses).detach().pow_(-2).sub_(eps).clamp_min_(0)
    return Normalised(torch.cat(outputs), torch.stack(means).detach(), variance)


def is_eager(*tensors: Tensor | None) -> bool:
    """Whether these are ordinary tensors in ordinary execution.

    Not so for the compiler, `torch.func`, forward-mode differentiation and tensor subclasses, such as fake or
    distributed ones: they must see every operation, and nothing that they touch may be kept.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    present = [tensor for tensor in tensors if tensor is not None]
    return all(
        type(tensor) in (Tensor, nn.Parameter) and forward_ad.unpack_dual(tensor).tangent is None  # type: ignore[no-untyped-call]
        for tensor in present
    )


class _InBlocks(torch.autograd.Function):
    """The eager way. Statistics and coefficients have shape (ghosts, 1, C, 1) throughout."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, runs: Runs, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = _dense(input)
        output = torch.empty_like(x)
        scale, shift = _per_channel(weight, x, 1.0), _per_channel(bias, x, 0.0)
        ghosts = sum(count for count, _ in runs)
        mean, variance, inverse = torch.empty(3, ghosts, 1, x.shape[1], 1, dtype=scale.dtype, device=x.device)
        for here, x_block, y_block in _blocks(runs, x, output):
            x_block, y = _as_statistics(x_block), _scratch(y_block)
            _moments(x_block, mean[here], variance[here], scratch=y)
            torch.add(variance[here], eps, out=inverse[here]).rsqrt_()
            slope = inverse[here] * scale
            if _has_long_planes(x_block):
                y.mul_(slope).add_(shift)  # it holds x - mean
            else:
                _affine(x_block, slope, torch.addcmul(shift, mean[here], slope, value=-1), out=y)
            if y is not y_block:
                y_block.copy_(y)
        ctx.save_for_backward(input, weight, bias, mean, inverse)
        ctx.runs, ctx.eps = runs, eps
        statistics = mean[:, 0, :, 0], variance[:, 0, :, 0]
        ctx.mark_non_differentiable(*statistics)
        ctx.set_materialize_grads(False)
        return (output, *statistics)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        input, weight, bias, means, inverses = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if gradient is None:
            return (None,) * 5
        if torch.is_grad_enabled():  # the backward pass is to be differentiated again
            again = _by_slices if _is_on_cpu(input) else _by_formula
            output = again(input, ctx.runs, weight, bias, ctx.eps).output
            sources = [source for source, want in zip((input, weight, bias), wanted, strict=True) if want]
            found = iter(torch.autograd.grad(output, sources, gradient, create_graph=True))
            return (*(next(found) if want else None for want in wanted), None, None)

        x = _dense(input)
        gradient = _laid_out_like(x, gradient)
        scale = _per_channel(weight, x, 1.0)
        result = torch.empty_like(x)
        dy_sums, dyx_sums = torch.empty(2, *means.shape, dtype=means.dtype, device=x.device)
        for here, x_block, dy, dx_block in _blocks(ctx.runs, x, gradient, result):
            x_block, dy, dx = _as_statistics(x_block), _as_statistics(dy), _scratch(dx_block)
            mean, inverse = means[here], inverses[here]
            dy_sum, dyx_sum = dy_sums[here], dyx_sums[here]
            _sums(dy, x_block, mean, dy_sum, dyx_sum, scratch=dx)
            dyx_sum.mul_(inverse)
            if wanted[0]:  # dx = slope (dy - sum(dy) / M - xhat sum(dy xhat) / M), as slope dy + b (x - mean) + c
                slope = inverse * scale
                c = slope / -x_block[0, :, 0].numel()
                b = (c * dyx_sum).mul_(inverse)
                c.mul_(dy_sum)
                if _has_long_planes(x_block):
                    torch.sub(x_block, mean, out=dx).mul_(b).add_(c)
                else:
                    _affine(x_block, b, c.addcmul_(mean, b, value=-1), out=dx)
                dx.addcmul_(dy, _spread(slope, dx))
                if dx is not dx_block:
                    dx_block.copy_(dx)
        return (
            result if wanted[0] else None,
            dyx_sums.sum((0, 1, 3)).to(weight.dtype) if wanted[1] else None,
            dy_sums.sum((0, 1, 3)).to(bias.dtype) if wanted[2] else None,
            None,
            None,
        )


def _moments(x: Tensor, mean: Tensor, variance: Tensor, scratch: Tensor) -> None:
    """Write mean and biased variance of each ghost; the variance from squared deviations, for large means.

    Where planes are long the deviations are left in ``scratch``.
    """
    if not _is_on_cpu(x):
        for statistic, value in zip(
            (variance, mean), torch.var_mean(x, (1, 3), correction=0, keepdim=True), strict=True
        ):
            statistic.copy_(value)
    elif _has_large_rows(x):  # var_mean is ten times slower here than BatchNorm's own kernel
        for rows, *found in zip(x[..., 0], mean[:, 0, :, 0], variance[:, 0, :, 0], strict=True):
            for statistic, value in zip(found, torch.batch_norm_update_stats(rows, None, None, 0.0), strict=True):
                statistic.copy_(value)
    elif _has_long_planes(x):
        torch.mean(x.mean(3, keepdim=True), 1, keepdim=True, out=mean)
        lengths = torch.linalg.vector_norm(torch.sub(x, mean, out=scratch), dim=3, keepdim=True)
        torch.mean(lengths.square_().div_(x.shape[3]), 1, keepdim=True, out=variance)
    else:
        torch.mean(x.mean(1, keepdim=True), 3, keepdim=True, out=mean)
        squares = torch.sub(x, _spread(mean, x), out=scratch).square_()
        torch.mean(squares.mean(1, keepdim=True), 3, keepdim=True, out=variance)


def _sums(dy: Tensor, x: Tensor, mean: Tensor, dy_sum: Tensor, dyx_sum: Tensor, scratch: Tensor) -> None:
    """Write the sums of dy and of dy (x - mean) over each ghost."""
    count, size, channels, positions = x.shape
    if positions >= _LONG_PLANE:
        planes = mean.expand(count, size, channels, 1).flatten()
        parts = _sums_per_channel(dy.reshape(1, -1, positions), x.reshape(1, -1, positions), planes)
        for total, part in zip((dy_sum, dyx_sum), parts, strict=True):
            torch.sum(part.view(count, size, channels, 1), 1, keepdim=True, out=total)
    elif _is_on_cpu(x) and _has_large_rows(x):
        by_ghost = (dy[..., 0], x[..., 0], *(t[:, 0, :, 0] for t in (mean, dy_sum, dyx_sum)))
        for *ghost, by_dy, by_dyx in zip(*by_ghost, strict=True):
            for total, part in zip((by_dy, by_dyx), _sums_per_channel(*ghost), strict=True):
                total.copy_(part)
    else:
        products = torch.sub(x, _spread(mean, x), out=scratch).mul_(dy)
        for total, part in zip((dy_sum, dyx_sum), (dy, products), strict=True):
            torch.sum(part.sum(1, keepdim=True), 3, keepdim=True, out=total)


def _sums_per_channel(dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of dy and of dy (x - mean) over all but the channels, in one pass of BatchNorm's kernel.

    They are its gradients for bias and weight in evaluation, with variance 1 and no eps.
    """
    one = torch.ones_like(mean)
    _, dyx_sum, dy_sum = torch.ops.aten.native_batch_norm_backward(
        dy, x, None, mean, one, None, None, False, 0.0, [False, True, True]
    )
    return dy_sum, dyx_sum


def _affine(x: Tensor, slope: Tensor, shift: Tensor, out: Tensor) -> None:
    """Write ``slope x + shift`` in one pass."""
    torch.addcmul(_spread(shift, x), x, _spread(slope, x), out=out)


def _spread(statistic: Tensor, x: Tensor) -> Tensor:
    """A statistic (ghosts, 1, C, 1) for use with ``x``: along short planes a full row, which the CPU can vectorise."""
    if x.shape[3] == 1 or x.shape[3] >= _LONG_PLANE or not _is_on_cpu(x) or statistic.numel() == 1:
        return statistic
    return statistic.expand(-1, -1, -1, x.shape[3]).contiguous()


def _blocks(runs: Runs, *tensors: Tensor) -> Iterator[tuple[Any, ...]]:
    """Ghosts of one size, a block at a time: which they are, and views of each tensor.

    Views have shape (ghosts, size, C, L) or, of rows, (ghosts, size x L, C, 1): the sums run over axes 1 and 3.
    """
    first = tensors[0]
    planes = first.dim() > 2 and first.is_contiguous()
    sample_bytes = first[0].numel() * first.element_size()
    block_bytes = _CPU_BLOCK if _is_on_cpu(first) else _DEVICE_BLOCK
    ghost, sample = 0, 0
    for count, size in runs:
        most = max(1, block_bytes // (size * sample_bytes))
        for done in range(0, count, most):
            ghosts = min(most, count - done)
            parts = (tensor[sample : sample + ghosts * size] for tensor in tensors)
            if planes:
                views = (part.view(ghosts, size, first.shape[1], -1) for part in parts)
            else:
                views = (part.movedim(1, -1).view(ghosts, -1, first.shape[1], 1) for part in parts)
            yield slice(ghost, ghost + ghosts), *views
            ghost, sample = ghost + ghosts, sample + ghosts * size


def _is_small(input: Tensor, runs: Runs) -> bool:
    """Whether a few BatchNorm calls take less time than the Python around blocks: fully connected layers mostly."""
    ghosts = sum(count for count, _ in runs)
    size = input.numel() * input.element_size()
    return _is_on_cpu(input) and input.dim() == 2 and ghosts <= _FEW_GHOSTS and size <= _SMALL_BATCH


def _is_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _dense(x: Tensor) -> Tensor:
    """``x`` itself where it lies as planes or rows, else a copy that does."""
    return x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()


def _laid_out_like(x: Tensor, gradient: Tensor) -> Tensor:
    if x.is_contiguous():
        return gradient.contiguous()
    return gradient.movedim(1, -1).contiguous().movedim(-1, 1)


def _as_statistics(block: Tensor) -> Tensor:
    """The block in the type of the statistics: float32 for half precision, else its own."""
    return block.to(torch.promote_types(block.dtype, torch.float32))


def _scratch(block: Tensor) -> Tensor:
    """Where to compute the block: in place, or for half precision beside it."""
    dtype = torch.promote_types(block.dtype, torch.float32)
    return block if block.dtype == dtype else torch.empty_like(block, dtype=dtype)


def _has_large_rows(x: Tensor) -> bool:
    return x.shape[3] == 1 and x[0].numel() * x.element_size() >= _LARGE_GHOST


def _has_long_planes(x: Tensor) -> bool:
    """Whether to work along planes; other devices have a fused kernel for the moments instead."""
    return x.shape[3] >= _LONG_PLANE and _is_on_cpu(x)


def _per_channel(parameter: Tensor | None, x: Tensor, default: float) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    if parameter is None:
        return torch.full((1, 1, 1, 1), default, dtype=dtype, device=x.device)
    return parameter.to(dtype).view(1, 1, -1, 1)
