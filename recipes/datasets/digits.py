"""scikit-learn's bundled digits: 8x8 images that need no download."""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lightning_gap.recipes.datasets.splits import Splits


def digits(data_dir: Path) -> Splits:  # noqa: ARG001 - every data set is called alike
    """1,797 digits of 8x8 pixels, bundled with scikit-learn: offline.

    1,437 to train and 360 to test, stratified, drawn with seed 0. Pixels divided by 16, inputs (N, 64).

    Args:
        data_dir: Not used; the data comes with scikit-learn.
    """
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images / 16, labels, test_size=360, stratify=labels, random_state=0
    )

    def tensors(x: object, y: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.int64)

    return Splits(tensors(train_x, train_y), tensors(test_x, test_y), num_classes=10)
