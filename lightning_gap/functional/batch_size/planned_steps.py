"""The optimizer steps of an epoch, one after the other, as a schedule in any unit plans them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from .._validation import check_counts, flag, whole_number
from .schedule import EpochBatch, MicroBatching, Schedule, epoch_batch_at, split_batch
from .units import Unit, batch_at, checked_unit


class PlannedStep(NamedTuple):
    """One optimizer step of an epoch.

    Attributes:
        consumed: What was consumed before it, in the unit of the schedule.
        samples_before: Samples of the epoch that came before it, over all processes.
        samples: Its samples, over all processes.
        micro_batches: Its micro-batches on each process; fewer than planned in an epoch's last step.
        batch: What the schedule asks for.
        split: How that is split.
    """

    consumed: int
    samples_before: int
    samples: int
    micro_batches: int
    batch: EpochBatch
    split: MicroBatching


def planned_steps(
    at: Callable[[int], EpochBatch],
    split: Callable[[int], MicroBatching],
    *,
    consumed: int,
    per_step: int = 0,
    per_sample: int = 0,
    samples: int | None,
    processes: int = 1,
    drop_last: bool = False,
) -> Iterator[PlannedStep]:
    """The steps of an epoch: what was consumed decides the size of a step, and its size what is consumed.

    Args:
        at: What the schedule asks for, as from `batch_at`.
        split: How a batch of so many samples is split.
        consumed: Units consumed before the epoch.
        per_step: Units that a step consumes: 1 where the unit is steps, else 0.
        per_sample: Units that a sample consumes: 1 where the unit is samples, its length where it is tokens, else 0.
        samples: Samples of the epoch; ``None`` for a stream without end.
        processes: Processes that train together.
        drop_last: Whether what does not fill a micro-batch is left out. If not, a remainder of fewer samples than
            processes joins the batch before it, as in `BatchPlan`.

    Yields:
        The steps, with a stream for ever.
    """
    before = 0
    asked: EpochBatch | None = None
    while samples is None or before < samples:
        batch = at(consumed)
        if asked is None or batch != asked:
            asked, parts = batch, split(batch.batch_size)
            at_a_time = parts.micro_batch_size * processes
        micro_batches, size = parts.accumulate, at_a_time * parts.accumulate
        if samples is not None and samples - before < size + (0 if drop_last else processes):
            left = samples - before
            micro_batches = min(left // at_a_time, parts.accumulate)
            size = micro_batches * at_a_time
            if not drop_last and left > size:
                # A remainder with a share for every process is a micro-batch of its own, if the step has room.
                own = left - size >= processes or before + size == 0
                if micro_batches < parts.accumulate or not own:
                    micro_batches, size = micro_batches + own, left
            if size == 0:
                return
        yield PlannedStep(consumed, before, size, micro_batches, batch, parts)
        if micro_batches < parts.accumulate:  # the epoch ends inside the step
            return
        before += size
        consumed += per_step + per_sample * size


class SizeOfNextBatch:
    """Samples per batch and process of a stream, by the samples before the batch, over all processes.

    Args:
        steps: Of an epoch without end, from `planned_steps`.
    """

    def __init__(self, steps: Iterator[PlannedStep]) -> None:
        self._steps, self._step = steps, next(steps)

    def __call__(self, samples_before: int) -> int:
        """The size after so many samples; asked in rising order."""
        while samples_before >= self._step.samples_before + self._step.samples:
            self._step = next(self._steps)
        return self._step.split.micro_batch_size


def planned_optimizer_steps(
    schedule: Schedule | Mapping[int, int],
    *,
    samples: int,
    epochs: int,
    drop_last: bool = False,
    unit: Unit = "epochs",
    tokens_per_sample: int | None = None,
) -> int:
    """Optimizer steps of a whole run under a batch-size schedule.

    A learning-rate scheduler that counts steps needs this number; Lightning's `estimated_stepping_batches` takes every
    epoch to be as long as the present one.

    Args:
        schedule: As in `epoch_batch_at`.
        samples: Training samples.
        epochs: Epochs of the run.
        drop_last: Whether the loader leaves out the remainder that does not fill a batch.
        unit: What the schedule counts in: epochs, optimizer steps, samples or tokens.
        tokens_per_sample: Length of a sample, for ``unit="tokens"``.

    Returns:
        Steps, with ``drop_last=False`` the smaller last batch of each epoch included.

    Raises:
        ValueError: If a count is not a whole number of at least 1, ``tokens_per_sample`` is missing where it is
            needed, or as in `epoch_batch_at`.

    Example:
        >>> planned_optimizer_steps({0: 32, 2: 64}, samples=100, epochs=3)
        10
        >>> planned_optimizer_steps({0: 32, 64: 64}, samples=128, epochs=2, unit="samples")
        5
    """
    samples, epochs = check_counts(samples=samples, epochs=epochs)
    drop_last, unit = flag("drop_last", drop_last), checked_unit(unit)
    if tokens_per_sample is not None or unit == "tokens":
        tokens_per_sample = whole_number("tokens_per_sample", tokens_per_sample, hint="the length of a sample")
    if unit == "epochs":
        sizes = (epoch_batch_at(schedule, epoch).batch_size for epoch in range(epochs))
        return sum(samples // size if drop_last else math.ceil(samples / size) for size in sizes)
    per_sample = {"steps": 0, "samples": 1, "tokens": tokens_per_sample or 0}[unit]
    per_step, at, steps, consumed = int(unit == "steps"), batch_at(schedule, unit), 0, 0
    for _ in range(epochs):
        for step in planned_steps(
            at,
            split_batch,
            consumed=consumed,
            per_step=per_step,
            per_sample=per_sample,
            samples=samples,
            drop_last=drop_last,
        ):
            steps += 1
            latest = step
        consumed = latest.consumed + per_step + per_sample * latest.samples if steps else consumed
    return steps
