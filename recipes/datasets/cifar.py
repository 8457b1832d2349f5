"""CIFAR-10 and CIFAR-100 from a folder on disk."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100

from lightning_gap.recipes.datasets.image_files import ImageFiles
from lightning_gap.recipes.datasets.integrity import checked_bytes
from lightning_gap.recipes.datasets.labelled import labelled_images
from lightning_gap.recipes.datasets.samples import Images
from lightning_gap.recipes.datasets.splits import Splits


def cifar10(data_dir: Path, *, download: bool = False) -> Splits:
    """50,000 + 10,000 colour images of 32x32 pixels, from data_dir/cifar-10-batches-py or data_dir/cifar10.npz.

    Pixels divided by 255 and nothing else, inputs (N, 3, 32, 32).

    Args:
        data_dir: Folder that holds torchvision's own layout, or cifar10.npz with uint8 arrays x_train and x_test,
            (N, 32, 32, 3), and labels y_train and y_test, flat or as a column.
        download: Fetch the files if they are not there.

    Raises:
        FileNotFoundError: If a file is missing; says which and where it goes.
        PermissionError: If a file may not be read.
        ValueError: If a file is damaged or does not hold what it should.
    """
    return _image_files(CIFAR10, "CIFAR-10", "cifar10.npz", 10).load(data_dir, download=download)


def cifar100(data_dir: Path, *, download: bool = False) -> Splits:
    """50,000 + 10,000 colour images of 100 classes, from data_dir/cifar-100-python or data_dir/cifar100.npz.

    The 100 fine labels. Otherwise as `cifar10`.

    Args:
        data_dir: Folder that holds torchvision's own layout or cifar100.npz.
        download: Fetch the files if they are not there.

    Raises:
        FileNotFoundError: If a file is missing; says which and where it goes.
        PermissionError: If a file may not be read.
        ValueError: If a file is damaged or does not hold what it should.
    """
    return _image_files(CIFAR100, "CIFAR-100", "cifar100.npz", 100).load(data_dir, download=download)


def _image_files(published: Any, title: str, archive: str, num_classes: int) -> ImageFiles:
    """What torchvision's class knows of its files."""

    def read(folder: Path, train: bool) -> Images:
        checked_bytes(folder / published.meta["filename"], published.meta["md5"])
        parts = published.train_list if train else published.test_list
        return _read([(folder / name, md5) for name, md5 in parts], num_classes)

    return ImageFiles(
        title=title,
        folder=published.base_folder,
        checksums=dict([*published.train_list, *published.test_list, (published.meta["filename"], "")]),
        archive=archive,
        image_shape=(32, 32, 3),
        num_classes=num_classes,
        mirrored=True,
        read=read,
        download=lambda data_dir: published(str(data_dir), download=True),
        servers=[published.url],
    )


def _read(parts: list[tuple[Path, str]], num_classes: int) -> Images:
    pixels, labels = [], []
    for path, md5 in parts:
        # Pickled, hence the checksum first. Bytes, because text would take the pixels through a string.
        stored = pickle.loads(checked_bytes(path, md5).data, encoding="bytes")
        pixels.append(stored[b"data"].reshape(-1, 3, 32, 32))
        labels += stored[b"labels"] if b"labels" in stored else stored[b"fine_labels"]
    whole = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
    return labelled_images(whole, np.array(labels), num_classes, f"{str(parts[0][0].parent)!r}")
