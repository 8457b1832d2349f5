"""scikit-learn's bundled digits: 8x8 images that need no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lightning_gap.recipes.datasets.samples import Images
from lightning_gap.recipes.datasets.splits import Splits


def digits(data_dir: Path, *, download: bool = False) -> Splits:  # noqa: ARG001 - every data set is called alike
    """1,797 digits of 8x8 pixels, bundled with scikit-learn: offline.

    1,437 to train and 360 to test, stratified, drawn with seed 0. Pixels divided by 16, inputs (N, 1, 8, 8).

    Args:
        data_dir: Not used; the data comes with scikit-learn.
        download: Not used either.
    """
    flat, labels = load_digits(return_X_y=True)
    pixels = flat.astype(np.uint8).reshape(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(pixels, labels, test_size=360, stratify=labels, random_state=0)
    train, test = (
        Images(torch.from_numpy(x), torch.as_tensor(y, dtype=torch.int64), highest=16)
        for x, y in ((train_x, train_y), (test_x, test_y))
    )
    return Splits(train, test, num_classes=10)
