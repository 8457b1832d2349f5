"""Logging where Lightning refuses `self.log`, and only when it will be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from . import _private
from .progress import ends_accumulation, is_last_batch


def log_now(trainer: Trainer, values: Mapping[str, float], *, step: int | None = None) -> None:
    """Log where `self.log` is refused: to all loggers, by default at the last optimizer step, and for callbacks."""
    metrics = {name: torch.tensor(value) for name, value in values.items()}
    _private.add_callback_metrics(trainer, metrics)
    if not trainer.barebones:
        step = max(0, trainer.global_step - 1) if step is None else step
        _private.logger_connector(trainer).log_metrics(metrics, step=step)


def log_step(
    trainer: Trainer, module: LightningModule, values: Callable[[], Mapping[str, float | Tensor]], *, sync: bool = False
) -> None:
    """Log what a step had, in `on_train_batch_end`: where Lightning writes, and at the ends of each epoch.

    Lightning writes every 50th step by default, more than many runs with a large batch have: the first step of the run
    and the last of each epoch are written in any case.

    Args:
        trainer: Of the run.
        module: What it trains.
        values: Gives them by key, an empty dict where there are none; asked only where they are written.
        sync: Whether they differ between processes, so that their mean counts.
    """
    writes = writes_logs_now(trainer)
    if not (writes or _begins_or_ends(trainer)):
        return
    found = values()
    if found and writes:
        module.log_dict(dict(found), on_step=True, on_epoch=False, sync_dist=sync)
    elif found:
        reduce = trainer.strategy.reduce
        own = {key: reduce(value, reduce_op="mean") if sync else value for key, value in found.items()}
        log_now(trainer, {key: float(value) for key, value in own.items()}, step=_private.batches_that_stepped(trainer))


def writes_logs_now(trainer: Trainer) -> bool:
    """Whether Lightning will write the step-level values of this batch; logging them at other steps is waste."""
    return _private.logger_connector(trainer).should_update_logs or bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _begins_or_ends(trainer: Trainer) -> bool:
    """Whether this batch ended the first step of the run, or an epoch; never where no step is to be logged."""
    if trainer.log_every_n_steps == 0 or not ends_accumulation(trainer):  # type: ignore[attr-defined]
        return False
    return is_last_batch(trainer) or _private.batches_that_stepped(trainer) == 0
