"""Where the pixels of a batch come from, and what is there: the arithmetic of the augmentations.

Places are as `torch.nn.functional.grid_sample` has them: x to the right and y down, an image's outer edges at -1 and 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

TRIES = 10  # at a rectangle that fits, as in torchvision


def bilinear(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Images (N, C, H, W) at places whose x and y each broadcast to (N, H, W), with zeros outside; in the type of x."""
    samples, _, height, width = images.shape
    grid = x.new_empty(samples, 2, height, width)
    grid[:, 0], grid[:, 1] = x, y  # apart in memory: sampling takes either, and to interleave them is slow
    return F.grid_sample(images.to(x.dtype), grid.permute(0, 2, 3, 1), padding_mode="zeros", align_corners=False)


def turned(numbers: Tensor, images: Tensor, *, degrees: float, shift: float) -> tuple[Tensor, Tensor]:
    """Where pixels come from if images are turned about their centre, then shifted by whole pixels; x and y (N, H, W).

    Args:
        numbers: Uniform from 0 to below 1, (N, 3): angle, clockwise, and shift to the right and down.
        images: What is turned, (N, C, H, W).
        degrees: Largest angle.
        shift: Largest shift, as a part of the image's size.
    """
    # By hand: `torch.nn.functional.affine_grid` makes the same places in two to three times the time.
    height, width = images.shape[2:]
    angle, right, down = (2 * exact(numbers) - 1)[..., None, None].unbind(1)  # each (N, 1, 1)
    cos, sin = (angle * math.radians(degrees)).cos(), (angle * math.radians(degrees)).sin()
    # Seen from where the centre comes to lie; what is there was turned, so turn back.
    column = _from_centre(width, angle) - (right * (shift * width)).round()  # (N, 1, W)
    row = _from_centre(height, angle)[:, None] - (down * (shift * height)).round()  # (N, H, 1)
    dtype = _at_least_float32(images)
    x = (cos * column * (2 / width)).to(dtype) + (sin * row * (2 / width)).to(dtype)
    y = (cos * row * (2 / height)).to(dtype) - (sin * column * (2 / height)).to(dtype)
    return x, y


def stretched(
    numbers: Tensor, images: Tensor, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Where pixels come from if random rectangles are stretched to whole images; x (N, 1, W) and y (N, H, 1)."""
    height, width = images.shape[2:]
    top, left, heights, widths = rectangles(numbers, height, width, scale=scale, ratio=ratio)
    x, y = _stretched_axis(left, widths, width), _stretched_axis(top, heights, height)
    dtype = _at_least_float32(images)
    return x.to(dtype)[:, None, :], y.to(dtype)[:, :, None]


def rectangles(
    numbers: Tensor, height: int, width: int, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of a random rectangle in each image, in whole pixels, each (N, 1).

    Args:
        numbers: Uniform from 0 to below 1, (N, 2 * TRIES + 2): areas, ratios, and the place from the top and left.
        height: Of the images.
        width: Of the images.
        scale: Least and largest area, as a part of the image's.
        ratio: Least and largest width over height.
    """
    area, log_ratio = exact(numbers[:, :TRIES]), exact(numbers[:, TRIES : 2 * TRIES])
    area = (scale[0] + area * (scale[1] - scale[0])) * (height * width)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = (low + log_ratio * (high - low)).exp()
    widths, heights = (area * shape).sqrt().round(), (area / shape).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    # The largest central rectangle of an allowed ratio is one more try, which always fits.
    largest_width = min(width, max(1, round(height * ratio[1])))
    largest_height = min(height, max(1, round(width / ratio[0])))
    first = F.pad(fits.to(torch.uint8), (0, 1), value=1).argmax(1, keepdim=True)
    widths = F.pad(widths, (0, 1), value=largest_width).gather(1, first)
    heights = F.pad(heights, (0, 1), value=largest_height).gather(1, first)
    rows, columns = (height - heights).long(), (width - widths).long()  # that are left out
    central = first == TRIES
    top = torch.where(central, rows // 2, positions(numbers[:, -2:-1], rows + 1))
    left = torch.where(central, columns // 2, positions(numbers[:, -1:], columns + 1))
    return top, left, heights, widths


def positions(numbers: Tensor, count: int | Tensor) -> Tensor:
    """Whole numbers from 0 to below ``count``, equally likely; in integers, which nothing rounds to the next one."""
    return (numbers * 2**24).long() * count >> 24


def _stretched_axis(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where pixels of one axis come from, (N, size); beyond the middle of the outermost pixels these are repeated."""
    middle = (_from_centre(size, length) + size / 2) * (length / size) - 0.5
    return (start + middle.clamp(min=0).minimum(length - 1) + 0.5) * (2 / size) - 1


def _from_centre(size: int, like: Tensor) -> Tensor:
    """Where pixels lie along an axis, in pixels from its middle, shape (size,)."""
    return torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2


def exact(numbers: Tensor) -> Tensor:
    """In float64, so that what is rounded to pixels is rounded alike on every device; mps has none."""
    return numbers.to(torch.float32 if numbers.device.type == "mps" else torch.float64)


def _at_least_float32(images: Tensor) -> torch.dtype:
    """The type for places: in half precision they would be off by parts of a pixel."""
    return torch.promote_types(images.dtype, torch.float32)
