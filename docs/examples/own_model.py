"""A LightningModule of one's own on scikit-learn's digits: what is its gap, and which regime brings it back?

python docs/examples/own_model.py [folder]      # needs lightning-gap[recipes]
lightning-gap doctor results/mine
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gap.recipes import compare

IMAGES, LABELS = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
EVERYTHING = TensorDataset(IMAGES.float() / 16, LABELS)
TRAIN, TEST = torch.utils.data.random_split(EVERYTHING, [1280, 517], generator=torch.Generator().manual_seed(0))


class Mine(LightningModule):
    """Two layers with BatchNorm; nothing in it knows of this package."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs
        self.net = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)]


def make_data(batch_size: int) -> Any:
    return DataLoader(TRAIN, batch_size, shuffle=True), None, DataLoader(TEST, 517)


def main(folder: str = "results/mine", seeds: int | Sequence[int] = 5, epochs: int = 10) -> Any:
    found = compare(
        Mine,
        make_data,
        ["small", "large", "linear-lr", "ghost", "ghost-lr", "longer"],
        small_batch_size=32,
        large_batch_size=320,
        epochs=epochs,
        metric="test_accuracy",
        seeds=seeds,
        folder=folder,
        name="Mine on digits",
    )
    print(found)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)  # a network as small as this one waits longer for a second thread than it gains
    main(*sys.argv[1:])
