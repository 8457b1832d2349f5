"""The data module of images in a folder of files."""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_gap.data import ResumableLoader

from .data_module import ClassificationData
from .folder import FolderImages
from .subsets import at_most

_EVALUATED_AT_ONCE = 250  # images in a validation batch


class FolderData(ClassificationData[FolderImages]):
    """Serve images from a folder, read by worker processes.

    Arguments and attributes are those of `ClassificationData`; ``augmentation`` is "none" or "scale-crop", see
    `FolderImages.augmented`.
    """

    def setup(self, stage: str | None = None) -> None:
        """As in `ClassificationData`.

        Raises:
            ValueError: Also if ``augmentation`` is one of images in memory.
        """
        if self.augmentation not in ("scale-crop", "none"):
            raise ValueError(
                f"augmentation of images in files must be 'scale-crop' or 'none', got {self.augmentation!r}"
            )
        super().setup(stage)

    def evaluation(self, split: str, chunk: int, most: int | None = None) -> DataLoader[tuple[Tensor, int]]:
        """As in `ClassificationData`; the batches can be gone through again, and the files are read each time."""
        measured: FolderImages = at_most(getattr(self, split), most)
        # A generator of its own, because making an iterator draws from it.
        return DataLoader(
            measured,
            batch_size=chunk,
            num_workers=self.workers,
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

    def in_order(self, samples: FolderImages) -> ResumableLoader:
        return self._loader(samples, _EVALUATED_AT_ONCE, training=False)

    def _loader(self, images: FolderImages, batch_size: int, *, training: bool) -> ResumableLoader:
        return ResumableLoader(
            images,
            batch_size=batch_size,
            shuffle=training,
            seed=self.seed,
            reseed=training,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def workers(self) -> int:
        """Processes that read images."""
        if self.num_workers is not None:
            return self.num_workers
        mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(8, mine)
