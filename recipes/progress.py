"""One progress bar for a whole comparison."""

from __future__ import annotations

import time

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar() -> Progress:
    """A bar that counts epochs and shows the training loss; draws nothing where the output is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        transient=True,
    )


class EpochProgress(Callback):
    """Advance the bar by one each epoch, and keep the time that fit took, over interruptions too.

    Args:
        bar: The bar.
        description: Names the run.
    """

    def __init__(self, bar: Progress, description: str) -> None:
        self.bar = bar
        self.description = description
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

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = trainer.callback_metrics.get("train/loss")
        shown = "" if loss is None else f"train loss {float(loss):.4f}"
        self.bar.update(self.task, completed=trainer.current_epoch + 1, loss=shown)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.remove_task(self.task)
