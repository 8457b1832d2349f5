"""Batch sizes over time: what a schedule says, how a batch is split, and training longer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .._validation import check_counts, each, real_number, refusal, whole_number


@dataclass(frozen=True)
class EpochBatch:
    """What a schedule asks for in one epoch, or in steps in a row.

    Attributes:
        batch_size: Samples per optimizer step.
        learning_rate_factor: Factor on the learning rate, for schedules that say what becomes of it.

    Example:
        >>> schedule = lambda epoch: EpochBatch(64 if epoch < 30 else 256, learning_rate_factor=0.9**epoch)
        >>> schedule(30).batch_size
        256
    """

    batch_size: int
    learning_rate_factor: float = 1.0


Schedule = Callable[[int], int | EpochBatch]
"""A function of the epoch, from 0, or of another `Unit`, that returns a batch size in samples or an `EpochBatch`."""


def epoch_batch_at(schedule: Schedule | Mapping[int, int], epoch: int) -> EpochBatch:
    """What a schedule asks for in an epoch, checked.

    Args:
        schedule: Batch sizes by the epoch they begin at, or a function of the epoch (from 0) that returns a batch
            size or an `EpochBatch`.
        epoch: From 0.

    Returns:
        Batch size in samples and learning-rate factor, as plain numbers.

    Raises:
        ValueError: If the schedule is neither, the size is not a whole number of at least 1, or the factor of the
            learning rate is not positive.

    Example:
        >>> [epoch_batch_at({0: 32, 2: 64}, epoch).batch_size for epoch in range(4)]
        [32, 32, 64, 64]
    """
    epoch = whole_number("epoch", epoch, 0)
    if isinstance(schedule, Mapping):
        sizes = checked_milestones(schedule)
        return EpochBatch(sizes[max(begin for begin in sizes if begin <= epoch)])
    return checked_batch(schedule, epoch, "epochs")


def checked_batch(schedule: Schedule, consumed: int, unit: str) -> EpochBatch:
    """What a function asks for after so many units; raise if it is none, or asks for what is no batch."""
    if not callable(schedule):
        raise ValueError(
            refusal("schedule", f"must be a dict of batch sizes by {unit} or a function of them", schedule)
        )
    asked = schedule(consumed)
    found = asked if isinstance(asked, EpochBatch) else EpochBatch(asked)
    where = f"schedule {_place(consumed, unit)}"
    size = whole_number(where, found.batch_size, unit="samples")
    factor = real_number(f"{where}: learning_rate_factor", found.learning_rate_factor, above=0)
    return EpochBatch(size, factor)


def checked_milestones(milestones: Mapping[int, int], unit: str = "epochs") -> dict[int, int]:
    """Give batch sizes by epoch, or another unit, back in plain numbers if they are a schedule.

    Raises:
        ValueError: If there are none, they do not begin at 0, a threshold is no whole number, or they do not rise.
    """
    if not milestones:
        raise ValueError(f"schedule is empty; give batch sizes by {unit}, for instance {{0: 128, 30: 512}}")
    begins = checked_epochs(f"schedule's {unit}", list(milestones))
    if begins[0] != 0:
        first, start = (f"epoch {begins[0]}", "of epoch 0") if unit == "epochs" else (f"{begins[0]} {unit}", "at 0")
        raise ValueError(f"schedule begins at {first}; say the batch size {start} too")
    sizes = zip(begins, milestones.values(), strict=True)
    return {begin: whole_number(f"schedule {_place(begin, unit)}", size, unit="samples") for begin, size in sizes}


def _place(consumed: int, unit: str) -> str:
    return f"in epoch {consumed}" if unit == "epochs" else f"at {consumed} {unit}"


@dataclass(frozen=True)
class MicroBatching:
    """How the batch of one optimizer step is split into micro-batches.

    Attributes:
        micro_batch_size: Samples per micro-batch and process.
        accumulate: Micro-batches per optimizer step and process.

    Example:
        >>> split = MicroBatching(micro_batch_size=512, accumulate=4)
        >>> split.micro_batch_size * split.accumulate * 2  # the batch of two processes
        4096
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
        The fewest equal micro-batches that keep to the limit.

    Raises:
        ValueError: If the batch cannot be split in equal parts, or only in parts below half of what the limit allows.

    Example:
        >>> split_batch(4096, processes=2, max_micro_batch=512)
        MicroBatching(micro_batch_size=512, accumulate=4)
    """
    batch_size, processes, accumulate = check_counts(batch_size=batch_size, processes=processes, accumulate=accumulate)
    parts = processes * accumulate
    if max_micro_batch is None:
        if batch_size % parts:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared equally by {processes} processes in {accumulate} "
                f"micro-batches each (accumulate); use a batch_size that is a multiple of {parts}, for instance "
                f"{_multiple(batch_size, parts)}"
            )
        return MicroBatching(batch_size // parts, accumulate)
    max_micro_batch = whole_number("max_micro_batch", max_micro_batch, unit="samples")
    fewest = max(accumulate, math.ceil(batch_size / (processes * max_micro_batch)))
    found = next((k for k in range(fewest, 2 * fewest + 1) if batch_size % (processes * k) == 0), None)
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

    Example:
        >>> LongerTraining(epochs=3200, milestones=(1296,)).epochs
        3200
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
    epochs, large, small = check_counts(epochs=epochs, batch_size=batch_size, base_batch_size=base_batch_size)
    milestones = checked_epochs("milestones", milestones)

    def stretched(epoch: int) -> int:
        return -(-epoch * large // small)

    return LongerTraining(stretched(epochs), tuple(stretched(epoch) for epoch in milestones))


def checked_epochs(name: str, epochs: Sequence[int]) -> tuple[int, ...]:
    """Epochs as plain ints; raise if one is not a whole number from 0, or they do not rise."""
    plain = tuple(each(name, epochs, lambda name, epoch: whole_number(name, epoch, 0)))
    if any(later <= earlier for earlier, later in itertools.pairwise(plain)):
        raise ValueError(f"{name} must be in rising order, each once, got {plain}")
    return plain


def _multiple(size: int, parts: int) -> int:
    return max(1, round(size / parts)) * parts
