"""MNIST from a folder on disk; never downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.datasets import MNIST

from lightning_gap.recipes.datasets.splits import Samples, Splits

_FILES = tuple(f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def mnist(data_dir: Path) -> Splits:
    """60,000 + 10,000 digits of 28x28 pixels, from data_dir/MNIST/raw.

    Pixels divided by 255 and nothing else, inputs (N, 784).

    Args:
        data_dir: Folder that holds torchvision's own layout.

    Raises:
        FileNotFoundError: If a file is missing; says which and where it goes. Nothing is downloaded.
    """
    raw = data_dir / "MNIST" / "raw"
    missing = [name for name in _FILES if not (raw / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"data_dir={str(data_dir)!r} has no MNIST: put {', '.join(missing)} into {raw}, or pass the --data_dir "
            "that holds MNIST/raw; nothing is downloaded. --data digits needs no files"
        )
    return Splits(_split(data_dir, train=True), _split(data_dir, train=False), num_classes=10)


def _split(data_dir: Path, *, train: bool) -> Samples:
    stored = MNIST(str(data_dir), train=train, download=False)
    return stored.data.flatten(1).to(torch.float32) / 255, stored.targets.to(torch.int64)
