"""Logging where Lightning refuses `self.log`, and only when it will be written."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer

from . import _private


def log_now(trainer: Trainer, values: dict[str, float]) -> None:
    """Log where `self.log` is refused: to all loggers, at the step of the last optimizer step, and for callbacks."""
    metrics = {name: torch.tensor(value) for name, value in values.items()}
    _private.add_callback_metrics(trainer, metrics)
    if not trainer.barebones:
        _private.logger_connector(trainer).log_metrics(metrics, step=max(0, trainer.global_step - 1))


def writes_logs_now(trainer: Trainer) -> bool:
    """Whether Lightning will write the step-level values of this batch; logging them at other steps is waste."""
    return _private.logger_connector(trainer).should_update_logs or bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
