"""Pixels and labels, as they are stored, to samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_gap.recipes.datasets.samples import Images


def labelled_images(pixels: NDArray[np.uint8], labels: NDArray[Any], num_classes: int, source: str) -> Images:
    """Images with their labels.

    Args:
        pixels: (N, C, H, W). What is returned shares their memory, unless they lie in another order.
        labels: (N,), of any whole numbers.
        num_classes: Labels are from 0 to ``num_classes - 1``.
        source: Where the labels stand.

    Raises:
        ValueError: If a label is out of range.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueError(
            f"{source}: label {labels[wrong[0]]} of sample {wrong[0]} is out of range, {len(wrong)} such in all; "
            f"labels must be from 0 to {num_classes - 1}"
        )
    return Images(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels.astype(np.int64)))
