"""Steps a second of a recipe in its Trainer, fed by its data module, against a bare loop over ready batches.

    python benchmarks/trainer_rate.py --data_dir data

Both train the same network with the same optimizer on batches of the recipe's small size. The bare loop has its batches
ready in memory, logs nothing and does nothing but forward, backward and step. The Trainer is the recipe's own: shuffled
and resumable batches made from bytes, loss and accuracy logged, generators seeded with each batch; without monitors,
which state their own cost. Rounds alternate between the two; a ratio is taken round by round, and its median printed.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.nn.functional import cross_entropy

from lightning_gap.recipes import C1, F1
from lightning_gap.recipes.datasets import DATASETS, ClassificationData
from lightning_gap.recipes.recipe import Recipe
from lightning_gap.recipes.runner.notes import versions

CASES = {F1: ("mnist", 200), C1: ("cifar10", 12)}  # data set and timed steps of a round
WARMUP = 3


class Clock(Callback):
    """Seconds of the steps after the first few."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):  # type: ignore[no-untyped-def]
        if batch_idx == WARMUP:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):  # type: ignore[no-untyped-def]
        self.seconds = time.perf_counter() - getattr(self, "start", 0.0)


def trainer_rate(recipe: Recipe, data: ClassificationData[Any], steps: int, device: str) -> float:
    """Steps a second inside `fit`."""
    clock = Clock()
    Trainer(
        accelerator=device,
        devices=1,
        max_steps=steps + WARMUP,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    ).fit(recipe, data)
    return steps / clock.seconds


def bare_rate(recipe: Recipe, data: ClassificationData[Any], steps: int, device: str) -> float:
    """Steps a second of a loop by hand."""
    place = torch.device("cuda" if device == "gpu" else "cpu")
    network, size = recipe.network.to(place).train(), recipe.batch_size
    ready = [data.train.to(place)[torch.arange(k * size, (k + 1) * size)] for k in range(8)]
    optimizer = recipe.configure_optimizers()
    for step in range(steps + WARMUP):
        if step == WARMUP:
            if device == "gpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
        inputs, targets = ready[step % len(ready)]
        optimizer.zero_grad()
        cross_entropy(network(inputs), targets).backward()
        optimizer.step()
    if device == "gpu":
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - start)


def main() -> None:
    """Print a line for each network, without and with augmentation."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{versions()}; {given.device}, {given.threads} threads, {given.rounds} rounds\n")
    print("| network | augmentation | bare steps/s | Trainer steps/s | Trainer / bare | of the rounds |")
    print("|---|---|---|---|---|---|")
    for kind, (name, steps) in CASES.items():
        for augmentation in ("none", "affine"):
            data = DATASETS[name](kind.on(name, augmentation=augmentation), data_dir=given.data_dir)
            data.setup()
            rates: dict[Callable[..., float], list[float]] = {bare_rate: [], trainer_rate: []}
            for round_ in range(given.rounds):
                for rate in list(rates)[:: 1 if round_ % 2 else -1]:
                    torch.manual_seed(0)
                    recipe = kind.on(name, augmentation=augmentation)
                    rates[rate].append(rate(recipe, data, steps, given.device))
            ratios = [t / b for b, t in zip(*rates.values(), strict=True)]
            bare, trainer = (statistics.median(found) for found in rates.values())
            print(
                f"| {kind.__name__}, {recipe.batch_size} of {name} | {augmentation} | {bare:.2f} | {trainer:.2f} | "
                f"**{statistics.median(ratios):.3f}** | {min(ratios):.3f} to {max(ratios):.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
