"""scikit-learn's bundled digits: 8x8 images that need no download."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .in_memory_data import InMemoryData
from .samples import Images


class Digits(InMemoryData):
    """1,797 digits of 8x8 pixels, bundled with scikit-learn: offline.

    1,437 to train and 360 to test, stratified, drawn with seed 0. Pixels divided by 16, inputs (N, 1, 8, 8). Arguments
    and attributes are those of `ClassificationData`; ``data_dir`` is not used.
    """

    name, title = "digits", "scikit-learn's digits"
    num_classes, input_shape = 10, (1, 8, 8)

    def read(self) -> tuple[Images, Images]:
        flat, labels = load_digits(return_X_y=True)
        pixels = flat.astype(np.uint8).reshape(-1, 1, 8, 8)
        train_x, test_x, train_y, test_y = train_test_split(
            pixels, labels, test_size=360, stratify=labels, random_state=0
        )
        train, test = (
            Images(torch.from_numpy(x), torch.as_tensor(y, dtype=torch.int64), highest=16)
            for x, y in ((train_x, train_y), (test_x, test_y))
        )
        return train, test
