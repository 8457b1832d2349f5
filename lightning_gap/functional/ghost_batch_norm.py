"""Batch normalisation over small "ghost" slices of a large batch (Hoffer et al., 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class _GhostBatchNorm(_BatchNorm):
    """What the three ghost layers share: BatchNorm, except that training sees one ghost at a time."""

    ghost_batch_size: int

    def __init__(
        self,
        num_features: int,
        *,
        ghost_batch_size: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.ghost_batch_size = checked_ghost_batch_size(ghost_batch_size)

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        uses_batch_statistics = self.training or self.running_mean is None
        if not uses_batch_statistics or len(input) <= self.ghost_batch_size:
            return super().forward(input)  # evaluation, or a batch of one ghost: BatchNorm itself, bit for bit
        return torch.cat([self._normalise(ghost) for ghost in torch.split(input, self._ghost_sizes(input))])

    def _ghost_sizes(self, input: Tensor) -> list[int]:
        """Full ghosts and a shorter last one, which joins its neighbour where it would hold one value per channel."""
        full, leftover = divmod(len(input), self.ghost_batch_size)
        sizes = [self.ghost_batch_size] * full
        if leftover == 1 and input[0, 0].numel() == 1:
            sizes[-1] += 1
        elif leftover:
            sizes.append(leftover)
        return sizes

    def _normalise(self, ghost: Tensor) -> Tensor:
        """One ordinary BatchNorm step, running statistics included: k ghosts make k updates (the authors' code)."""
        updates = self.training and self.track_running_stats
        momentum = self.momentum
        if updates and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # cumulative average, as BatchNorm defines it
                momentum = 1.0 / float(self.num_batches_tracked)
        return F.batch_norm(
            ghost,
            self.running_mean if updates else None,
            self.running_var if updates else None,
            self.weight,
            self.bias,
            training=True,
            momentum=0.0 if momentum is None else momentum,
            eps=self.eps,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_batch_size={self.ghost_batch_size}"  # type: ignore[no-untyped-call]


class GhostBatchNorm1d(_GhostBatchNorm, nn.BatchNorm1d):
    """BatchNorm1d over ghosts of ``ghost_batch_size`` samples; input (N, C) or (N, C, L). See `GhostBatchNorm2d`."""


class GhostBatchNorm2d(_GhostBatchNorm, nn.BatchNorm2d):
    """BatchNorm2d that normalises each slice of ``ghost_batch_size`` samples with its own statistics.

    In training a batch of N samples is cut into consecutive ghosts; weight and bias are shared. A leftover makes a
    shorter last ghost; where that would hold a single value per channel, it joins the ghost before it. A batch of
    at most one ghost is plain BatchNorm. The running statistics take one ordinary update per ghost, first ghost
    first, with the unchanged momentum. In evaluation the layer *is* BatchNorm, at any batch size.

    Args:
        num_features: Channels C of an input of shape (N, C, H, W).
        ghost_batch_size: Samples per ghost. Hoffer et al. use 128.
        eps: Added to the variance.
        momentum: Weight of the new value in the running statistics; ``None`` is their cumulative mean.
        affine: Whether to learn weight and bias, both of shape (C,).
        track_running_stats: Without running statistics evaluation uses batch statistics too, ghost by ghost.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        TypeError: If ``ghost_batch_size`` is not an integer.
        ValueError: If ``ghost_batch_size`` is below 1, or a ghost holds a single value per channel.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 4 and Algorithm 1. Its printed running-statistics line does not
        sum to one; this is the update of the authors' code.

    Example:
        >>> layer = GhostBatchNorm2d(3, ghost_batch_size=4)
        >>> output = layer(torch.randn(8, 3, 5, 5)).detach()
        >>> abs(round(float(output[:4].mean()), 4))
        0.0
    """


class GhostBatchNorm3d(_GhostBatchNorm, nn.BatchNorm3d):
    """BatchNorm3d over ghosts of ``ghost_batch_size`` samples; input (N, C, D, H, W). See `GhostBatchNorm2d`."""


_GHOST_OF: dict[type[nn.Module], type[_GhostBatchNorm]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
}
_PLAIN_OF = {ghost: plain for plain, ghost in _GHOST_OF.items()}


@dataclass(frozen=True)
class SwapReport:
    """What `swap_batch_norm` did.

    Attributes:
        converted: Names of the layers that were BatchNorm and are ghost layers now.
        resized: Name and former size of the layers that were ghost layers before and took the new size.
        skipped: Name and reason of each batch-norm layer that was left alone.
    """

    converted: tuple[str, ...]
    resized: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


def swap_batch_norm(module: nn.Module, ghost_batch_size: int) -> SwapReport:
    """Turn every BatchNorm layer inside ``module`` into its ghost twin, in place.

    A layer changes its class and gains one attribute. Parameters, buffers, hooks and `state_dict` keys stay the very
    same objects, so optimizers and checkpoints need not know. Swapping again changes the ghost size.

    Args:
        module: Any module; may itself be a BatchNorm layer.
        ghost_batch_size: Samples per ghost.

    Returns:
        The names of the converted and resized layers, and the layers left alone with the reason: `SyncBatchNorm`,
        lazy layers, and subclasses, whose own behaviour a swap could lose.

    Raises:
        TypeError: If ``ghost_batch_size`` is not an integer.
        ValueError: If ``ghost_batch_size`` is below 1.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        >>> swap_batch_norm(model, 32).converted
        ('1',)
    """
    checked_ghost_batch_size(ghost_batch_size)
    converted: list[str] = []
    resized: dict[str, int] = {}
    skipped: dict[str, str] = {}
    for name, layer in module.named_modules():
        if type(layer) in _GHOST_OF:
            layer.__class__ = _GHOST_OF[type(layer)]
            converted.append(name)
        elif isinstance(layer, _GhostBatchNorm):
            resized[name] = layer.ghost_batch_size
        elif isinstance(layer, _BatchNorm):
            skipped[name] = _why_skipped(layer)
            continue
        if isinstance(layer, _GhostBatchNorm):
            layer.ghost_batch_size = ghost_batch_size
    return SwapReport(tuple(converted), resized, skipped)


def restore_batch_norm(module: nn.Module) -> tuple[str, ...]:
    """Turn every ghost layer inside ``module`` back into the BatchNorm it was, in place; the exact reverse of a swap.

    Args:
        module: Any module; may itself be a ghost layer.

    Returns:
        The names of the restored layers.
    """
    restored: list[str] = []
    for name, layer in module.named_modules():
        if type(layer) in _PLAIN_OF:
            layer.__class__ = _PLAIN_OF[cast(type[_GhostBatchNorm], type(layer))]
            del layer.ghost_batch_size
            restored.append(name)
    return tuple(restored)


def checked_ghost_batch_size(ghost_batch_size: int) -> int:
    """Give ``ghost_batch_size`` back, or raise the one error that names it."""
    if isinstance(ghost_batch_size, bool) or not isinstance(ghost_batch_size, int):
        raise TypeError(f"ghost_batch_size must be an integer number of samples, got {ghost_batch_size!r}; try 128")
    if ghost_batch_size < 1:
        raise ValueError(f"ghost_batch_size must be at least 1 sample, got {ghost_batch_size}; try 128")
    return ghost_batch_size


def _why_skipped(layer: _BatchNorm) -> str:
    if isinstance(layer, nn.SyncBatchNorm):
        return "SyncBatchNorm shares statistics across processes, the opposite of ghost batches"
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return "lazy layer without a size yet; run one batch through the model first"
    return f"{type(layer).__name__} is a subclass, whose own behaviour a swap could lose"
