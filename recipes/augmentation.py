"""How training images are varied, by name."""

from __future__ import annotations

from collections.abc import Callable

from lightning_gap.data import Augmentation, Augmentations, RandomAffine, RandomCrop, RandomFlip, RandomResizedCrop
from lightning_gap.recipes.datasets import Splits


def none() -> None:
    """The images as they are."""


def crop_flip() -> Augmentation:
    """Four pixels of padding, a random crop, flips (He et al. 2016; Hoffer et al. 2017)."""
    return RandomCrop(padding=4)


def affine() -> Augmentation:
    """Rotations to 10 degrees, shifts to 0.2 of the size, flips (Keskar et al. 2017)."""
    return RandomAffine(degrees=10, shift=0.2)


def scale_crop() -> Augmentation:
    """Crops of random scale and aspect, flips (Goyal et al. 2017)."""
    return RandomResizedCrop()


AUGMENTATIONS: dict[str, Callable[[], Augmentation | None]] = {
    "none": none,
    "crop-flip": crop_flip,
    "affine": affine,
    "scale-crop": scale_crop,
}


def make_augmentation(name: str, splits: Splits) -> Augmentation | None:
    """The augmentation of this name for a data set; without the flips where a mirror image is of no class.

    Raises:
        ValueError: If the samples are no images.
    """
    found = AUGMENTATIONS[name]()
    if found is None:
        return None
    if len(splits.input_shape) != 3:
        raise ValueError(
            f"augmentation={name!r} is for images (C, H, W), and this data set has inputs of shape "
            f"{splits.input_shape}; use none"
        )
    return Augmentations(found, RandomFlip()) if splits.mirrored else Augmentations(found)
