"""How far a run is, and what Lightning does with the present batch."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Trainer

from . import _private


def optimizer_steps_taken(trainer: Trainer) -> int:
    """Optimizer steps so far; in manual optimization, where one batch may step several optimizers, batches so far."""
    if trainer.lightning_module.automatic_optimization:
        return trainer.global_step
    return trainer.fit_loop.total_batch_idx


def number_in_run(trainer: Trainer, batch: int | None) -> int:
    """The number in the run of the batch of this number in the epoch; by default of the present one."""
    loop = trainer.fit_loop
    return loop.total_batch_idx - (0 if batch is None else loop.batch_idx - batch)


def optimizer_steps_per_epoch(trainer: Trainer) -> int | None:
    """Optimizer steps in one epoch, or ``None`` where the train loader has no length."""
    batches = trainer.num_training_batches
    return None if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)


def optimizer_steps_planned_before(trainer: Trainer, per_epoch: int) -> int:
    """Optimizer steps that come before the present one in a run whose epochs all have so many."""
    return trainer.current_epoch * per_epoch + trainer.fit_loop.batch_idx // trainer.accumulate_grad_batches


def ends_accumulation(trainer: Trainer) -> bool:
    """Whether the optimizer steps after this batch."""
    return not _private.is_accumulating(trainer)


def batches_done(trainer: Trainer) -> int:
    """Batches of this epoch whose training is done, the present one included from `on_train_batch_end` on."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.processed)  # type: ignore[attr-defined]


def batches_to_skip(trainer: Trainer) -> int:
    """When training begins: batches of the epoch that a resumed run has done; 0 where it begins with an epoch."""
    return batches_done(trainer) if trainer.fit_loop.restarted_mid_epoch else 0


def is_last_batch(trainer: Trainer) -> bool:
    """Whether the present batch is the last of the epoch, also where the loader has no length."""
    loop = trainer.fit_loop
    return loop.batch_idx + 1 >= trainer.num_training_batches or bool(loop.epoch_loop.batch_progress.is_last_batch)


def zeroes_gradients(trainer: Trainer) -> bool:
    """Whether Lightning cleared the gradients before this batch's backward pass."""
    return trainer.fit_loop.batch_idx % trainer.accumulate_grad_batches == 0


def is_inside_a_batch(trainer: Trainer) -> bool:
    """Whether a training batch has been begun and is not over, its `on_train_batch_end` included."""
    current = trainer.fit_loop.epoch_loop.batch_progress.current
    return current.ready > current.completed


def validates_next(trainer: Trainer) -> bool:
    """Whether the present batch is trained on, and a validation follows that has not begun."""
    current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return current.ready == current.processed > current.completed and _private.validates_after_batch(trainer)


def validation_interval(trainer: Trainer) -> int | None:
    """Batches between validations, where Lightning insists that an epoch has at least as many."""
    interval: object = trainer.val_check_interval
    counts = isinstance(interval, int) and trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches
    return int(trainer.val_check_interval) if counts else None


def averages_weights_now(trainer: Trainer) -> bool:
    """Whether this is the extra epoch of `StochasticWeightAveraging`, which trains nothing."""
    return _private.skips_backward(trainer)


def is_last_planned(trainer: Trainer) -> bool:
    """Whether this epoch is the last one by ``max_epochs`` or ``max_steps``.

    Not `should_stop`: whether it is set by now depends on which callback comes first.
    """
    steps_are_up = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    return trainer.current_epoch + 1 == trainer.max_epochs or steps_are_up


def has_an_end(trainer: Trainer) -> bool:
    """Whether the run ends by ``max_epochs`` or ``max_steps``."""
    return trainer.max_steps != -1 or trainer.max_epochs not in (None, -1)


def fraction_of_run(trainer: Trainer) -> float:
    """How much of the run was done before this batch, by ``max_epochs`` or ``max_steps``, whichever comes first."""
    of_epoch = trainer.fit_loop.batch_idx / trainer.num_training_batches
    epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else math.inf
    steps = trainer.max_steps if trainer.max_steps != -1 else math.inf
    return max((trainer.current_epoch + of_epoch) / epochs, trainer.global_step / steps)


def comes_to(trainer: Trainer, fraction: float) -> bool:
    """Whether `fraction_of_run` will be as much before some batch, as far as it is known.

    Where epochs alone end the run, and the train loader has no length, it grows from epoch to epoch only.
    """
    if trainer.max_steps != -1 or trainer.max_epochs in (None, -1) or not math.isinf(trainer.num_training_batches):
        return True
    return (trainer.max_epochs - 1) / trainer.max_epochs >= fraction


def is_trial(trainer: Trainer) -> bool:
    """Whether this is a ``fast_dev_run``."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
