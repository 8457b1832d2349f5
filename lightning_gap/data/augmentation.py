"""Random augmentation of a batch of images at once, as a pure function of given random numbers.

Nothing here draws: the numbers of each sample come in with it, and the result for one sample depends on its pixels
and its numbers alone, whatever else is in the batch. All work is on the device of the images, without waiting for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..functional._validation import each, real_number, refusal, set_plain, whole_number
from ._resampling import TRIES, bilinear, exact, positions, stretched, turned

_VALUES_AT_A_TIME = 2**20  # on the CPU, of a chain: what stays in the cache between two parts is changed twice as fast


@runtime_checkable
class Augmentation(Protocol):
    """What a loader can apply: any function of images and random numbers that says how many of these it needs."""

    @property
    def numbers_per_sample(self) -> int:
        """Random numbers, uniform from 0 to below 1, that one sample needs."""

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return floating-point ``images`` (N, C, H, W) changed by ``numbers`` (N, numbers_per_sample), float32."""


@dataclass(frozen=True, init=False)
class Augmentations:
    """Several augmentations, one after another, each with numbers of its own.

    Args:
        *parts: The augmentations; the first is applied first.

    Raises:
        TypeError: If a part is not an augmentation.

    Example:
        >>> crop_and_flip = Augmentations(RandomCrop(padding=4), RandomFlip())
        >>> crop_and_flip.numbers_per_sample
        3
        >>> crop_and_flip(torch.rand(8, 3, 32, 32), torch.rand(8, 3)).shape
        torch.Size([8, 3, 32, 32])
    """

    parts: tuple[Augmentation, ...]

    def __init__(self, *parts: Augmentation) -> None:
        for part in parts:
            if isinstance(part, type) or not isinstance(part, Augmentation):
                raise TypeError(f"parts must be augmentations, for instance RandomFlip(), got {part!r}")
        object.__setattr__(self, "parts", parts)

    @property
    def numbers_per_sample(self) -> int:
        return sum(part.numbers_per_sample for part in self.parts)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        _check(images, numbers, self.numbers_per_sample)
        size = max(1, _VALUES_AT_A_TIME // max(1, math.prod(images.shape[1:])))
        if len(images) <= size or images.device.type != "cpu":
            return self._apply(images, numbers)
        changed = images
        for start in range(0, len(images), size):
            piece = self._apply(images[start : start + size], numbers[start : start + size])
            changed = piece.new_empty(len(images), *piece.shape[1:]) if start == 0 else changed
            changed[start : start + size] = piece
        return changed

    def _apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        for part in self.parts:
            images = part(images, numbers[:, : part.numbers_per_sample])
            numbers = numbers[:, part.numbers_per_sample :]
        return images


@dataclass(frozen=True)
class RandomFlip:
    """Mirror an image left to right with a given probability; one number per sample.

    Args:
        probability: Share of the images to mirror, from 0 to 1.

    Raises:
        ValueError: If ``probability`` is not such a number, or the images or numbers have another shape.

    Example:
        >>> RandomFlip()(torch.arange(3.0).expand(2, 1, 1, 3), torch.tensor([[0.4], [0.6]])).flatten(1)
        tensor([[2., 1., 0.], [0., 1., 2.]])
    """

    probability: float = 0.5
    numbers_per_sample: ClassVar[int] = 1

    def __post_init__(self) -> None:
        set_plain(self, probability=real_number("probability", self.probability, at_least=0, at_most=1))

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        _check(images, numbers, self.numbers_per_sample)
        columns = torch.arange(images.shape[3], device=images.device)
        columns = torch.where(exact(numbers) < self.probability, columns.flip(0), columns)  # (N, W)
        return images.gather(3, columns[:, None, None].expand_as(images))


@dataclass(frozen=True)
class RandomCrop:
    """Surround an image by zeros and cut one of the same size out of it; two numbers per sample.

    Every position is equally likely. Zero is the mean colour of images that were normalised before.

    Args:
        padding: Rows and columns of zeros on each side, in pixels.

    Raises:
        ValueError: If ``padding`` is not a whole number of at least 0, or the images or numbers have another shape.

    Example:
        >>> RandomCrop(padding=1)(torch.ones(1, 1, 2, 2), torch.tensor([[0.0, 0.5]]))
        tensor([[[[0., 0.], [1., 1.]]]])

    Reference:
        He et al. (2016), section 4.2; Hoffer et al. (2017).
    """

    padding: int = 4
    numbers_per_sample: ClassVar[int] = 2

    def __post_init__(self) -> None:
        set_plain(self, padding=whole_number("padding", self.padding, 0, unit="pixels"))

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        _check(images, numbers, self.numbers_per_sample)
        samples, channels, height, width = images.shape
        margin = 2 * self.padding
        padded = images.new_zeros(samples, channels, height + margin, width + margin)
        padded[:, :, self.padding : self.padding + height, self.padding : self.padding + width] = images
        # A crop is the same strided view wherever it starts, so cropping is the choice of one index per sample.
        each, channel, row, _ = padded.stride()
        top, left = positions(numbers, margin + 1).unbind(1)
        starts = torch.arange(samples, device=images.device) * each + top * row + left
        last = (samples - 1) * each + margin * row + margin
        crops = padded.as_strided((max(last + 1, 0), channels, height, width), (1, channel, row, 1))
        return crops.index_select(0, starts)


@dataclass(frozen=True)
class RandomAffine:
    """Turn an image about its centre and shift it, bilinearly and with zeros outside; three numbers per sample.

    Angle and shifts are uniform. As torchvision draws them, shifts are rounded to whole pixels, halves to even.

    Args:
        degrees: Largest angle, either way, up to 180.
        shift: Largest shift along each axis, either way, as a part of the image's size, up to 1.

    Raises:
        ValueError: If an argument is not such a number, or the images or numbers have another shape.

    Example:
        >>> RandomAffine(degrees=0, shift=0.5)(torch.ones(1, 1, 2, 2), torch.tensor([[0.5, 0.0, 0.5]]))
        tensor([[[[1., 0.], [1., 0.]]]])

    Reference:
        Keskar et al. (2017), section 4 and appendix E, with flips; how the paper fills and interpolates is not known.
    """

    degrees: float = 10.0
    shift: float = 0.2
    numbers_per_sample: ClassVar[int] = 3

    def __post_init__(self) -> None:
        set_plain(
            self,
            degrees=real_number("degrees", self.degrees, at_least=0, at_most=180),
            shift=real_number("shift", self.shift, at_least=0, at_most=1),
        )

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        _check(images, numbers, self.numbers_per_sample)
        x, y = turned(numbers, images, degrees=self.degrees, shift=self.shift)
        return bilinear(images, x, y).to(images.dtype)


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut a rectangle of random area and shape out of an image and stretch it to the image's size; 22 numbers a sample.

    Area and the logarithm of width over height are uniform; of ten tries the first that fits is taken, else the
    largest central rectangle of a shape allowed. Bilinear without smoothing, as torchvision's with ``antialias=False``.

    Args:
        scale: Least and largest area, as a part of the image's.
        ratio: Least and largest width over height.

    Raises:
        ValueError: If an argument is not such a pair, or the images or numbers have another shape.

    Example:
        >>> RandomResizedCrop(scale=(0.25, 0.25), ratio=(1.0, 1.0))(torch.rand(1, 3, 8, 8), torch.rand(1, 22)).shape
        torch.Size([1, 3, 8, 8])

    Reference:
        Szegedy et al. (2015), section 6; Goyal et al. (2017), section 5.1.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    numbers_per_sample: ClassVar[int] = 2 * TRIES + 2

    def __post_init__(self) -> None:
        set_plain(self, scale=_checked_pair("scale", self.scale, most=1), ratio=_checked_pair("ratio", self.ratio))

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        _check(images, numbers, self.numbers_per_sample)
        x, y = stretched(numbers, images, scale=self.scale, ratio=self.ratio)
        return bilinear(images, x, y).to(images.dtype)


def _check(images: Tensor, numbers: Tensor, needed: int) -> None:
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(
            f"images must be floating-point numbers of shape (N, C, H, W), got {images.dtype} of shape "
            f"{tuple(images.shape)}; add the missing dimensions, or convert them"
        )
    if numbers.shape != (len(images), needed):
        expected = f"shape ({len(images)}, {needed}), numbers_per_sample for each image"
        raise ValueError(f"numbers must have {expected}, got {tuple(numbers.shape)}")


def _checked_pair(name: str, pair: tuple[float, float], most: float | None = None) -> tuple[float, ...]:
    numbers = tuple(each(name, pair, lambda name, value: real_number(name, value, above=0, at_most=most)))
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise ValueError(refusal(name, "must be two numbers, the smaller first", pair))
    return numbers
