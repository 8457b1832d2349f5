"""Evaluate a network with other BatchNorm statistics than the running ones: the batch's own, or freshly gathered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup, all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from ._processes import sum_over_processes
from ._uninterrupted import uninterrupted_exit
from ._validation import checked_group, each, function, instance
from .ghost_batch_norm.layers import _GhostBatchNorm


@uninterrupted_exit
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Let every BatchNorm layer inside ``module`` normalise by its batch, and leave no trace of it.

    The networks of Keskar et al. (2017) had no running statistics: loss, accuracy and sharpness were measured like
    this. On a large-batch solution the choice moves sharpness tenfold, so say which one a number was found with; the
    batch it is evaluated in then belongs to the definition.

    Args:
        module: Any module. Its BatchNorm layers are in training mode inside the block, and ghost layers take the
            whole batch as one ghost; modes, sizes and buffers are as before after it.

    Raises:
        ValueError: If ``module`` is no module.

    Reference:
        Keskar et al. (2017), whose networks evaluate like this.

    Example:
        >>> layer = nn.BatchNorm1d(2).eval()
        >>> with batch_statistics(layer), torch.no_grad():
        ...     output = layer(5 + torch.randn(1000, 2))
        >>> abs(round(float(output.mean()), 4)), float(layer.running_mean.sum())
        (0.0, 0.0)
    """
    layers = _layers(module)
    with _same_buffers(layers), _normalising_by_batch(layers):
        yield


@uninterrupted_exit
def recomputed_statistics(
    module: nn.Module,
    run: Callable[[], object],
    *,
    layers: Iterable[nn.Module] | None = None,
    process_group: ProcessGroup | None = None,
) -> Iterator[None]:
    """Give every BatchNorm layer inside ``module`` running statistics gathered afresh, and leave no trace of it.

    Running statistics lag behind the weights, most of all after the few steps of large-batch training. Inside the
    block they are the plain mean of the statistics of the batches that ``run`` evaluates with the weights as they are
    (as torch's `update_bn` has it). A layer that ``run`` does not reach keeps its own.

    Args:
        module: Any module; ghost layers take a batch as one ghost. Buffers and modes are as before after the block.
        run: Evaluates the module on every batch, or on this process's share of them.
        layers: Those of its BatchNorm layers to gather statistics for, all by default. The others keep their mode and
            their statistics, for instance layers that are frozen in evaluation mode.
        process_group: Processes that run a share each.

    Raises:
        ValueError: If ``module`` is no module, ``run`` no function, or one of ``layers`` no BatchNorm layer.
        FailedElsewhereError: If ``run`` failed on another process.

    Example:
        >>> layer = nn.BatchNorm1d(1).eval()
        >>> with recomputed_statistics(layer, lambda: layer(torch.tensor([[4.0], [6.0]]))):
        ...     float(layer.running_mean), layer.training
        (5.0, False)
    """
    function("run", run, "no arguments")
    group = checked_group(process_group)
    chosen = _layers(module)
    if layers is not None:
        chosen = each("layers", layers, lambda name, layer: instance(name, layer, _BatchNorm, hint="a BatchNorm layer"))
    chosen = [layer for layer in chosen if layer.running_mean is not None]
    own = [[buffer.clone() for buffer in layer.buffers()] for layer in chosen]
    device = own[0][0].device if own else None  # one that the processes can exchange on
    with _same_buffers(chosen):
        with _averaging_over_batches(chosen), _normalising_by_batch(chosen):
            sum_over_processes(lambda: (run(), ([], []))[1], numbers=0, process_group=group, device=device)
        if group is not None:
            _average(chosen, group)
        for layer, buffers in zip(chosen, own, strict=True):
            if not layer.num_batches_tracked:
                _copy(buffers, layer.buffers())
        yield


def _layers(module: nn.Module) -> list[_BatchNorm]:
    instance("module", module, nn.Module)
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]


@uninterrupted_exit
def _normalising_by_batch(layers: list[_BatchNorm]) -> Iterator[None]:
    modes = [layer.training for layer in layers]
    ghosts = [(layer, layer.ghost_batch_size, layer.leftover) for layer in layers if isinstance(layer, _GhostBatchNorm)]
    try:
        for layer in layers:
            layer.train()
        for ghost, _, _ in ghosts:
            ghost.ghost_batch_size, ghost.leftover = sys.maxsize, "merge"
        yield
    finally:
        for ghost, size, leftover in ghosts:
            ghost.ghost_batch_size, ghost.leftover = size, leftover
        for layer, mode in zip(layers, modes, strict=True):
            layer.train(mode)


@uninterrupted_exit
def _averaging_over_batches(layers: list[_BatchNorm]) -> Iterator[None]:
    """Begin the running statistics anew, as the plain mean over the batches to come; only momenta are put back."""
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@uninterrupted_exit
def _same_buffers(layers: list[_BatchNorm]) -> Iterator[None]:
    buffers = [buffer for layer in layers for buffer in layer.buffers()]
    originals = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        _copy(originals, buffers)


@torch.no_grad()
def _copy(values: Iterable[Tensor], buffers: Iterable[Tensor]) -> None:
    for value, buffer in zip(values, buffers, strict=True):
        buffer.copy_(value)


@torch.no_grad()
def _average(layers: list[_BatchNorm], group: ProcessGroup) -> None:
    """Mean over the batches of all processes, which may have run different numbers of them."""
    for layer in layers:
        statistics = layer.running_mean, layer.running_var, layer.num_batches_tracked
        mean, variance, batches = cast("tuple[Tensor, Tensor, Tensor]", statistics)  # as it tracks
        for statistic in (mean, variance):
            statistic.mul_(batches)
            all_reduce(statistic, group=group)
        all_reduce(batches, group=group)
        for statistic in (mean, variance):
            statistic.div_(batches.clamp(min=1))
