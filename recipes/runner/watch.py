"""What is seen of a run while it trains: its progress, its time, and the batch of every optimizer step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from torch.optim import Optimizer

from .step_curves import StepCurves
from .telling import Lines


def is_first_process() -> bool:
    """Whether this is the only process, or the first of several that train together."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def progress_bar(*, shown: bool = True) -> Progress:
    """A bar that counts epochs and shows the training loss; where the output is no terminal, `Watch` writes lines.

    It advances inside epochs too, which a deep network on a CPU takes minutes for.
    """
    return Progress(
        TextColumn("{task.description}", table_column=Column(overflow="fold")),  # names are wrapped, never cut
        BarColumn(),
        TextColumn("{task.fields[done]}", table_column=Column(overflow="fold")),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}", table_column=Column(overflow="fold")),
        transient=True,
        disable=not shown or not is_first_process(),
    )


class Watch(Callback):
    """Note what a run does, over interruptions too, and advance its bar.

    Args:
        bar: The bar.
        description: Names the run.

    Attributes:
        batch_sizes: Samples of the largest optimizer step of each epoch, over all processes and micro-batches: an
            epoch's last step may be smaller.
        learning_rate: Of the last optimizer step and the first parameter group, as callbacks have scaled it.
        trained: Whether a batch was trained on in this process.
    """

    def __init__(self, bar: Progress, description: str) -> None:
        self.bar = bar
        self.description = description
        self.batch_sizes: dict[int, int] = {}
        self.learning_rate = 0.0
        self.trained = False
        self._samples = 0  # of the micro-batches since the last step
        self._lines = Lines()
        self._earlier, self._started = 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Wall time of fit up to now, interrupted parts included as far as their checkpoints go."""
        return self._earlier + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "batch_sizes": self.batch_sizes, "learning_rate": self.learning_rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier = state_dict["seconds"]
        self.batch_sizes, self.learning_rate = dict(state_dict["batch_sizes"]), state_dict["learning_rate"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._started = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step, self._curves = trainer.global_step, StepCurves(trainer)
        # An optimizer's own hook comes before those by which callbacks take their factor back.
        self._handles = [first.register_step_post_hook(self._note_rate) for first in trainer.optimizers[:1]]
        done = trainer.current_epoch
        self.task = self.bar.add_task(self.description, total=trainer.max_epochs, completed=done, loss="", done="")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = trainer.callback_metrics.get("train/loss")  # of the epoch before
        self.bar.update(self.task, loss="" if loss is None else f"train loss {float(loss):.4f}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.trained = True
        self._samples += len(batch[1]) * trainer.world_size
        if trainer.global_step != self._step:
            epoch, self._step = trainer.current_epoch, trainer.global_step
            self.batch_sizes[epoch] = max(self._samples, self.batch_sizes.get(epoch, 0))
            self._samples = 0
            values = {"lr/effective": self.learning_rate, "batch/size": float(self.batch_sizes[epoch])}
            self._curves.see(self._step - 1, values, ends_epoch=trainer.is_last_batch)
        epochs = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        done = f"{epochs:.1f} of {trainer.max_epochs} epochs"
        self.bar.update(self.task, completed=epochs, done=done)
        self._tell(done)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for handle in self._handles:
            handle.remove()
        self.bar.remove_task(self.task)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Say that the final weights are measured, for as long as that takes."""
        task = self.bar.add_task(self.description, total=None, done="measuring the final weights", loss="")
        self._tell("measuring the final weights")
        try:
            yield
        finally:
            self.bar.remove_task(task)

    def _tell(self, done: str) -> None:
        if not self.bar.disable and not self.bar.console.is_terminal:
            self._lines.tell(f"{self.description}: {done}")

    def _note_rate(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.learning_rate = float(optimizer.param_groups[0]["lr"])
