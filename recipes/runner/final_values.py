"""What a run's final weights measure, as scalars of its logs, and with its settings in TensorBoard's HParams tab."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ..recipe import Recipe
from .run_result import RunResult


def log_final_values(trainer: Trainer, logs: Path, recipe: Recipe, result: RunResult) -> None:
    """Write them to every logger of a run that is over, at its last epoch.

    Args:
        trainer: Of the run, in the process that writes.
        logs: Folder of the logger that the runner made, if it is among those of the Trainer.
        recipe: What was trained.
        result: What came of it.
    """
    values, settings = final_values(result), settings_of_run(recipe, result)
    for logger in trainer.loggers:
        try:
            if isinstance(logger, TensorBoardLogger) and Path(logger.log_dir) == logs:
                _to_tensorboard(logs, settings, values, result.epochs)
            else:
                logger.log_metrics(values, result.epochs)
                logger.save()
        except Exception as error:  # noqa: PERF203 - a user's logger may be closed by now
            warnings.warn(f"{type(logger).__name__} did not take the final values: {error}", stacklevel=1)


def final_values(result: RunResult) -> dict[str, float]:
    """By the key that they are logged under.

    Args:
        result: Of a run.
    """
    names = ("test_accuracy", "train_accuracy", "test_loss")  # the first five have a column to begin with
    values = {f"final/{name}": float(getattr(result, name)) for name in names}
    values |= {f"final/sharpness_eps{name}": percent for name, percent in result.sharpness.items()}
    values |= {"final/distance_from_init": result.distance, "final/train_loss": result.train_loss}
    return values | {f"final/sharpness_batch_eps{name}": percent for name, percent in result.sharpness_batch.items()}


def settings_of_run(recipe: Recipe, result: RunResult) -> dict[str, Any]:
    """What tells runs apart: so few columns that those of the final values can be seen beside them.

    Args:
        recipe: What was trained.
        result: What was seen of it.
    """
    seen = {"batch_size": result.batch_size, "steps": result.steps, "learning_rate": result.learning_rate}
    return {"regime": recipe.regime, **seen}


def _to_tensorboard(logs: Path, settings: dict[str, Any], values: dict[str, float], epochs: int) -> None:
    with SummaryWriter(str(logs)) as writer:  # that of the fit is closed
        for summary in hparams(settings, values):  # type: ignore[no-untyped-call]
            writer.file_writer.add_summary(summary)
        for key, value in values.items():
            writer.add_scalar(key, value, epochs)
