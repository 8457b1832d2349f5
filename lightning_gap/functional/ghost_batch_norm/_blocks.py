"""Ghost batch norm a block of whole ghosts at a time, forward and backward, without autograd.

Each block is normalised in its slice of one output, which is its scratch as well; so nothing large is allocated but
the output and the input gradient, and on a CPU a block of several ghosts stays in the cache from its statistics to its
last pass. Passes over N values of single precision, one unit each read or write:

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
rows wherever a ghost is large, and plain reductions serve the rest. Blocks have shape (ghosts, size, C, L) or, of rows,
(ghosts, size x L, C, 1), and statistics and coefficients (ghosts, 1, C, 1) throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .runs import Runs, number_of_ghosts

_CPU_BLOCK = 2**21
"""Bytes of a block on the CPU: few enough to stay in the cache, many enough to hide the cost of a call."""

_DEVICE_BLOCK = 2**28
"""Bytes of a block elsewhere, for few launches."""

_LARGE_GHOST = 2**19
"""Bytes from which a ghost is worth a kernel call of its own."""

_LONG_PLANE = 16
"""Positions from which BatchNorm's kernels pass well over planes."""


def forward(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, runs: Runs, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, and mean, biased variance and inverse deviation of each ghost, (ghosts, 1, C, 1)."""
    x = _dense(input)
    output = torch.empty_like(x)
    scale, shift = _per_channel(weight, x, 1.0), _per_channel(bias, x, 0.0)
    mean, variance, inverse = torch.empty(
        3, number_of_ghosts(runs), 1, x.shape[1], 1, dtype=scale.dtype, device=x.device
    )
    for here, x_block, y_block in _blocks(runs, x, output):
        x_block, y = x_block.to(scale.dtype), _scratch(y_block, scale.dtype)
        _moments(x_block, mean[here], variance[here], scratch=y)
        torch.add(variance[here], eps, out=inverse[here]).rsqrt_()
        slope = inverse[here] * scale
        if _has_long_planes(x_block):
            y.mul_(slope).add_(shift)  # it holds x - mean
        else:
            _affine(x_block, slope, torch.addcmul(shift, mean[here], slope, value=-1), out=y)
        if y is not y_block:
            y_block.copy_(y)
    return output, mean, variance, inverse


def backward(
    gradient: Tensor,
    input: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    runs: Runs,
    *,
    wanted_input: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input (left empty where it is not wanted), weight and bias."""
    x = _dense(input)
    gradient = gradient.contiguous() if x.is_contiguous() else _as_rows(gradient)
    result = torch.empty_like(x)
    dy_sums, dyx_sums = torch.empty(2, *mean.shape, dtype=mean.dtype, device=x.device)
    slopes = inverse * _per_channel(weight, x, 1.0)
    for here, x_block, dy, dx_block in _blocks(runs, x, gradient, result):
        x_block, dy, dx = x_block.to(mean.dtype), dy.to(mean.dtype), _scratch(dx_block, mean.dtype)
        _sums(dy, x_block, mean[here], dy_sums[here], dyx_sums[here], scratch=dx)
        dyx_sums[here].mul_(inverse[here])
        if wanted_input:  # dx = slope (dy - sum(dy) / M - xhat sum(dy xhat) / M), as slope dy + b (x - mean) + c
            c = slopes[here] / -x_block[0, :, 0].numel()
            b = (c * dyx_sums[here]).mul_(inverse[here])
            c.mul_(dy_sums[here])
            if _has_long_planes(x_block):
                torch.sub(x_block, mean[here], out=dx).mul_(b).add_(c)
            else:
                _affine(x_block, b, c.addcmul_(mean[here], b, value=-1), out=dx)
            dx.addcmul_(dy, _spread(slopes[here], dx))
            if dx is not dx_block:
                dx_block.copy_(dx)
    return result, dyx_sums.sum((0, 1, 3)), dy_sums.sum((0, 1, 3))


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
    elif _has_large_rows(x):
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
    """Ghosts of one size, a block at a time: which they are, and views of each tensor."""
    first = tensors[0]
    planes = first.dim() > 2 and first.is_contiguous()
    item_bytes = torch.promote_types(first.dtype, torch.float32).itemsize
    block_bytes = _CPU_BLOCK if _is_on_cpu(first) else _DEVICE_BLOCK
    if first.dtype.itemsize < item_bytes:  # such a block is copied to single precision, three times
        block_bytes = min(block_bytes, first.numel() * item_bytes // 16)
    sample_bytes = first[0].numel() * item_bytes
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


def _is_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _dense(x: Tensor) -> Tensor:
    """``x`` itself where it lies as planes or rows, else a copy that does, in the memory format it came from."""
    if x.is_contiguous() or x.movedim(1, -1).is_contiguous():
        return x
    return _as_rows(x) if x.stride(1) == 1 and x.shape[1] > 1 else x.contiguous()


def _as_rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def _scratch(block: Tensor, dtype: torch.dtype) -> Tensor:
    """Where to compute the block: in place, or for half precision beside it."""
    return block if block.dtype == dtype else torch.empty_like(block, dtype=dtype)


def _has_large_rows(x: Tensor) -> bool:
    """Whether each ghost is worth a kernel call of its own; on other devices a call costs too much."""
    return _is_on_cpu(x) and x.shape[3] == 1 and x[0].numel() * x.element_size() >= _LARGE_GHOST


def _has_long_planes(x: Tensor) -> bool:
    """Whether to work along planes; other devices have a fused kernel for the moments instead."""
    return x.shape[3] >= _LONG_PLANE and _is_on_cpu(x)


def _per_channel(parameter: Tensor | None, x: Tensor, default: float) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    if parameter is None:
        return torch.full((1, 1, 1, 1), default, dtype=dtype, device=x.device)
    return parameter.to(dtype).view(1, 1, -1, 1)
