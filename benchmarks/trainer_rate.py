"""Steps a second of a recipe in its Trainer, fed by its data module, against a bare loop over ready batches.

    python benchmarks/trainer_rate.py --data_dir data

Both train the same network with the same optimizer on batches of the recipe's small size. The bare loop has its batches
ready in memory, logs nothing and does nothing but forward, backward and step. The Trainer is the recipe's own: shuffled
and resumable batches made from bytes, loss and accuracy logged, generators seeded with each batch; without monitors,
which state their own cost. Rounds alternate between the two; a ratio is taken round by round, and its median printed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from measuring import WARMUP, command, machine, mean_loss, now, say, seconds_in_trainer, table

from lightning_gap.recipes import C1, F1
from lightning_gap.recipes.datasets import DATASETS, ClassificationData
from lightning_gap.recipes.recipe import Recipe

CASES = {F1: ("mnist", 200), C1: ("cifar10", 12)}  # data set and timed steps of a round


def in_trainer(recipe: Recipe, data: ClassificationData[Any], steps: int, device: str) -> float:
    """Seconds inside `fit`."""
    return seconds_in_trainer(recipe, data, steps, device=device)


def bare(recipe: Recipe, data: ClassificationData[Any], steps: int, device: str) -> float:
    """Seconds of a loop by hand."""
    place = torch.device(device)
    network, size = recipe.network.to(place).train(), recipe.batch_size
    ready = [data.train.to(place)[torch.arange(k * size, (k + 1) * size)] for k in range(8)]
    optimizer = recipe.configure_optimizers()
    for step in range(steps + WARMUP):
        if step == WARMUP:
            began = now(place)
        optimizer.zero_grad()
        mean_loss(network, ready[step % len(ready)]).backward()
        optimizer.step()
    return now(place) - began


def main(
    data_dir: Path = Path("data"), rounds: int = 9, threads: int | None = None, device: Literal["cpu", "cuda"] = "cpu"
) -> None:
    """Print a line for each network, without and with augmentation.

    Args:
        data_dir: Folder that holds MNIST and CIFAR-10.
        rounds: How often both take their turn.
        threads: CPU threads; torch's own number by default.
        device: Where to train.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    rows = []
    for kind, (name, steps) in CASES.items():
        for augmentation in ("none", "affine"):
            data = DATASETS[name](kind.on(name, augmentation=augmentation), data_dir=data_dir)
            data.setup()
            seconds: dict[Callable[..., float], list[float]] = {bare: [], in_trainer: []}
            for turn in range(rounds):
                for way in list(seconds)[:: 1 if turn % 2 else -1]:  # neither always comes first
                    torch.manual_seed(0)
                    recipe = kind.on(name, augmentation=augmentation)
                    seconds[way].append(way(recipe, data, steps, device))
            ratios = [b / t for b, t in zip(*seconds.values(), strict=True)]
            rates = (f"{steps / statistics.median(found):.2f}" for found in seconds.values())
            share, ends = f"**{statistics.median(ratios):.3f}**", f"{min(ratios):.3f} to {max(ratios):.3f}"
            rows.append((f"{kind.__name__}, {recipe.batch_size} of {name}", augmentation, *rates, share, ends))
            say(*rows[-1])
    print(f"{machine(device)}, {rounds} rounds\n")
    print(table("network | augmentation | bare steps/s | Trainer steps/s | Trainer / bare | of the rounds", rows))


if __name__ == "__main__":
    command(main)
