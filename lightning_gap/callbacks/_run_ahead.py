"""The steps of a whole run, planned before the first of them, and what cannot work in them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning.pytorch import Trainer

from ..functional.batch_size.schedule import MicroBatching
from ..trainer.batches import samples_per_process
from ..trainer.progress import validation_interval
from ._batch_size_checks import check_largest, check_schedulers
from ._inside_epochs import MOST_STEPS, SizesInsideEpochs
from ._run import global_batch_size


@dataclass
class RunAhead:
    """What a schedule plans for the rest of a run, as far as it is known.

    Attributes:
        splits: The splits of its steps, in the order in which they come.
        fewest_batches: Batches of its shortest epoch on each process; infinite where an epoch has no end.
        leaves_one: A micro-batch size with which an epoch ends in one sample for a process.
        steps: Optimizer steps, where the run was planned to its end.
        consumed: Units consumed at its end, or where planning ended.
    """

    splits: list[MicroBatching]
    fewest_batches: float = math.inf
    leaves_one: int | None = None
    steps: int | None = None
    consumed: int = 0


def look_ahead(trainer: Trainer, sizes: SizesInsideEpochs, consumed: int) -> RunAhead:
    """Plan the run from the beginning of the present epoch on, before which so much was consumed."""
    left = min(MOST_STEPS, math.inf if trainer.max_steps < 0 else max(1, trainer.max_steps - trainer.global_step))
    splits: dict[MicroBatching, None] = {}
    lengths: list[float] = []
    leaves_one, steps, epoch = None, 0, trainer.current_epoch
    is_whole = True
    while steps < left and (trainer.max_epochs in (None, -1) or epoch < trainer.max_epochs):
        batches, latest = 0, None
        for latest in sizes.steps(consumed):
            splits[latest.split] = None
            batches, steps = batches + latest.micro_batches, steps + 1
            consumed = sizes.after(latest)
            if steps >= left:
                break
        else:
            lengths.append(batches)
            if latest is not None and _last_share(trainer, latest.samples, latest.micro_batches, latest.split) == 1:
                leaves_one = leaves_one or latest.split.micro_batch_size
        if latest is None:
            break
        epoch += 1
    is_whole = len(lengths) == trainer.max_epochs
    return RunAhead(list(splits), min(lengths, default=math.inf), leaves_one, steps if is_whole else None, consumed)


def check_run(trainer: Trainer, ahead: RunAhead) -> int | None:
    """Refuse what comes later and cannot work; return a micro-batch size that leaves a batch of one sample."""
    if samples_per_process(trainer) is None or not ahead.splits:  # none where the run is over
        return None
    largest = max(global_batch_size(trainer, split) for split in ahead.splits)
    check_largest(trainer, largest, f"a batch of {largest} samples")
    if trainer.limit_train_batches != 1.0:
        return None
    interval = validation_interval(trainer)
    if interval is not None and interval > ahead.fewest_batches:
        raise ValueError(
            f"val_check_interval={interval} is more batches than the shortest epoch has with this schedule, "
            f"{ahead.fewest_batches}; use a fraction, at most {ahead.fewest_batches}, or check_val_every_n_epoch=None"
        )
    if trainer.max_steps == -1 and ahead.steps is not None:
        check_schedulers(trainer, ahead.steps)
    return ahead.leaves_one


def _last_share(trainer: Trainer, samples: int, micro_batches: int, split: MicroBatching) -> int:
    """Least samples of a process in the last micro-batch of an epoch; 0 where it is as large as planned."""
    last = samples - (micro_batches - 1) * split.micro_batch_size * trainer.world_size
    return 0 if split.micro_batch_size == 1 else last // trainer.world_size
