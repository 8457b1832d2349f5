"""The data sets by name, each a function from a data folder to its samples."""

from __future__ import annotations

from collections.abc import Callable

from lightning_gap.recipes.datasets.cifar import cifar10, cifar100
from lightning_gap.recipes.datasets.digits import digits
from lightning_gap.recipes.datasets.folder import FolderImages as FolderImages
from lightning_gap.recipes.datasets.folder_data import FolderData as FolderData
from lightning_gap.recipes.datasets.imagenet import imagenet
from lightning_gap.recipes.datasets.in_memory_data import InMemoryData as InMemoryData
from lightning_gap.recipes.datasets.mnist import mnist
from lightning_gap.recipes.datasets.samples import Batch as Batch
from lightning_gap.recipes.datasets.samples import Frames as Frames
from lightning_gap.recipes.datasets.samples import Images as Images
from lightning_gap.recipes.datasets.samples import Samples as Samples
from lightning_gap.recipes.datasets.splits import Splits as Splits
from lightning_gap.recipes.datasets.timit import timit
from lightning_gap.recipes.datasets.timit_stand_in import timit_stand_in

# Each is called as (data_dir, download=...).
DATASETS: dict[str, Callable[..., Splits]] = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "timit": timit,
    "timit-stand-in": timit_stand_in,
    "imagenet": imagenet,
}
