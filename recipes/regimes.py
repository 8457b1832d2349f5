"""Training regimes: short functions from a recipe's numbers to batch sizes, callbacks and settings of the Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lightning.pytorch import Callback

from lightning_gap import BatchSizeScheduler, GhostBatchNormSwap, LearningRateScaling, PiggybackWarmStart
from lightning_gap.functional import EpochBatch, train_longer
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
        told: What is changed, in a few words and with its numbers; nothing of ``trainer``, where the user's arguments
            come first, nor of what not every network has.
    """

    numbers: Numbers
    batch_sizes: dict[int, int]
    callbacks: tuple[Callback, ...] = ()
    trainer: Mapping[str, Any] = field(default_factory=dict)
    told: str = ""

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
        return self.batch_size_in(None)

    def batch_size_in(self, epoch: int | None) -> int:
        """The same in an epoch; in the last for none."""
        return self.batch_sizes[max(first for first in self.batch_sizes if epoch is None or first <= epoch)]


def small(numbers: Numbers) -> Regime:
    """The small batch: the baseline of every comparison."""
    return Regime(numbers, {0: numbers.small_batch_size})


def large(numbers: Numbers) -> Regime:
    """The large batch, nothing else changed."""
    return Regime(numbers, {0: numbers.large_batch_size})


def linear_lr(numbers: Numbers) -> Regime:
    """Large batch, rate scaled linearly, warmup (Goyal et al. 2017)."""
    told = _linear_scaling_told(numbers)
    return Regime(numbers, {0: numbers.large_batch_size}, (_linear_scaling(numbers),), told=told)


def sqrt_lr(numbers: Numbers) -> Regime:
    """Large batch, root-scaled rate, clipping (Hoffer et al. 2017)."""
    told = _root_scaling_told(numbers)
    return Regime(numbers, {0: numbers.large_batch_size}, (_root_scaling(numbers),), _clipping(numbers), told)


def ghost(numbers: Numbers) -> Regime:
    """Large batch, BatchNorm over ghost batches (Hoffer et al. 2017)."""
    return Regime(numbers, {0: numbers.large_batch_size}, (_ghosts(numbers),), told=_ghosts_told(numbers))


def ghost_lr(numbers: Numbers) -> Regime:
    """Large batch, ghosts, root-scaled rate, clipping (Hoffer et al. 2017)."""
    callbacks = (_ghosts(numbers), _root_scaling(numbers))
    told = f"{_ghosts_told(numbers)}, {_root_scaling_told(numbers)}"
    return Regime(numbers, {0: numbers.large_batch_size}, callbacks, _clipping(numbers), told)


