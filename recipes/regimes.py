"""Training regimes: short functions from a recipe's numbers to batch sizes, epochs and the callbacks for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lightning.pytorch import Callback

from lightning_gap import BatchSizeScheduler, GhostBatchNormSwap, LearningRateScaling, PiggybackWarmStart
from lightning_gap.functional import train_longer
from lightning_gap.recipes.catalogue import Numbers


@dataclass(frozen=True)
class Regime:
    """How to train: in which batches, for how long, and with the callbacks that make it work.

    Attributes:
        batch_sizes: Samples per optimizer step by the epoch, from 0, in which they begin. The first is the loader's
            own, the others are set by a callback.
        epochs: Epochs of the run.
        callbacks: Callbacks that no other run has used.
    """

    batch_sizes: dict[int, int]
    epochs: int
    callbacks: tuple[Callback, ...] = ()

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
    return Regime({0: numbers.small_batch_size}, numbers.epochs)


def large(numbers: Numbers) -> Regime:
    """The large batch, nothing else changed."""
    return Regime({0: numbers.large_batch_size}, numbers.epochs)


def linear_lr(numbers: Numbers) -> Regime:
    """Large batch, rate scaled linearly, warmup (Goyal et al. 2017)."""
    scaling = LearningRateScaling(numbers.small_batch_size, rule="linear", warmup_epochs=numbers.warmup_epochs)
    return Regime({0: numbers.large_batch_size}, numbers.epochs, (scaling,))


def sqrt_lr(numbers: Numbers) -> Regime:
    """Large batch, root-scaled rate, warmup (Hoffer et al. 2017)."""
    scaling = LearningRateScaling(numbers.small_batch_size, rule="sqrt", warmup_epochs=numbers.warmup_epochs)
    return Regime({0: numbers.large_batch_size}, numbers.epochs, (scaling,))


def ghost(numbers: Numbers) -> Regime:
    """Large batch, BatchNorm over ghost batches (Hoffer et al. 2017)."""
    if numbers.ghost_batch_size > numbers.large_batch_size:
        raise ValueError(
            f"ghost_batch_size={numbers.ghost_batch_size} is larger than the batch, "
            f"large_batch_size={numbers.large_batch_size}; use at most {numbers.large_batch_size}"
        )
    return Regime({0: numbers.large_batch_size}, numbers.epochs, (GhostBatchNormSwap(numbers.ghost_batch_size),))


def growing(numbers: Numbers) -> Regime:
    """Batch doubled at intervals up to the large (Smith et al. 2018).

    The rate stays: growth stands in the place of its decay. Every size has its share of the epochs, to a whole epoch,
    and the last doubling goes no further than the large batch.
    """
    _refuse_no_growth("growing", numbers)
    sizes = [numbers.small_batch_size]
    while sizes[-1] < numbers.large_batch_size:
        sizes.append(min(2 * sizes[-1], numbers.large_batch_size))
    if len(sizes) > numbers.epochs:
        raise ValueError(
            f"growing needs an epoch for each of its batches, {', '.join(map(str, sizes))}, got "
            f"epochs={numbers.epochs}; use at least {len(sizes)}"
        )
    schedule = {stage * numbers.epochs // len(sizes): size for stage, size in enumerate(sizes)}
    return Regime(schedule, numbers.epochs, (BatchSizeScheduler(schedule),))


def piggyback(numbers: Numbers) -> Regime:
    """A fifth with the small batch, then large (Keskar et al. 2017).

    A fifth of the epochs, rounded up, in a run as long as the others; ADAM's state is kept at the switch. In the
    paper's figure 5 the small batch trains for each number of epochs from 1 to 100 and the large one for 100 more, and
    what becomes of ADAM's state is not said.
    """
    _refuse_no_growth("piggyback", numbers)
    switch = math.ceil(numbers.epochs / 5)
    if switch == numbers.epochs:
        raise ValueError(
            f"piggyback needs an epoch for each of its batches, got epochs={numbers.epochs}; use at least 2"
        )
    warm_start = PiggybackWarmStart(switch, numbers.large_batch_size, optimizer_state="keep")
    return Regime({0: numbers.small_batch_size, switch: numbers.large_batch_size}, numbers.epochs, (warm_start,))


def longer(numbers: Numbers) -> Regime:
    """Large batch, as many updates as small (Hoffer et al. 2017).

    Regime adaptation: epochs times the ratio of the batches, rounded up. The updates are equally many where both
    batches divide the training samples; a smaller last batch is an update too.
    """
    _refuse_no_growth("longer", numbers)
    stretched = train_longer(
        numbers.epochs, batch_size=numbers.large_batch_size, base_batch_size=numbers.small_batch_size
    )
    return Regime({0: numbers.large_batch_size}, stretched.epochs)


REGIMES: dict[str, Callable[[Numbers], Regime]] = {
    "small": small,
    "large": large,
    "linear-lr": linear_lr,
    "sqrt-lr": sqrt_lr,
    "ghost": ghost,
    "growing": growing,
    "piggyback": piggyback,
    "longer": longer,
}


def _refuse_no_growth(name: str, numbers: Numbers) -> None:
    if numbers.large_batch_size <= numbers.small_batch_size:
        raise ValueError(
            f"{name} needs a large_batch_size above small_batch_size={numbers.small_batch_size}, got "
            f"{numbers.large_batch_size}"
        )
