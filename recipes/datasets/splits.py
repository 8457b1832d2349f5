"""The data module of every set that fits in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lightning_gap import InMemoryLoader

Samples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Splits:
    """A data set: inputs (N, ...) float32 and targets (N,) int64, for training and for testing."""

    train: Samples
    test: Samples
    num_classes: int


class InMemoryData(LightningDataModule):
    """Serve a data set from memory as ready batches.

    A run that is resumed, also inside an epoch, goes on with the samples and the random numbers that would have come.

    Args:
        splits: The samples.
        batch_size: Samples per training batch and process. May be set between epochs, as `BatchSizeScheduler` does.
        validation_size: Samples held out of the training split, drawn with seed 0 whatever ``seed`` is, so that all
            trials train on the same samples. 0 holds out none.
        seed: Seed of the training order.

    Raises:
        ValueError: If ``validation_size`` leaves nothing to train on, or ``batch_size`` exceeds the training samples.
    """

    def __init__(self, splits: Splits, *, batch_size: int, validation_size: int = 0, seed: int = 0) -> None:
        super().__init__()
        inputs, targets = splits.train
        if not 0 <= validation_size < len(targets):
            raise ValueError(f"validation_size must be from 0 to {len(targets) - 1}, got {validation_size}")
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
        held_out, kept = order[:validation_size], order[validation_size:].sort().values
        if not 1 <= batch_size <= len(kept):
            raise ValueError(f"batch_size must be from 1 to the {len(kept)} training samples, got {batch_size}")
        self.train: Samples = (inputs[kept], targets[kept]) if validation_size else splits.train
        self.validation: Samples = (inputs[held_out], targets[held_out])
        self.test: Samples = splits.test
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> InMemoryLoader:
        """Batches in an order of its own each epoch."""
        return InMemoryLoader(self.train, batch_size=self.batch_size, shuffle=True, seed=self.seed, reseed=True)

    def val_dataloader(self) -> InMemoryLoader | list[InMemoryLoader]:
        """The held-out samples; an empty list where there are none."""
        return InMemoryLoader(self.validation, batch_size=1000) if len(self.validation[1]) else []
