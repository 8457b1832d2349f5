"""Images a second of the recipes' input path on CIFAR-10, against the usual Lightning script, in one interleaved run.

    python benchmarks/input_path.py --data_dir data

Ours: `InMemoryLoader` over bytes, augmentation for a whole batch at once, as `CIFAR10` gives it to the Trainer.
The usual: a data set in the manner of torchvision's CIFAR10 (PIL image by index), the same augmentation by
`torchvision.transforms.v2` for each image, the default `DataLoader` (no workers), and one with a worker for each core.
The first batches of an epoch are gone through; rounds alternate, ratios are taken round by round.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from measuring import command, machine, ratio, say, table
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lightning_gap.recipes import CIFAR10

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

    def __init__(self, data: CIFAR10, transform: Callable[[Any], Any]) -> None:
        images, targets = data.train.whole()
        self.data = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = targets.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def images_per_second(loader: Iterable[Any], batches: int) -> float:
    """Go through some batches, the first of which is not timed."""
    iterator = iter(loader)
    next(iterator)
    start, images = time.perf_counter(), 0
    for inputs, _ in itertools.islice(iterator, batches):
        images += len(inputs)
    return images / (time.perf_counter() - start)


def main(data_dir: Path = Path("data"), rounds: int = 5) -> None:
    """Print a line for each augmentation.

    Args:
        data_dir: Folder that holds CIFAR-10.
        rounds: How often each loader takes its turn.
    """
    workers = os.cpu_count() or 1
    rows = []
    for name, transforms in USUAL.items():
        data = CIFAR10(batch_size=BATCH, augmentation=name, data_dir=data_dir)
        data.setup()
        usual = AsTorchvision(data, v2.Compose([*transforms, *TO_TENSOR]))
        loaders: list[tuple[Iterable[Any], int]] = [
            (DataLoader(usual, batch_size=BATCH, shuffle=True), 15),
            (DataLoader(usual, batch_size=BATCH, shuffle=True, num_workers=workers), 30),
            (data.train_dataloader(), 150),
        ]
        *others, ours = zip(*([images_per_second(*loader) for loader in loaders] for _ in range(rounds)), strict=True)
        rates = (f"{statistics.median(rates):,.0f}" for rates in (*others, ours))
        rows.append((name, *rates, *(f"**{ratio(ours, other):.1f}**" for other in others)))
        say(*rows[-1])
    print(f"{machine()}, batch {BATCH}, {rounds} rounds\n")
    header = f"augmentation | usual, images/s | usual, {workers} workers | ours | ours / usual | ours / workers"
    print(table(header, rows))


if __name__ == "__main__":
    command(main)
