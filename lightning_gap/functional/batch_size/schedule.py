"""Batch sizes over time: what a schedule says, how a batch is split, and training longer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from .._validation import check_counts


@dataclass(frozen=True)
class EpochBatch:
    """What a schedule asks for in one epoch.

    Attributes:
        batch_size: Samples per optimizer step.
        learning_rate_factor: Factor on the learning rate, for schedules that say what becomes of it.
    """

    batch_size: int
    learning_rate_factor: float = 1.0


Schedule = Callable[[int], int | EpochBatch]


def epoch_batch_at(schedule: Schedule | Mapping[int, int], epoch: int) -> EpochBatch:
    """What a schedule asks for in an epoch, checked.

    Args:
        schedule: Batch sizes by the epoch they begin at, or a function of the epoch (from 0) that returns a batch
            size or an `EpochBatch`.
        epoch: From 0.

    Returns:
        The stage.

    Raises:
        TypeError: If the schedule returns neither.
        ValueError: If the size is not a whole number of at least 1, or the rate's factor is not positive.

    Example:
        >>> [epoch_batch_at({0: 32, 2: 64}, epoch).batch_size for epoch in range(4)]
        [32, 32, 64, 64]
    """
    if isinstance(schedule, Mapping):
        asked: int | EpochBatch = schedule[max(begin for begin in schedule if begin <= epoch)]
    else:
        asked = schedule(epoch)
    stage = asked if isinstance(asked, EpochBatch) else EpochBatch(asked)
    size: Any = stage.batch_size
    factor: Any = stage.learning_rate_factor
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
        raise ValueError(f"schedule gives {size!r} in epoch {epoch}; it must be a whole number of samples, at least 1")
    if isinstance(factor, bool) or not isinstance(factor, Real) or not 0 < float(factor) < math.inf:
        raise ValueError(f"schedule multiplies the learning rate by {factor!r} in epoch {epoch}; it must be positive")
    return EpochBatch(int(size), float(factor))  # NumPy's numbers become plain ones, which checkpoints can hold


def checked_milestones(milestones: Mapping[int, int]) -> dict[int, int]:
    """Give batch sizes by epoch back in plain numbers if they are a schedule.

    Raises:
        ValueError: If there are none, they do not begin at epoch 0, an epoch is no whole number, or the epochs do
            not rise.
    """
    epochs = list(milestones)
    if not epochs:
        raise ValueError("schedule is empty; give batch sizes by epoch, for instance {0: 128, 30: 512}")
    number: Any  # NumPy's too
    for number in epochs:
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 0:
            raise ValueError(f"schedule has epoch {number!r}; epochs are whole numbers from 0")
    if epochs[0] != 0:
        raise ValueError(f"schedule begins at epoch {epochs[0]}; say the batch size of epoch 0 too")
    if epochs != sorted(epochs):
        raise ValueError(f"schedule has its epochs in the order {epochs}; write them in rising order")
    return {int(epoch): epoch_batch_at(milestones, epoch).batch_size for epoch in epochs}


@dataclass(frozen=True)
class MicroBatching:
    """How one optimizer step's batch is worked off.

    Attributes:
        micro_batch_size: Samples per batch and process.
        accumulate: Batches per optimizer step.
    """

    micro_batch_size: int
    accumulate: int


def split_batch(
    batch_size: int, *, processes: int = 1, accumulate: int = 1, max_micro_batch: int | None = None
) -> MicroBatching:
    """Split a batch over processes, and where it is too large for one of them over micro-batches.

    Args:
        batch_size: Samples per optimizer step.
        processes: Processes that share it.
        accumulate: Micro-batches per step, or a lower bound on them if there is a limit.
        max_micro_batch: Most samples that one process works on at a time; ``None`` for no limit.

    Returns:
        The smallest split in equal parts that keeps to the limit.

    Raises:
        ValueError: If the batch cannot be split in equal parts, or only in parts below half of what the limit allows.

    Example:
        >>> split_batch(4096, processes=2, max_micro_batch=512)
        MicroBatching(micro_batch_size=512, accumulate=4)
    """
    parts = processes * accumulate
    if max_micro_batch is None:
        if batch_size % parts:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared equally by {processes} processes in {accumulate} "
                f"micro-batches each; use a multiple of {parts}, for instance {_multiple(batch_size, parts)}"
            )
        return MicroBatching(batch_size // parts, accumulate)
    fewest = max(accumulate, math.ceil(batch_size / (processes * max_micro_batch)))
    equal = (k for k in range(fewest, 2 * fewest + 1) if batch_size % (processes * k) == 0)
    found = next(equal, None)
    if found is None:
        raise ValueError(
            f"a batch of {batch_size} cannot be split equally over {processes} processes in micro-batches of at most "
            f"max_micro_batch={max_micro_batch}; use for instance {_multiple(batch_size, processes * fewest)}"
        )
    return MicroBatching(batch_size // (processes * found), found)


@dataclass(frozen=True)
class LongerTraining:
    """A training regime with as many updates as that of the small batch.

    Attributes:
        epochs: Epochs of the run.
        milestones: Epochs at which its learning rate changes.
    """

    epochs: int
    milestones: tuple[int, ...]


def train_longer(
    epochs: int, milestones: Sequence[int] = (), *, batch_size: int, base_batch_size: int
) -> LongerTraining:
    """Stretch a small batch's regime so that the large batch makes as many updates: regime adaptation.

    Epochs and milestones are multiplied by ``batch_size / base_batch_size`` and rounded up.

    Args:
        epochs: Epochs of the small-batch regime.
        milestones: Epochs at which its learning rate changes.
        batch_size: Samples per step of the large batch.
        base_batch_size: Samples per step of the small batch.

    Returns:
        The longer regime.

    Raises:
        ValueError: If a count is not a whole number of at least 1 or a milestone is negative.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 5.

    Example:
        >>> train_longer(200, (81, 122, 164), batch_size=2048, base_batch_size=128)
        LongerTraining(epochs=3200, milestones=(1296, 1952, 2624))
    """
    check_counts(epochs=epochs, batch_size=batch_size, base_batch_size=base_batch_size)
    check_epochs(milestones)

    def stretched(epoch: int) -> int:
        return -(-epoch * batch_size // base_batch_size)

    return LongerTraining(stretched(epochs), tuple(stretched(epoch) for epoch in milestones))


def planned_optimizer_steps(
    schedule: Schedule | Mapping[int, int], *, samples: int, epochs: int, drop_last: bool = False
) -> int:
    """Optimizer steps of a whole run under a batch-size schedule.

    What a step-wise rate scheduler needs to know; Lightning's `estimated_stepping_batches` takes every epoch to be as
    long as the present one.

    Args:
        schedule: As in `epoch_batch_at`.
        samples: Training samples.
        epochs: Epochs of the run.
        drop_last: Whether the loader leaves out what does not fill a batch.

    Returns:
        Steps, with ``drop_last=False`` the smaller last batch of each epoch included.

    Example:
        >>> planned_optimizer_steps({0: 32, 2: 64}, samples=100, epochs=3)
        10
    """
    sizes = (epoch_batch_at(schedule, epoch).batch_size for epoch in range(epochs))
    return sum(samples // size if drop_last else math.ceil(samples / size) for size in sizes)


def check_epochs(milestones: Sequence[int]) -> None:
    """Raise if milestones are no epochs, or do not rise."""
    for epoch in milestones:
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"milestones must be epochs, whole numbers from 0, got {epoch!r}")
    if any(later <= earlier for earlier, later in itertools.pairwise(milestones)):
        raise ValueError(f"milestones must rise, each named once, got {tuple(milestones)}")


def _multiple(size: int, parts: int) -> int:
    return max(1, round(size / parts)) * parts
