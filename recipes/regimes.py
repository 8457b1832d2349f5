"""Training regimes: short functions from a recipe's numbers to batch sizes, callbacks and settings of the Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lightning.pytorch import Callback

from lightning_gap import BatchSizeScheduler, GhostBatchNormSwap, LearningRateScaling, PiggybackWarmStart
from lightning_gap.functional import Stage, train_longer
from lightning_gap.recipes.recipe import Numbers


@dataclass(frozen=True)
class Regime:
    """How to train: with which numbers, in which batches, and with the callbacks that make it work.

    Attributes:
        numbers: The recipe's numbers, those replaced that the regime changes.
        batch_sizes: Samples per optimizer step by the epoch, from 0, in which they begin. The first is the loader's
            own, the others are set by a callback.
        callbacks: Callbacks that no other run has used.
        trainer: Arguments of the Trainer.
    """

    numbers: Numbers
    batch_sizes: dict[int, int]
    callbacks: tuple[Callback, ...] = ()
    trainer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Epochs of the run."""
        return int(self.numbers.epochs)

    @property
    def batch_size(self) -> int:
        """Samples per optimizer step in the first epoch."""
        return self.batch_sizes[0]

    @property
    def last_batch_size(self) -> int:
        """The same in the last epoch."""
        return self.batch_sizes[max(self.batch_sizes)]


def small(numbers: Numbers) -> Regime:
    """The small batch: the baseline of every comparison."""
    return Regime(numbers, {0: numbers.small_batch_size})


def large(numbers: Numbers) -> Regime:
    """The large batch, nothing else changed."""
    return Regime(numbers, {0: numbers.large_batch_size})


def linear_lr(numbers: Numbers) -> Regime:
    """Large batch, rate scaled linearly, warmup (Goyal et al. 2017)."""
    return Regime(numbers, {0: numbers.large_batch_size}, (_linear_scaling(numbers),))


def sqrt_lr(numbers: Numbers) -> Regime:
    """Large batch, root-scaled rate, clipping (Hoffer et al. 2017)."""
    return Regime(numbers, {0: numbers.large_batch_size}, (_root_scaling(numbers),), _clipping(numbers))


def ghost(numbers: Numbers) -> Regime:
    """Large batch, BatchNorm over ghost batches (Hoffer et al. 2017)."""
    return Regime(numbers, {0: numbers.large_batch_size}, (_ghosts(numbers),))


def ghost_lr(numbers: Numbers) -> Regime:
    """Large batch, ghosts, root-scaled rate, clipping (Hoffer et al. 2017)."""
    callbacks = (_ghosts(numbers), _root_scaling(numbers))
    return Regime(numbers, {0: numbers.large_batch_size}, callbacks, _clipping(numbers))


def growing(numbers: Numbers) -> Regime:
    """Batch grown up to the large, in place of decay (Smith et al. 2018).

    Where the recipe would multiply its rate by a factor below 1, the batch is divided by it; past the large batch the
    rate takes over what the batch cannot. A recipe whose rate stays has its batch doubled instead, every size with its
    share of the epochs, to a whole epoch, and the last doubling goes no further than the large batch.
    """
    _refuse_no_growth("growing", numbers)
    return _growing_at_steps(numbers) if numbers.learning_rate_steps else _doubling(numbers)


def piggyback(numbers: Numbers) -> Regime:
    """A fifth with the small batch, then large (Keskar et al. 2017).

    A fifth of the epochs, rounded up, in a run as long as the others; the optimizer's state is kept at the switch. In
    the paper's figure 5 the small batch trains for each number of epochs from 1 to 100 and the large one for 100 more,
    and what becomes of ADAM's state is not said.
    """
    _refuse_no_growth("piggyback", numbers)
    switch = math.ceil(numbers.epochs / 5)
    if switch == numbers.epochs:
        raise ValueError(
            f"piggyback needs an epoch for each of its batches, got epochs={numbers.epochs}; use at least 2"
        )
    warm_start = PiggybackWarmStart(switch, numbers.large_batch_size, optimizer_state="keep")
    return Regime(numbers, {0: numbers.small_batch_size, switch: numbers.large_batch_size}, (warm_start,))


