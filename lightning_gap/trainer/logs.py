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
    stepped = _private.batches_that_stepped(trainer)
    writes = _writes(trainer, stepped)
    if not (writes or _begins_or_ends(trainer, stepped)):
        return
    found = values()
    if found and writes:
        module.log_dict(dict(found), on_step=True, on_epoch=False, sync_dist=sync)
    elif found:
        reduce = trainer.strategy.reduce
        own = {key: reduce(value, reduce_op="mean") if sync else value for key, value in found.items()}
        log_now(trainer, {key: float(value) for key, value in own.items()}, step=stepped)


def _writes(trainer: Trainer, stepped: int) -> bool:
    """Whether Lightning will write the step-level values of this batch; logging them at other steps is waste.

    Its own ``should_update_logs``, which first finds out which loop runs, as it is in `on_train_batch_end`.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    due = every != 0 and ((stepped + 1) % every == 0 or trainer.should_stop)
    return due or bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _begins_or_ends(trainer: Trainer, stepped: int) -> bool:
    """Whether this batch ended the first step of the run, or an epoch; never where no step is to be logged."""
    begins_or_ends = stepped == 0 or is_last_batch(trainer)
    logs_steps = trainer.log_every_n_steps != 0  # type: ignore[attr-defined]
    return begins_or_ends and logs_steps and ends_accumulation(trainer)
