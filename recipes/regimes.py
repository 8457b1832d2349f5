"""Training regimes: short functions from a recipe's numbers to a batch size and the callbacks that go with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightning.pytorch import Callback

from lightning_gap import GhostBatchNormSwap, LearningRateScaling
from lightning_gap.recipes.catalogue import Numbers


@dataclass(frozen=True)
class Regime:
    """How to train: samples per optimizer step, and the callbacks that make it work."""

    batch_size: int
    callbacks: tuple[Callback, ...] = ()


def small(numbers: Numbers) -> Regime:
    """The small batch: the baseline of every comparison."""
    return Regime(numbers.small_batch_size)


def large(numbers: Numbers) -> Regime:
    """The large batch, nothing else changed."""
    return Regime(numbers.large_batch_size)


def linear_lr(numbers: Numbers) -> Regime:
    """Large batch, rate scaled linearly, warmup (Goyal et al. 2017)."""
    scaling = LearningRateScaling(numbers.small_batch_size, rule="linear", warmup_epochs=numbers.warmup_epochs)
    return Regime(numbers.large_batch_size, (scaling,))


def ghost(numbers: Numbers) -> Regime:
    """Large batch, BatchNorm over ghost batches (Hoffer et al. 2017)."""
    return Regime(numbers.large_batch_size, (GhostBatchNormSwap(numbers.ghost_batch_size),))


REGIMES: dict[str, Callable[[Numbers], Regime]] = {
    "small": small,
    "large": large,
    "linear-lr": linear_lr,
    "ghost": ghost,
}
