"""Batch normalisation over small "ghost" slices of a large batch (Hoffer et al., 2017): the layers."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from .._validation import flag, one_of, real_number, whole_number
from .normalisation import ghost_batch_norm, is_eager
from .runs import Leftover, Runs, checked_ghost_batch_size, checked_leftover, cut, number_of_ghosts

RunningStats = Literal["sequential", "mean"]

MARK = "_ghost_swap_mark"
"""Attribute in which `_copies` notes on a layer what it was, so that its copies know, too."""


class _GhostBatchNorm(_BatchNorm):
    """What every ghost layer has: its settings, and the ghosts of a batch; how to normalise them is up to each."""

    ghost_batch_size: int
    leftover: Leftover
    running_stats: RunningStats

    # What torch.jit cannot read.
    __jit_ignored_attributes__: ClassVar = ["ghost_batch_size", "leftover", "running_stats", MARK]

    def _ghosts_of(self, input: Tensor) -> Runs | None:
        """The ghosts of a batch, or ``None`` where the layer is BatchNorm: in evaluation, and for one ghost."""
        uses_batch_statistics = self.training or self.running_mean is None
        if not uses_batch_statistics or self._is_for_batch_norm(input):
            return None
        leftover = self.leftover if self.training or self.leftover != "error" else "merge"
        positions = math.prod(input.shape[2:])
        runs = cut(input.shape[0], self.ghost_batch_size, leftover, positions)
        return None if number_of_ghosts(runs) == 1 else runs

    def _is_for_batch_norm(self, input: Tensor) -> bool:
        """Whether BatchNorm is to say what it says: to an empty batch, and in its errors."""
        return input.dim() < 2 or input.numel() == 0 or not input.is_floating_point()

    def _as_node(self, *inputs: Any, **named: Any) -> Any:
        """For `torch.fx`: this layer as one node of the graph, as BatchNorm is; ``None`` for anything but proxies."""
        for value in (*inputs, *named.values()):  # no generator: torch 2.8 cannot compile one here
            if isinstance(value, fx.Proxy):
                tracer = cast("fx.Tracer", value.tracer)
                return tracer.create_proxy("call_module", tracer.path_of_module(self), inputs, named)
        return None

    def __prepare_scriptable__(self) -> nn.Module:
        """Asked for by `torch.jit.script`, which could not script how a ghost layer trains."""
        if self.training:
            raise RuntimeError(
                f"{type(self).__name__} cannot be scripted in training mode: call restore_batch_norm(model) first for "
                "the BatchNorm that it was, which GhostBatchNormSwap has done when fit ends, or model.eval() for a "
                "script that evaluates"
            )
        return self

    def extra_repr(self) -> str:
        plain = super().extra_repr()  # type: ignore[no-untyped-call]
        return (
            f"{plain}, ghost_batch_size={self.ghost_batch_size}, "
            f"leftover={self.leftover!r}, running_stats={self.running_stats!r}"
        )


class _BlockwiseGhosts(_GhostBatchNorm):
    """What the three public layers share: BatchNorm's arithmetic, one ghost at a time."""

    def __init__(
        self,
        num_features: int,
        *,
        ghost_batch_size: int,
        leftover: Leftover = "merge",
        running_stats: RunningStats = "sequential",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        num_features = whole_number("num_features", num_features)
        eps = real_number("eps", eps, at_least=0)
        momentum = None if momentum is None else real_number("momentum", momentum, at_least=0, at_most=1)
        affine, track_running_stats = flag("affine", affine), flag("track_running_stats", track_running_stats)
        without_bias = {} if flag("bias", bias) else {"bias": False}  # a keyword of recent torch only
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **without_bias)
        self.ghost_batch_size = checked_ghost_batch_size(ghost_batch_size)
        self.leftover = checked_leftover(leftover)
        self.running_stats = checked_running_stats(running_stats)

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._evaluate(input)
        else:  # noqa: RET505 - torch.jit compiles whatever is in neither branch
            return self._normalise(input)

    def _evaluate(self, input: Tensor) -> Tensor:
        """BatchNorm's evaluation, in what torch.jit can compile."""
        if self.training or self.running_mean is None:
            raise RuntimeError("a scripted ghost layer only evaluates; script after restore_batch_norm(model) to train")
        return batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def _normalise(self, input: Tensor) -> Tensor:
        if type(self).forward is _BlockwiseGhosts.forward and (node := self._as_node(input)) is not None:
            return cast("Tensor", node)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        runs = self._ghosts_of(input)
        if runs is None:
            return super().forward(input)  # bit for bit
        positions = math.prod(input.shape[2:])
        tracks = self.training and self.track_running_stats and self.running_mean is not None

        def observe(mean: Tensor, variance: Tensor) -> None:
            self._update_running_stats(mean, variance, runs, positions)

        observed = observe if tracks else None
        return ghost_batch_norm(input, runs, self.weight, self.bias, eps=self.eps, observe=observed).output

    def _is_for_batch_norm(self, input: Tensor) -> bool:
        expected = self.weight if self.weight is not None else self.running_mean
        wrong_channels = expected is not None and expected.shape[0] != input.shape[1]
        return wrong_channels or super()._is_for_batch_norm(input)

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, variance: Tensor, runs: Runs, positions: int) -> None:
        eager = is_eager(mean, self.weight, self.bias)
        weights_of = _update_weights if eager else _update_weights.__wrapped__
        old, *new = weights_of(runs, positions, self.running_stats, self.momentum, mean.dtype, mean.device)
        if self.num_batches_tracked is not None:
            if self.momentum is None:  # cumulative mean: counted on the device, where plain BatchNorm waits for it
                total = (self.num_batches_tracked + old).to(mean.dtype)
                old, new = self.num_batches_tracked / total, [weight / total for weight in new]
            self.num_batches_tracked.add_(mean.shape[0] if self.running_stats == "sequential" else 1)
        elif self.momentum is None:
            return  # nothing counts, so nothing changes, as in BatchNorm
        for running, value, weight in zip((self.running_mean, self.running_var), (mean, variance), new, strict=True):
            if running is None:
                continue
            target = uncounted(running) if eager else running
            target.mul_(old).add_((value * weight).sum(0))


