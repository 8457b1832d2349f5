"""Images in a folder of files, read and cropped when they are asked for."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import v2

from .subsets import Subsettable

# Of ImageNet's training images, per colour, after division by 255.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FolderImages(Subsettable):
    """Images of a folder that has a folder for each class.

    An image is scaled so that its shorter side has ``resize`` pixels, its middle cut out and its colours standardised.
    `augmented` gives the same images for training, varied anew each time.

    Args:
        folder: Holds the folders of the classes; class numbers follow their names' order.
        crop: Pixels of each side of what the network gets.
        resize: Pixels of the shorter side before that.

    Attributes:
        classes: Names of the classes, in order.

    Raises:
        FileNotFoundError: If there is no class, or one without an image.
        ValueError: If ``crop`` is below 1 or exceeds ``resize``.
    """

    def __init__(self, folder: Path, *, crop: int = 224, resize: int = 256) -> None:
        if not 1 <= crop <= resize:
            raise ValueError(f"crop must be from 1 to the {resize} pixels of resize, got {crop}")
        if not any(entry.is_dir() for entry in folder.iterdir()):
            raise FileNotFoundError(
                f"{str(folder)!r} has no folders of classes; sort the images into one for each class, as "
                "torchvision.datasets.ImageNet does with the archives"
            )
        found = ImageFolder(folder, allow_empty=True)
        self.classes: list[str] = found.classes
        super().__init__(torch.tensor(found.targets, dtype=torch.int64))
        empty = (torch.bincount(self._targets, minlength=len(self.classes)) == 0).nonzero().flatten().tolist()
        if empty:
            os.listdir(folder / self.classes[empty[0]])  # an error if it may not be read
            raise FileNotFoundError(
                f"{str(folder / self.classes[empty[0]])!r} holds no image, {len(empty)} such folders in all; fill or "
                "remove it"
            )
        # One array of bytes, not a list: worker processes copy each page of a list as they count references to it.
        self._paths = np.array([os.fsencode(path) for path, _ in found.samples])
        self._crop = crop
        self._transform = v2.Compose([v2.Resize(resize), v2.CenterCrop(crop), *_to_standardised_tensor()])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return 3, self._crop, self._crop

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        held = index if self._indices is None else int(self._indices[index])
        path = os.fsdecode(self._paths[held])
        try:
            image = pil_loader(path)
        except Exception as error:  # of many types, because Pillow leaves the checking to what it calls
            raise ValueError(f"{path!r} cannot be read as an image ({error}); get it again or remove it") from error
        return self._transform(image), int(self._targets[held])

    def augmented(self) -> FolderImages:
        """The same images, each time a random part of random area and aspect, scaled to the crop and maybe mirrored.

        Draws from torch's global generator. Areas from 8 to 100 percent, aspects from 3/4 to 4/3.

        Reference: Goyal et al. (2017), section 5.1, after Szegedy et al. (2015).
        """
        varied = copy.copy(self)
        varied._transform = v2.Compose(
            [v2.RandomResizedCrop(self._crop), v2.RandomHorizontalFlip(), *_to_standardised_tensor()]
        )
        return varied


def _to_standardised_tensor() -> list[torch.nn.Module]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(_MEAN), list(_STD))]
