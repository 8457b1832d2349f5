"""The data module of images in a folder of files."""

from __future__ import annotations

import os

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_gap import ResumableLoader
from lightning_gap.recipes.datasets.drawn import at_most, split_for_training
from lightning_gap.recipes.datasets.folder import FolderImages
from lightning_gap.recipes.datasets.splits import Splits

_EVALUATED_AT_ONCE = 250  # images in a validation batch


class FolderData(LightningDataModule):
    """Serve images from a folder, read by worker processes.

    A run that is resumed, also inside an epoch, goes on with the images as they would have looked and the random
    numbers that would have come.

    Args:
        splits: The images, `FolderImages`.
        batch_size: Images per training batch and process. May be set between epochs, as `BatchSizeScheduler` does.
        validation_size: Images held out of the training split, drawn with seed 0 whatever ``seed`` is, so that all
            trials train on the same images. 0 holds out none.
        seed: Seed of the training order and of the augmentation.
        augmentation: "scale-crop", see `FolderImages.augmented`, or "none". Evaluation and monitors see the images
            without it.
        num_workers: Processes that read images, for each process that trains. By default one for each CPU core, at
            most 8.

    Raises:
        ValueError: If ``augmentation`` is another, ``validation_size`` leaves nothing to train on, or ``batch_size``
            exceeds the training images.
    """

    train: FolderImages
    validation: FolderImages
    test: FolderImages

    def __init__(
        self,
        splits: Splits,
        *,
        batch_size: int,
        validation_size: int = 0,
        seed: int = 0,
        augmentation: str = "scale-crop",
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        assert isinstance(splits.train, FolderImages)
        assert isinstance(splits.test, FolderImages)
        if augmentation not in ("scale-crop", "none"):
            raise ValueError(f"augmentation of images in files must be 'scale-crop' or 'none', got {augmentation!r}")
        kept, held_out = split_for_training(splits.train, validation_size, batch_size)
        self.train, self.validation = splits.train.only(kept), splits.train.only(held_out)
        self.test = splits.test
        self.batch_size = batch_size
        self.seed = seed
        self.augmentation = augmentation
        self.num_workers = _cores() if num_workers is None else num_workers

    def evaluation(self, split: str, chunk: int, samples: int | None = None) -> DataLoader[tuple[Tensor, int]]:
        """Images of a split ("train", "validation", "test") in order and as they are, for this process alone.

        Args:
            split: Which.
            chunk: Images in a batch.
            samples: At most so many, drawn with seed 0; all by default.

        Returns:
            Batches that can be gone through as often as needed; the files are read each time.
        """
        measured: FolderImages = at_most(getattr(self, split), samples)
        # A generator of its own, because making an iterator draws from it.
        return DataLoader(
            measured,
            batch_size=chunk,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )

    def train_dataloader(self) -> ResumableLoader:
        """Batches in an order of its own each epoch."""
        loader = self._loader(
            self.train if self.augmentation == "none" else self.train.augmented(), self.batch_size, training=True
        )
        loader.dataset = self.train  # where monitors draw their samples from, which are to look the same each time
        return loader

    def val_dataloader(self) -> ResumableLoader | list[ResumableLoader]:
        """The held-out images; an empty list where there are none."""
        if len(self.validation) == 0:
            return []
        return self._loader(self.validation, _EVALUATED_AT_ONCE, training=False)

    def _loader(self, images: FolderImages, batch_size: int, *, training: bool) -> ResumableLoader:
        return ResumableLoader(
            images,
            batch_size=batch_size,
            shuffle=training,
            seed=self.seed,
            reseed=training,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )


def _cores() -> int:
    """Worker processes that this machine lets run at once, at most 8."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, mine)
