"""The one LightningModule of all recipes."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.functional.classification import multiclass_accuracy

from lightning_gap.recipes.optimizers import make_optimizer
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

    def configure_callbacks(self) -> list[Callback]:
        return list(self.callbacks)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        numbers = self.numbers
        optimizer: Optimizer = make_optimizer(
            numbers.optimizer,
            self.network,
            learning_rate=numbers.learning_rate,
            momentum=numbers.momentum,
            weight_decay=numbers.weight_decay,
            decay_all=numbers.decay_all,
        )
        if not numbers.learning_rate_steps:
            return optimizer
        return [optimizer], [LambdaLR(optimizer, numbers.learning_rate_factor)]

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores (N, C)."""
        scores: Tensor = self.network(inputs)
        return scores

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._loss(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._loss(batch, "validation")

    def on_train_epoch_end(self) -> None:
        self._use_epoch_as_axis()

    def on_validation_epoch_end(self) -> None:
        self._use_epoch_as_axis()

    def _loss(self, batch: Batch, split: str) -> Tensor:
        inputs, targets = batch
        scores = self(inputs)
        loss = cross_entropy(scores, targets)
        accuracy = multiclass_accuracy(scores, targets, num_classes=scores.shape[1], average="micro")
        self.log_dict({f"{split}/loss": loss, f"{split}/accuracy": accuracy}, on_step=False, on_epoch=True)
        return loss

    def _use_epoch_as_axis(self) -> None:
        self.log("step", float(self.current_epoch + 1))  # Lightning takes a value of this name as the x of its call