def longer(numbers: Numbers) -> Regime:
    """Large batch, as many updates as small (Hoffer et al. 2017).

    Regime adaptation: epochs, and those at which the rate changes, times the ratio of the batches, rounded up. The
    updates are equally many where both batches divide the training samples; a smaller last batch is an update too.
    """
    _refuse_no_growth("longer", numbers)
    stretched = train_longer(
        numbers.epochs,
        tuple(numbers.learning_rate_steps),
        batch_size=numbers.large_batch_size,
        base_batch_size=numbers.small_batch_size,
    )
    steps = dict(zip(stretched.milestones, numbers.learning_rate_steps.values(), strict=True))
    longer_numbers = replace(numbers, epochs=stretched.epochs, learning_rate_steps=steps)
    return Regime(longer_numbers, {0: numbers.large_batch_size})


def augmented(numbers: Numbers) -> Regime:
    """Large batch, flips, rotations and shifts (Keskar et al. 2017).

    In the paper's table the small batch that it is compared with is augmented too: `--augmentation affine`.
    """
    return Regime(replace(numbers, augmentation="affine"), {0: numbers.large_batch_size})


def goyal(numbers: Numbers) -> Regime:
    """Large batch, linear rate, warmup and four more (Goyal et al. 2017).

    Residual blocks that begin as the identity, no decay of BatchNorm's weights and of biases, and accuracies with
    BatchNorm's statistics recomputed over the training samples.
    """
    changed = replace(numbers, zero_last_gammas=True, decay_all=False, batch_norm="recomputed")
    return Regime(changed, {0: numbers.large_batch_size}, (_linear_scaling(numbers),))


REGIMES: dict[str, Callable[[Numbers], Regime]] = {
    "small": small,
    "large": large,
    "linear-lr": linear_lr,
    "sqrt-lr": sqrt_lr,
    "ghost": ghost,
    "ghost-lr": ghost_lr,
    "longer": longer,
    "growing": growing,
    "piggyback": piggyback,
    "augmented": augmented,
    "goyal": goyal,
}


def _linear_scaling(numbers: Numbers) -> LearningRateScaling:
    return LearningRateScaling(numbers.small_batch_size, rule="linear", warmup_epochs=numbers.warmup_epochs)


def _root_scaling(numbers: Numbers) -> LearningRateScaling:
    """The authors scale from the first step and clip instead of warming up."""
    return LearningRateScaling(numbers.small_batch_size, rule="sqrt", warmup_epochs=0)


def _clipping(numbers: Numbers) -> dict[str, float]:
    return {"gradient_clip_val": numbers.gradient_clip}


def _ghosts(numbers: Numbers) -> GhostBatchNormSwap:
    if numbers.ghost_batch_size > numbers.large_batch_size:
        raise ValueError(
            f"ghost_batch_size={numbers.ghost_batch_size} is larger than the batch, "
            f"large_batch_size={numbers.large_batch_size}; use at most {numbers.large_batch_size}"
        )
    return GhostBatchNormSwap(numbers.ghost_batch_size)


def _growing_at_steps(numbers: Numbers) -> Regime:
    def stage(epoch: int) -> Stage:
        factor = numbers.learning_rate_factor(epoch)
        size = max(1, min(int(numbers.small_batch_size / factor), numbers.large_batch_size))
        return Stage(size, factor * size / numbers.small_batch_size)

    sizes = {epoch: stage(epoch).batch_size for epoch in (0, *numbers.learning_rate_steps) if epoch < numbers.epochs}
    return Regime(replace(numbers, learning_rate_steps={}), sizes, (BatchSizeScheduler(stage),))


def _doubling(numbers: Numbers) -> Regime:
    sizes = [numbers.small_batch_size]
    while sizes[-1] < numbers.large_batch_size:
        sizes.append(min(2 * sizes[-1], numbers.large_batch_size))
    if len(sizes) > numbers.epochs:
        raise ValueError(
            f"growing needs an epoch for each of its batches, {', '.join(map(str, sizes))}, got "
            f"epochs={numbers.epochs}; use at least {len(sizes)}"
        )
    schedule = {stage * numbers.epochs // len(sizes): size for stage, size in enumerate(sizes)}
    return Regime(numbers, schedule, (BatchSizeScheduler(schedule),))


def _refuse_no_growth(name: str, numbers: Numbers) -> None:
    if numbers.large_batch_size <= numbers.small_batch_size:
        raise ValueError(
            f"{name} needs a large_batch_size above small_batch_size={numbers.small_batch_size}, got "
            f"{numbers.large_batch_size}"
        )