def growing(numbers: Numbers) -> Regime:
    """Batch grown up to the large, in place of decay (Smith et al. 2018).

    Where the recipe would multiply its rate by a factor below 1, the batch is divided by it; past the large batch the
    rate takes over what the batch cannot. A recipe whose rate stays has its batch doubled instead, every size with its
    share of the epochs, to a whole epoch, and the last doubling goes no further than the large batch. A recipe none of
    whose steps lies inside the run is refused, and so is one whose rate rises.
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
    sizes = {0: numbers.small_batch_size, switch: numbers.large_batch_size}
    return Regime(numbers, sizes, (warm_start,), told=_batches_told(sizes))


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
    ratio = _times(numbers.large_batch_size / numbers.small_batch_size)
    what = "epochs and rate steps" if any(step < numbers.epochs for step in numbers.learning_rate_steps) else "epochs"
    told = f"{what} stretched {ratio} times, to {stretched.epochs} epochs"
    return Regime(longer_numbers, {0: numbers.large_batch_size}, told=told)


def augmented(numbers: Numbers) -> Regime:
    """Large batch, flips, rotations and shifts (Keskar et al. 2017).

    In the paper's table the small batch that it is compared with is augmented too: `--augmentation affine`.
    """
    changed = replace(numbers, augmentation="affine")
    return Regime(changed, {0: numbers.large_batch_size}, told="augmentation affine")


def goyal(numbers: Numbers) -> Regime:
    """Large batch, linear-lr and three more (Goyal et al. 2017).

    Residual blocks that begin as the identity, no decay of BatchNorm's weights and of biases, and accuracies with
    BatchNorm's statistics recomputed over the training samples.
    """
    changed = replace(numbers, zero_last_gammas=True, decay_all=False, batch_norm="recomputed")
    told = [_linear_scaling_told(numbers), "accuracies with BatchNorm statistics recomputed over the training samples"]
    if numbers.weight_decay:
        told.insert(1, "no decay of BatchNorm and biases")
    return Regime(changed, {0: numbers.large_batch_size}, (_linear_scaling(numbers),), told=", ".join(told))


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


def _linear_scaling_told(numbers: Numbers) -> str:
    """Only a rate that is scaled up is warmed up to, and one that the run ends before is not reached."""
    ratio, warmup = numbers.large_batch_size / numbers.small_batch_size, numbers.warmup_epochs
    told = f"rate x {_times(ratio)} (linear from {numbers.small_batch_size})"
    if ratio <= 1 or not warmup:
        return told
    unreached = f", of which the run has {numbers.epochs}" if warmup > numbers.epochs else ""
    return f"{told} after a warmup of {warmup:g} epoch{'s' * (warmup != 1)}{unreached}"


def _root_scaling_told(numbers: Numbers) -> str:
    ratio = math.sqrt(numbers.large_batch_size / numbers.small_batch_size)
    return f"rate x {_times(ratio)} (root, from {numbers.small_batch_size})"


def _ghosts_told(numbers: Numbers) -> str:
    return f"ghosts of {numbers.ghost_batch_size}"


def _batches_told(sizes: Mapping[int, int]) -> str:
    return f"batch {sizes[0]}, {_changes(sizes, sizes[0])}, optimizer's state kept"


def _changes(values: Mapping[int, object], before: object) -> str:
    told = []
    for epoch, value in values.items():
        if value != before:
            told.append(f"{value} from epoch {epoch}")
        before = value
    return ", ".join(told)


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 1000 else f"{ratio:.3g}"


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
    def stage(epoch: int) -> EpochBatch:
        factor = numbers.learning_rate_factor(epoch)
        size = min(int(numbers.small_batch_size / factor), numbers.large_batch_size)
        return EpochBatch(size, factor * size / numbers.small_batch_size)

    steps = {epoch: factor for epoch, factor in sorted(numbers.learning_rate_steps.items()) if epoch < numbers.epochs}
    _refuse_rise(steps)
    sizes = {epoch: stage(epoch).batch_size for epoch in (0, *steps)}
    if set(sizes.values()) == {numbers.small_batch_size}:
        raise ValueError(
            f"growing needs a step of the rate inside the run at which its batch of {numbers.small_batch_size} grows, "
            f"got epochs={numbers.epochs} and learning_rate_steps={dict(numbers.learning_rate_steps)}; use more "
            "epochs, earlier steps or smaller factors"
        )
    left = _changes({epoch: f"{stage(epoch).learning_rate_factor:.3g}" for epoch in steps}, "1")
    told = f"{_batches_told(sizes)}, in place of the rate steps{left and f' but for rate x {left}'}"
    return Regime(replace(numbers, learning_rate_steps={}), sizes, (BatchSizeScheduler(stage),), told=told)


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
    return Regime(numbers, schedule, (BatchSizeScheduler(schedule),), told=_batches_told(schedule))


def _refuse_rise(steps: Mapping[int, float]) -> None:
    """The batch would shrink where the rate rises."""
    before = 1.0
    for epoch, factor in steps.items():
        if factor > before:
            raise ValueError(
                f"growing needs factors of the rate that fall from 1, got {factor:g} after {before:g} in "
                f"learning_rate_steps={dict(steps)}; give epoch {epoch} a factor of at most {before:g}"
            )
        before = factor


def _refuse_no_growth(name: str, numbers: Numbers) -> None:
    if numbers.large_batch_size <= numbers.small_batch_size:
        raise ValueError(
            f"{name} needs a large_batch_size above small_batch_size={numbers.small_batch_size}, got "
            f"{numbers.large_batch_size}"
        )
