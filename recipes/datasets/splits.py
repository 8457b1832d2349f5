"""What a data set gives a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lightning_gap.recipes.datasets.folder import FolderImages
from lightning_gap.recipes.datasets.samples import Images, Samples


@dataclass(frozen=True)
class Splits:
    """A data set: samples to train on and samples to test with, touched once, at the end.

    Attributes:
        train: Training samples, in memory or in a folder of files.
        test: The test samples.
        num_classes: Targets are from 0 to ``num_classes - 1``.
        mirrored: Whether an image turned left to right is one of its class: an object is, a digit is not.
        note: What every table and log says of the data set, for instance that it stands in for another.
    """

    train: Samples | FolderImages
    test: Samples | FolderImages
    num_classes: int
    mirrored: bool = False
    note: str = ""

    def standardised(self) -> Splits:
        """The same images, each channel with mean 0 and deviation 1 over the training split.

        Raises:
            ValueError: If the samples are not images in memory: speech and ImageNet come standardised.
        """
        if not isinstance(self.train, Images) or not isinstance(self.test, Images):
            raise ValueError("standardise=True is for images in memory; this data set comes standardised, leave it out")
        statistics = self.train.channel_statistics()
        return replace(self, train=self.train.standardised(*statistics), test=self.test.standardised(*statistics))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input of the network."""
        shape: tuple[int, ...] = self.train.input_shape
        return shape
