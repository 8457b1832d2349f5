"""The data module of every set that fits in memory."""

from __future__ import annotations

from collections.abc import Iterator

from lightning.pytorch import LightningDataModule

from lightning_gap import InMemoryLoader
from lightning_gap.data import Augmentation
from lightning_gap.recipes.datasets.drawn import at_most, split_for_training
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
        self._all = splits.train
        self._kept, self._held_out = split_for_training(splits.train, validation_size, batch_size)
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
        measured: Samples = at_most(getattr(self, split), samples)
        yield from measured.chunks(chunk)

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
