"""The data module of every set that fits in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lightning.pytorch import LightningDataModule

from lightning_gap import InMemoryLoader
from lightning_gap.data import Augmentation
from lightning_gap.recipes.datasets.samples import Batch, Samples
from lightning_gap.recipes.datasets.splits import Splits


class InMemoryData(LightningDataModule):
    """Serve a data set from memory as ready batches, on the device that the Trainer trains on.

    A run that is resumed, also inside an epoch, goes on with the samples and the random numbers that would have come.

    Args:
        splits: The samples, `Samples` in memory.
        batch_size: Samples per training batch and process. May be set between epochs, as `BatchSizeScheduler` does.
        validation_size: Samples held out of the training split, drawn with seed 0 whatever ``seed`` is, so that all
            trials train on the same samples; of speech, whole utterances with at least so many frames. 0 holds out
            none.
        seed: Seed of the training order and of the augmentation.
        augmentation: Varies the training inputs; evaluation and monitors see them as they are.

    Raises:
        ValueError: If ``validation_size`` leaves nothing to train on, or ``batch_size`` exceeds the training samples.
    """

    train: Samples
    validation: Samples
    test: Samples

    def __init__(
        self,
        splits: Splits,
        *,
        batch_size: int,
        validation_size: int = 0,
        seed: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        assert isinstance(splits.train, Samples)
        assert isinstance(splits.test, Samples)
        samples = len(splits.train)
        if not 0 <= validation_size < samples:
            raise ValueError(f"validation_size must be from 0 to {samples - 1}, got {validation_size}")
        kept, held_out = splits.train.split_off(validation_size)
        if not 1 <= batch_size <= len(kept):
            raise ValueError(f"batch_size must be from 1 to the {len(kept)} training samples, got {batch_size}")
        self._all, self._kept, self._held_out = splits.train, kept, held_out
        self._share_out()
        self.test = splits.test
        self.batch_size = batch_size
        self.seed = seed
        self.augmentation = augmentation

    def setup(self, stage: str) -> None:
        """Move the training samples to the device: a batch is then made where it is used."""
        if self.trainer is not None:
            self._all = self._all.to(self.trainer.strategy.root_device)
            self._share_out()

    def _share_out(self) -> None:
        self.train, self.validation = self._all.only(self._kept), self._all.only(self._held_out)

    def evaluation(self, split: str, chunk: int, samples: int | None = None) -> Iterator[Batch]:
        """Samples of a split ("train", "validation", "test") in order and as they are, for this process alone.

        Args:
            split: Which.
            chunk: Samples in a batch.
            samples: At most so many, drawn with seed 0; all by default.
        """
        whole: Samples = getattr(self, split)
        if samples is not None and samples < len(whole):
            order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
            whole = whole.only(order[:samples].sort().values)
        yield from whole.chunks(chunk)

    def train_dataloader(self) -> InMemoryLoader:
        """Batches in an order of its own each epoch."""
        return InMemoryLoader(
            self.train,
            batch_size=self.batch_size,
            shuffle=True,
            seed=self.seed,
            reseed=True,
            augment=self.augmentation,
        )

    def val_dataloader(self) -> InMemoryLoader | list[InMemoryLoader]:
        """The held-out samples; an empty list where there are none."""
        return InMemoryLoader(self.validation, batch_size=1000) if len(self.validation) else []
