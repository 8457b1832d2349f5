"""Images and labels from one NumPy archive, everything about it checked."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gap.recipes.datasets.labelled import labelled_images
from lightning_gap.recipes.datasets.samples import Images

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError)


def read_npz(path: Path, image_shape: tuple[int, ...], num_classes: int) -> tuple[Images, Images]:
    """Training and test samples from the arrays x_train, y_train, x_test and y_test.

    Args:
        path: A file as `numpy.savez` and `numpy.savez_compressed` write it.
        image_shape: Of one image, (H, W) or (H, W, 3).
        num_classes: Labels are from 0 to ``num_classes - 1``.

    Raises:
        ValueError: If the file is damaged, or an array is missing or has the wrong shape, type, length or values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = sorted(name.removesuffix(".npy") for name in archive.namelist())
            for key in _KEYS:
                if key not in found:
                    raise ValueError(
                        f"{str(path)!r} has no array {key!r}, only {', '.join(found)}; save it with "
                        f"numpy.savez(file, {', '.join(f'{key}=...' for key in _KEYS)})"
                    )
            train, test = (_read_part(path, archive, part, image_shape, num_classes) for part in ("train", "test"))
    except zipfile.BadZipFile:
        raise ValueError(
            f"{str(path)!r} is damaged or only half downloaded: its {path.stat().st_size} bytes are no whole zip "
            "archive, which every .npz file is; delete it and get it again"
        ) from None
    return train, test


def _read_part(
    path: Path, archive: zipfile.ZipFile, part: str, image_shape: tuple[int, ...], num_classes: int
) -> Images:
    images, labels = (_array(path, archive, f"{kind}_{part}") for kind in "xy")
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
    pixels = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)  # (N, C, H, W)
    return labelled_images(pixels, labels.reshape(-1), num_classes, f"{str(path)!r}, y_{part}")


def _description(path: Path, key: str, array: NDArray[Any]) -> str:
    return f"{str(path)!r}: {key} has shape {array.shape} and type {array.dtype}"


def _array(path: Path, archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    info = archive.getinfo(f"{key}.npy")
    try:
        with archive.open(info) as member:
            return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
    except (*_DAMAGE, ValueError) as error:
        expected, found = info.CRC, _checksum(archive, info)
        if found == f"{expected:08x}":
            raise ValueError(f"{str(path)!r}: {key} cannot be read, {error}; save an array of whole numbers") from None
        raise ValueError(
            f"{str(path)!r} is damaged: {key} has CRC-32 checksum {found}, expected {expected:08x}; delete the file "
            "and get it again"
        ) from None


def _checksum(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    """The checksum that the content has, which `zipfile` does not tell when it is not the one it should have."""
    info.CRC = None  # type: ignore[assignment] # read without comparing
    checksum = 0
    try:
        with archive.open(info) as member:
            while content := member.read(2**20):
                checksum = zlib.crc32(content, checksum)
    except _DAMAGE:
        return "none (it cannot be unpacked)"
    return f"{checksum:08x}"
