"""Weights that a run keeps along the way, for what is measured of it afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from ..recipe import Recipe
from .whole_files import save_whole


def kept_weights(folder: Path, epoch: int) -> Path:
    """The file of the network's `state_dict` after an epoch, and the steps up to there; epoch 0 is before the first."""
    return folder / f"weights-{epoch}.pt"


class KeepWeights(Callback):
    """Keep a recipe's network after chosen epochs, all or nothing.

    Args:
        folder: Of the run.
        epochs: Numbers of epochs done, 0 for the initial weights.
    """

    def __init__(self, folder: Path, epochs: Iterable[int]) -> None:
        self.folder, self.epochs = folder, frozenset(epochs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._keep(trainer, pl_module, 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(trainer, pl_module, trainer.current_epoch + 1)

    def _keep(self, trainer: Trainer, recipe: LightningModule, epoch: int) -> None:
        if epoch not in self.epochs or not trainer.is_global_zero:
            return
        assert isinstance(recipe, Recipe)
        content = {"network": recipe.network.state_dict(), "step": trainer.global_step}
        save_whole(content, kept_weights(self.folder, epoch))
