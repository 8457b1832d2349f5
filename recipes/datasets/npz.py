"""Images and labels from one NumPy archive, everything about it checked."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .samples import Images

_KEYS = ("x_train", "y_train", "x_test", "y_test")
# What zipfile and zlib raise, by where the flipped bit is: in a length, a checksum, a version, a flag.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


def read_npz(path: Path, image_shape: tuple[int, ...], num_classes: int) -> tuple[Images, Images]:
    """Training and test samples from the arrays x_train, y_train, x_test and y_test.

    Args:
        path: A file as `numpy.savez` and `numpy.savez_compressed` write it.
        image_shape: Of one image, (H, W) or (H, W, 3).
        num_classes: Labels are from 0 to ``num_classes - 1``.

    Raises:
        ValueError: If the file is damaged, or an array is missing or has the wrong shape, type, length or values.
    """
    with _opened(path) as arrays:
        lacking = [key for key in _KEYS if key not in arrays]
        if lacking:
            raise ValueError(
                f"{str(path)!r} has no array {lacking[0]!r}, only {', '.join(sorted(arrays))}; save it with "
                f"numpy.savez(file, {', '.join(f'{key}=...' for key in _KEYS)})"
            )
        train, test = (_part(path, arrays, part, image_shape, num_classes) for part in ("train", "test"))
    return train, test


def _opened(path: Path) -> Any:
    try:
        # Opened as what it must be: `numpy.load` takes other files for a pickle, and says so instead.
        zipfile.ZipFile(path).close()
        return np.load(path)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (*_DAMAGED, ValueError) as error:
        raise _damaged(path, error) from None


def _part(
    path: Path, arrays: Mapping[str, NDArray[Any]], part: str, image_shape: tuple[int, ...], num_classes: int
) -> Images:
    images, labels = (_array(path, arrays, f"{kind}_{part}") for kind in "xy")
    if images.shape[1:] != image_shape or images.dtype != np.uint8 or images.size == 0:
        sizes = ", ".join(map(str, image_shape))
        raise ValueError(f"{_description(path, f'x_{part}', images)}, expected (N, {sizes}) of uint8, N at least 1")
    if labels.shape not in ((labels.size,), (labels.size, 1)) or labels.dtype.kind not in "iu":
        raise ValueError(f"{_description(path, f'y_{part}', labels)}, expected (N,) or (N, 1) of a whole number type")
    if len(images) != len(labels):
        raise ValueError(
            f"{str(path)!r}: x_{part} holds {len(images)} images and y_{part} {len(labels)} labels; each image must "
            "have one"
        )
    labels = labels.reshape(-1)
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueError(
            f"{str(path)!r}, y_{part}: label {labels[wrong[0]]} of sample {wrong[0]} is out of range, {len(wrong)} "
            f"such in all; labels must be from 0 to {num_classes - 1}"
        )
    pixels = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)  # (N, C, H, W)
    return Images(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels.astype(np.int64)))


def _array(path: Path, arrays: Mapping[str, NDArray[Any]], key: str) -> NDArray[Any]:
    try:
        return arrays[key]
    except _DAMAGED as error:
        raise _damaged(path, error) from None
    except (ValueError, MemoryError) as error:  # an array of objects, or a header that damage has changed
        raise ValueError(
            f"{str(path)!r}: {key} cannot be read ({error}); the file is damaged, or save whole numbers, no more than "
            "memory holds"
        ) from None


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{str(path)!r} is damaged or only half downloaded ({error}); delete it and get it again")


def _description(path: Path, key: str, array: NDArray[Any]) -> str:
    return f"{str(path)!r}: {key} has shape {array.shape} and type {array.dtype}"
