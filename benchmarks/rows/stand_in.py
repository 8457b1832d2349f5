"""CIFAR-10 and MNIST in shape and size of a file, with random bytes: speed does not depend on what is in a picture."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lightning_gap.recipes.datasets import DATASETS

SHAPES = {"mnist": (28, 28), "cifar10": (32, 32, 3)}
SAMPLES = 12_800


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Lives as long as the process."""
    folder = tempfile.TemporaryDirectory()
    random = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        pixels = random.integers(256, size=(SAMPLES, *shape), dtype=np.uint8)
        labels = np.arange(SAMPLES) % 10
        few = slice(100)
        arrays = {"x_train": pixels, "y_train": labels, "x_test": pixels[few], "y_test": labels[few]}
        np.savez(Path(folder.name, name), **arrays)
    return folder


def stand_in(name: str, recipe: Any = None, **settings: Any) -> Any:
    """The recipes' data module of that name, set up."""
    data = DATASETS[name](recipe, data_dir=_folder().name, **settings)
    data.setup()
    return data
