"""Evaluate a network with the statistics of the batch at hand instead of the running ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .ghost_batch_norm import _GhostBatchNorm


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Let every BatchNorm layer inside ``module`` normalise by its batch, and leave no trace of it.

    The networks of Keskar et al. (2017) had no running statistics: loss, accuracy and sharpness were measured like
    this. On a large-batch solution the choice moves sharpness tenfold, so say which one a number was found with; the
    batch it is evaluated in then belongs to the definition.

    Args:
        module: Any module. Its BatchNorm layers are in training mode inside the block, and ghost layers take the
            whole batch as one ghost; modes, sizes and buffers are as before after it.

    Example:
        >>> layer = nn.BatchNorm1d(2).eval()
        >>> with batch_statistics(layer), torch.no_grad():
        ...     output = layer(5 + torch.randn(1000, 2))
        >>> abs(round(float(output.mean()), 4)), float(layer.running_mean.sum())
        (0.0, 0.0)
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    modes = [layer.training for layer in layers]
    buffers = [buffer for layer in layers for buffer in layer.buffers()]
    originals = [buffer.clone() for buffer in buffers]
    ghosts = [(layer, layer.ghost_batch_size, layer.leftover) for layer in layers if isinstance(layer, _GhostBatchNorm)]
    for layer in layers:
        layer.train()
    for ghost, _, _ in ghosts:
        ghost.ghost_batch_size, ghost.leftover = sys.maxsize, "merge"
    try:
        yield
    finally:
        for ghost, size, leftover in ghosts:
            ghost.ghost_batch_size, ghost.leftover = size, leftover
        for layer, mode in zip(layers, modes, strict=True):
            layer.train(mode)
        with torch.no_grad():
            for buffer, original in zip(buffers, originals, strict=True):
                buffer.copy_(original)
