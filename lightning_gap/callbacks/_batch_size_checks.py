"""Whether the batch sizes of a plan can work, and whether batches have the size that was set."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.optim import SGD, Optimizer
from torch.utils.hooks import RemovableHandle

from ..functional.batch_size.schedule import MicroBatching
from ..trainer.batches import drops_last_batch, micro_batch_size, samples_per_process
from ..trainer.optimizers import step_schedulers_with_a_length
from ..trainer.processes import raise_on_all_processes
from ..trainer.progress import validation_interval
from ..trainer.resizing import description, first_indices
from ..trainer.stated_batches import nominal_size
from ._last_batch import batch_norm_layers, first_size_that_leaves_one, watch_for_single_values
from ._run import global_batch_size, run_of


def check_plan(trainer: Trainer, planned: Sequence[MicroBatching]) -> int | None:
    """Refuse a size that comes later and cannot work; return a micro-batch size that leaves a batch of one sample."""
    samples = samples_per_process(trainer)
    if samples is None or not planned:
        return None
    largest = max(global_batch_size(trainer, split) for split in planned)
    check_largest(trainer, largest, f"a batch of {largest} samples")
    interval, longest = validation_interval(trainer), max(split.micro_batch_size for split in planned)
    fewest = _batches(trainer, samples, longest)
    if interval is not None and interval > fewest:
        raise ValueError(
            f"val_check_interval={interval} is more batches than an epoch has once a batch holds {longest} samples, "
            f"{fewest}; use a fraction, at most {fewest}, or check_val_every_n_epoch=None"
        )
    if trainer.max_steps == -1 and trainer.limit_train_batches == 1.0 and len(planned) == trainer.max_epochs:
        lengths = ((_batches(trainer, samples, split.micro_batch_size), split.accumulate) for split in planned)
        check_schedulers(trainer, sum(math.ceil(batches / window) for batches, window in lengths))
    return first_size_that_leaves_one(trainer, planned)


def sizes_to_prove(trainer: Trainer, planned: Sequence[MicroBatching], present: MicroBatching | None) -> list[int]:
    """Of the micro-batch sizes to come those to make a loader with as a trial: the next, the largest, the smallest."""
    sizes = [split.micro_batch_size for split in planned]
    if not sizes:
        return []
    now = sizes[0] if present is None else present.micro_batch_size
    following = [size for size in sizes if size != now][:1]
    known = (nominal_size(trainer.train_dataloader), None if present is None else present.micro_batch_size)
    return [size for size in dict.fromkeys([*following, max(sizes), min(sizes)]) if size not in known]


def check_largest(trainer: Trainer, largest: int, named: str) -> None:
    """Raise if the largest batch would be larger than the training set."""
    samples = (samples_per_process(trainer) or math.inf) * trainer.world_size
    if largest > samples:
        raise ValueError(f"{named} is larger than the {samples} samples to train on; use a smaller one")


def check_fixed_loader(trainer: Trainer, unit: str, max_micro_batch: int | None) -> None:
    """Raise if a loader whose batches stay as they are does not say their size, or gives too large ones."""
    loader, size = trainer.train_dataloader, micro_batch_size(trainer)
    if size is None:
        raise ValueError(
            f"unit={unit!r} changes the number of batches in a step, and {description(loader)} does not state how many "
            "samples one has; use a DataLoader with batch_size=..., or a lightning_gap.ResumableLoader"
        )
    if max_micro_batch is not None and size > max_micro_batch:
        raise ValueError(
            f"max_micro_batch={max_micro_batch} is below the {size} samples that {description(loader)} gives at a "
            f"time, which inside epochs cannot change; give it batch_size={max_micro_batch}, or use a "
            "lightning_gap.ResumableLoader"
        )


def check_plain_sgd(optimizer: Optimizer) -> None:
    """Raise if the optimizer is not the one that the test of Balles et al. is defined for."""
    plain = isinstance(optimizer, SGD) and len(optimizer.param_groups) == 1
    if not plain or optimizer.param_groups[0]["momentum"]:
        raise ValueError(
            "test='cabs' is defined for SGD without momentum and with one learning rate, got "
            f"{type(optimizer).__name__}; use test='norm'"
        )


class FirstBatchChecks:
    """What only batches show: their size, and whether BatchNorm will meet a single value.

    Attributes:
        is_due: Whether the next batch is to be looked at.
    """

    def __init__(self) -> None:
        self.is_due = False
        self._first_batch = self._told = False
        self._watches: list[RemovableHandle] = []  # of BatchNorm layers in the first batch

    def start(self, trainer: Trainer, size_that_leaves_one: int | None) -> None:
        """Training begins: let BatchNorm raise in its first batch if a later one would leave it a single value."""
        self._first_batch, self._told = True, False
        present = micro_batch_size(trainer)
        if size_that_leaves_one is not None and present is not None:
            layers = batch_norm_layers(trainer.lightning_module)
            self._watches = watch_for_single_values(
                layers, samples=present, sizes_that_leave_one=[size_that_leaves_one]
            )

    def stop_watching(self) -> None:
        """The first batch is over."""
        while self._watches:
            self._watches.pop().remove()

    def check(self, trainer: Trainer, batch_arg_name: str) -> None:
        """Whether the batch at hand has the size that was set; an error only before the first step.

        ``batch_arg_name`` is the attribute that the user's `train_dataloader` reads, for the error.
        """
        due, first = self.is_due, self._first_batch
        self.is_due = self._first_batch = False
        run = run_of(trainer) if due else None
        if run is None or run.split is None:
            return
        wanted = run.split.micro_batch_size
        size = first_indices(trainer.train_dataloader)
        if size is None and run.count is None:
            size = run.accumulation.counter.samples()
        short = trainer.num_training_batches == 1 and (size or 0) < wanted
        text = (
            f"the batch size was set to {wanted} samples for each process and batch, but a batch holds {size}; let "
            f"train_dataloader() read its batch size from self.{batch_arg_name}, or pass count=..., a function of "
            "the batch, if the first axis of its tensors is not the sample"
        )

        def refuse() -> None:
            if size not in (None, wanted) and not short:
                raise ValueError(text)

        if first:
            raise_on_all_processes(trainer, refuse)
        elif size not in (None, wanted) and not short and not self._told:
            self._told = True
            rank_zero_warn(text)


def check_schedulers(trainer: Trainer, optimizer_steps: int) -> None:
    """Raise if a step-wise scheduler was made for fewer steps than the run takes; warn if for more."""
    for name, total, frequency in step_schedulers_with_a_length(trainer):
        steps = optimizer_steps // frequency
        text = (
            f"{name} was made for total_steps={total}, and with these batch sizes the run takes {steps} steps; "
            "Lightning's estimated_stepping_batches takes all epochs to be alike, "
            "lightning_gap.functional.planned_optimizer_steps does not"
        )
        if total < steps:
            raise ValueError(text)
        if total > steps:
            rank_zero_warn(text)


def _batches(trainer: Trainer, samples: int, micro_batch_size: int) -> int:
    """Batches of an epoch on one process."""
    full, rest = divmod(samples, micro_batch_size)
    return full + (rest > 0 and not drops_last_batch(trainer))
