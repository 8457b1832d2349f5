"""How training images are varied, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import lightning_gap  # not its data, which is imported when it is first used: a list of the names needs no torch

if TYPE_CHECKING:
    from lightning_gap.data import Augmentation


def none() -> None:
    """The images as they are."""


def crop_flip() -> Augmentation:
    """Four pixels of padding, a random crop, flips (He et al. 2016; Hoffer et al. 2017)."""
    return lightning_gap.data.RandomCrop(padding=4)


def affine() -> Augmentation:
    """Rotations to 10 degrees, shifts to 0.2 of the size, flips (Keskar et al. 2017)."""
    return lightning_gap.data.RandomAffine(degrees=10, shift=0.2)


def scale_crop() -> Augmentation:
    """Crops of random scale and aspect, flips (Goyal et al. 2017)."""
    return lightning_gap.data.RandomResizedCrop()


AUGMENTATIONS: dict[str, Callable[[], Augmentation | None]] = {
    "none": none,
    "crop-flip": crop_flip,
    "affine": affine,
    "scale-crop": scale_crop,
}


def make_augmentation(name: str, input_shape: tuple[int, ...], *, mirrored: bool) -> Augmentation | None:
    """The augmentation of this name for a data set.

    Args:
        name: One of `AUGMENTATIONS`.
        input_shape: Shape of one input.
        mirrored: Whether a mirror image is of the same class; the flips are left out if not.

    Raises:
        ValueError: If the samples are no images.
    """
    found = AUGMENTATIONS[name]()
    if found is None:
        return None
    if len(input_shape) != 3:
        raise ValueError(
            f"augmentation={name!r} is for images (C, H, W), and this data set has inputs of shape {input_shape}; use "
            "'none'"
        )
    return lightning_gap.data.Augmentations(found, *[lightning_gap.data.RandomFlip()] * mirrored)
