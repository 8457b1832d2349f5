"""Images to the network: the recipes' loader beside torchvision's transforms and a DataLoader."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from rows.row import Row, ratios
from rows.stand_in import stand_in

BATCH = 256
TO_TENSOR = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
USUAL: dict[str, list[Any]] = {
    "none": [],
    "crop-flip": [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()],
    "affine": [v2.RandomAffine(10, (0.2, 0.2), interpolation=v2.InterpolationMode.BILINEAR), v2.RandomHorizontalFlip()],
    "scale-crop": [v2.RandomResizedCrop(32), v2.RandomHorizontalFlip()],
}


class AsTorchvision(Dataset[Any]):
    """What torchvision's CIFAR10 does for an index, over the same images."""

    def __init__(self, images: torch.Tensor, transform: Callable[[Any], Any]) -> None:
        self.data = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.data[index])), index % 10


def rows(rounds: int, *, quick: bool) -> Iterator[Row]:
    """Batches of 256 images as large as CIFAR-10's; the time by the wall for an image, after the first batch.

    Ours cuts a batch from bytes and augments it at once. The usual way opens a PIL image for each index, augments it
    by `torchvision.transforms.v2`, and puts the batch together; with workers, one for each core.
    """
    workers = os.cpu_count() or 1
    for augmentation in ("crop-flip",) if quick else USUAL:
        data = stand_in("cifar10", batch_size=BATCH, augmentation=augmentation)
        usual = AsTorchvision(data.train.whole()[0], v2.Compose([*USUAL[augmentation], *TO_TENSOR]))
        loaders = {
            f"CIFAR10, augmentation {augmentation}": (data.train_dataloader(), 20),
            "torchvision and DataLoader": (DataLoader(usual, batch_size=BATCH, shuffle=True), 2),
        }
        if not quick:
            many = DataLoader(usual, batch_size=BATCH, shuffle=True, num_workers=workers)
            loaders[f"the same, {workers} workers"] = (many, 6)
        turns = [[_seconds(*loader) for loader in loaders.values()] for _ in range(rounds + 1)]
        ours, *others = zip(*turns, strict=True)
        name, *peers = loaders
        for peer, seconds in zip(peers, others, strict=True):
            yield Row(name, peer, ratios(ours, seconds), f"{1e6 * sorted(ours)[len(ours) // 2]:.3g} µs")


def _seconds(loader: Iterable[Any], batches: int) -> float:
    """For an image, of some batches after the first."""
    iterator = iter(loader)
    next(iterator)
    began, images = time.perf_counter(), 0
    for inputs, _ in itertools.islice(iterator, batches):
        images += len(inputs)
    return (time.perf_counter() - began) / images
