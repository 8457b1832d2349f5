"""One progress bar for a whole comparison."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_gap.recipes.first_process import is_first_process


def progress_bar() -> Progress:
    """A bar that counts epochs and shows the training loss; draws nothing where the output is no terminal.

    It advances inside epochs too, which a deep network on a CPU takes minutes for.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f} of {task.total} epochs"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        transient=True,
        disable=not is_first_process(),
    )


class EpochProgress(Callback):
    """Advance the bar, and keep the last epoch and the time that fit took, over interruptions too.

    Args:
        bar: The bar.
        description: Names the run.
    """

    def __init__(self, bar: Progress, description: str) -> None:
        self.bar = bar
        self.description = description
        self.last_epoch: int | None = None  # in which a batch was trained on
        self.earlier = 0.0
        self.started = 0.0

    @property
    def seconds(self) -> float:
        """Wall time of fit up to now, interrupted parts included as far as their checkpoints go."""
        return self.earlier + time.perf_counter() - self.started

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.earlier = state_dict["seconds"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.started = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.current_epoch
        self.task = self.bar.add_task(self.description, total=trainer.max_epochs, completed=done, loss="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.last_epoch = trainer.current_epoch
        self.bar.update(self.task, completed=trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = trainer.callback_metrics.get("train/loss")  # of the epoch before
        self.bar.update(self.task, loss="" if loss is None else f"train loss {float(loss):.4f}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.remove_task(self.task)
