"""The data sets by name, each a function from a data folder to its samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning_gap.recipes.datasets.digits import digits
from lightning_gap.recipes.datasets.mnist import mnist
from lightning_gap.recipes.datasets.splits import InMemoryData as InMemoryData
from lightning_gap.recipes.datasets.splits import Samples as Samples
from lightning_gap.recipes.datasets.splits import Splits as Splits

DATASETS: dict[str, Callable[[Path], Splits]] = {"digits": digits, "mnist": mnist}