class GhostBatchNorm1d(_BlockwiseGhosts, nn.BatchNorm1d):
    """BatchNorm1d over ghosts of ``ghost_batch_size`` samples; input (N, C) or (N, C, L). See `GhostBatchNorm2d`.

    Example:
        >>> layer = GhostBatchNorm1d(1, ghost_batch_size=2)
        >>> layer(torch.tensor([[1.0], [3.0], [10.0], [30.0]])).detach().flatten().round(decimals=3).tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """


class GhostBatchNorm2d(_BlockwiseGhosts, nn.BatchNorm2d):
    """BatchNorm2d that normalises each slice of ``ghost_batch_size`` samples with its own statistics.

    In training a batch of N samples is cut into consecutive ghosts; weight and bias are shared. A batch of at most
    one ghost is plain BatchNorm, bit for bit. In evaluation the layer *is* BatchNorm, at any batch size. Parameters,
    buffers and `state_dict` keys are those of BatchNorm; a plain checkpoint loads, whatever the ghost size.

    Args:
        num_features: Channels C of an input of shape (N, C, H, W).
        ghost_batch_size: Samples per ghost. Hoffer et al. use 128. May be changed at any time.
        leftover: How to handle the remainder, the last N mod ghost_batch_size samples: ``"merge"`` makes them a shorter
            ghost, which joins the one before where it would hold a single value per channel; ``"balance"`` makes
            N / ghost_batch_size ghosts, rounded half up, whose sizes differ by at most one; ``"error"`` refuses them in
            training.
        running_stats: How k ghosts enter the running statistics. ``"sequential"``: k ordinary updates, first ghost
            first, with the unchanged momentum, as in the authors' code. ``"mean"``: one update with the mean over
            the samples' ghosts, quieter by about sqrt(k) where k is large.
        eps: Added to the variance.
        momentum: Weight of the new value in the running statistics; ``None`` is their cumulative mean.
        affine: Whether to learn weight and bias, both of shape (C,).
        track_running_stats: Without running statistics evaluation uses batch statistics too, ghost by ghost.
        bias: Whether to learn a bias where ``affine``; ``False`` needs a torch whose BatchNorm knows it.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        ValueError: If a number is out of range, ``leftover`` or ``running_stats`` is unknown, a ghost would
            hold a single value per channel, or ``leftover="error"`` meets a remainder.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 4 and Algorithm 1. Its printed running-statistics line does not
        sum to one; ``"sequential"`` is the update of the authors' code.

    Example:
        >>> layer = GhostBatchNorm2d(3, ghost_batch_size=4)
        >>> output = layer(torch.randn(8, 3, 5, 5)).detach()
        >>> abs(round(float(output[:4].mean()), 4))
        0.0
    """


class GhostBatchNorm3d(_BlockwiseGhosts, nn.BatchNorm3d):
    """BatchNorm3d over ghosts of ``ghost_batch_size`` samples; input (N, C, D, H, W). See `GhostBatchNorm2d`.

    Example:
        >>> layer = GhostBatchNorm3d(2, ghost_batch_size=4)
        >>> layer(torch.rand(8, 2, 3, 3, 3)).numel()
        432
    """


def checked_running_stats(running_stats: RunningStats) -> RunningStats:
    """Give ``running_stats`` back, or raise the one error that names it."""
    return one_of("running_stats", running_stats, get_args(RunningStats))


def uncounted(buffer: Tensor) -> Tensor:
    """The same memory, to be written as BatchNorm's own kernels write running statistics: without a new version.

    A pass of plain BatchNorm earlier in the step, in evaluation or of one ghost, has saved the buffer for its backward
    pass, which autograd would refuse after a counted write.
    """
    return buffer if buffer.is_inference() else buffer.data


@lru_cache(maxsize=256)
def _update_weights(
    runs: Runs,
    positions: int,
    running_stats: RunningStats,
    momentum: float | None,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor | float, Tensor, Tensor]:
    """Weight of the old running value, of each ghost's mean, (k, 1), and of each ghost's biased variance, (k, 1).

    Old and mean weights sum to one; those of the variance hold the factor M / (M - 1) of a ghost of M values. For the
    cumulative mean (``momentum=None``) the first is the number of updates, by which the caller divides.
    """
    exact = torch.float32 if device.type == "mps" else torch.float64
    ghosts = number_of_ghosts(runs)
    sizes = [torch.full((count, 1), size, dtype=exact, device=device) for count, size in runs]
    values = torch.cat(sizes) * positions
    shares = values / values.sum()
    if momentum is None:
        old: Tensor | float = ghosts if running_stats == "sequential" else 1
        new = torch.ones_like(shares) if running_stats == "sequential" else shares
    elif running_stats == "mean":
        old, new = 1 - momentum, momentum * shares
    else:  # k updates r <- (1 - m) r + m s: powers k, ..., 1, 0 of (1 - m)
        powers = (1 - momentum) ** torch.arange(ghosts, -1, -1, dtype=exact, device=device)[:, None]
        old, new = powers[0].to(dtype), momentum * powers[1:]
    return old, new.to(dtype), (new * values / (values - 1)).to(dtype)
