"""The one LightningModule of all recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_gap.recipes.epoch_means import EpochMeans
from lightning_gap.recipes.optimizers import optimizer_of
from lightning_gap.recipes.recipe import Numbers

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Train a network with mean cross-entropy, under the numbers and callbacks of its regime.

    Logs ``train/`` and ``validation/`` ``loss`` and ``accuracy`` once an epoch, against the epoch and not
    the step: runs with different batch sizes then share an axis in TensorBoard.

    Args:
        network: Gives class scores (N, C) for inputs (N, ...).
        numbers: Optimizer, rate and its steps, momentum and decay.
        callbacks: Added to the Trainer's own when fit starts.
    """

    def __init__(self, network: nn.Module, numbers: Numbers, callbacks: Sequence[Callback] = ()) -> None:
        super().__init__()
        self.network = network
        self.numbers = numbers
        self.callbacks = tuple(callbacks)
        self.train_means, self.validation_means = EpochMeans(), EpochMeans()

    def configure_callbacks(self) -> list[Callback]:
        return list(self.callbacks)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer: Optimizer = optimizer_of(self.numbers, self.network)
        if not self.numbers.learning_rate_steps:
            return optimizer
        return [optimizer], [LambdaLR(optimizer, self.numbers.learning_rate_factor)]

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores (N, C)."""
        scores: Tensor = self.network(inputs)
        return scores

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._loss(batch, self.train_means)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._loss(batch, self.validation_means)

    def on_train_epoch_end(self) -> None:
        self._tell("train", self.train_means)

    def on_validation_epoch_end(self) -> None:
        self._tell("validation", self.validation_means)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what all processes have of the epoch: resumed in its middle, it tells the means of the whole."""
        sums = self.train_means.sums.detach().clone()
        checkpoint["train_means"] = self.trainer.strategy.reduce(sums, reduce_op="sum")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "train_means" in checkpoint and self.global_rank == 0:  # which then has it for all
            self.train_means.sums.copy_(checkpoint["train_means"])

    def _loss(self, batch: Batch, means: EpochMeans) -> Tensor:
        inputs, targets = batch
        scores = self(inputs)
        loss = cross_entropy(scores, targets)
        means.update(loss, scores, targets)
        return loss

    def _tell(self, split: str, means: EpochMeans) -> None:
        loss, accuracy = means.compute()
        means.reset()
        self.log_dict({f"{split}/loss": loss, f"{split}/accuracy": accuracy})
        self.log("step", float(self.current_epoch + 1))  # Lightning takes a value of this name as the x of its call
