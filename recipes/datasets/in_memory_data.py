"""The data module of every set that fits in memory."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_gap.data import InMemoryLoader

from .augmentations import make_augmentation
from .data_module import ClassificationData
from .samples import Batch, Images, Samples
from .subsets import at_most


class InMemoryData(ClassificationData[Samples]):
    """Serve a data set from memory as ready batches, made on the device that the Trainer trains on.

    Arguments and attributes are those of `ClassificationData`.
    """

    def setup(self, stage: str | None = None) -> None:
        """As in `ClassificationData`; then move the training samples to the Trainer's device."""
        super().setup(stage)
        self.augment = make_augmentation(self.augmentation, self.input_shape, mirrored=self.mirrored)
        if self.trainer is not None and self._all is not None:
            self._all = self._all.to(self.trainer.strategy.root_device)
            self._split()

    def standardised(self, train: Samples, test: Samples) -> tuple[Samples, Samples]:
        """Both splits, each channel with mean 0 and standard deviation 1 over the training images."""
        if not isinstance(train, Images) or not isinstance(test, Images):
            return super().standardised(train, test)
        statistics = train.channel_statistics()
        return train.standardised(*statistics), test.standardised(*statistics)

    def evaluation(self, split: str, chunk: int, most: int | None = None) -> Iterator[Batch]:
        """As in `ClassificationData`."""
        measured: Samples = at_most(getattr(self, split), most)
        yield from measured.chunks(chunk)

    def train_dataloader(self) -> InMemoryLoader:
        """Batches in an order of its own each epoch."""
        return InMemoryLoader(
            self.train, batch_size=self.batch_size, shuffle=True, seed=self.seed, reseed=True, augment=self.augment
        )

    def in_order(self, samples: Samples) -> InMemoryLoader:
        return InMemoryLoader(samples, batch_size=1000)
