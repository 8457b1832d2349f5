"""A recipe in its Trainer, fed by its data module, beside a bare loop over ready batches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from measuring import WARMUP, mean_loss, seconds_in_trainer

from lightning_gap.recipes import F1
from rows.row import Row, milliseconds, ratios
from rows.stand_in import stand_in

STEPS = 15


def rows(rounds: int, *, quick: bool) -> Iterator[Row]:
    """A step of F1 on 256 images of MNIST's size. The bare loop has its batches ready, logs nothing, and only trains.

    The Trainer is the recipe's own, without monitors: shuffled and resumable batches made from bytes, loss and accuracy
    logged, generators seeded with each batch.
    """
    for augmentation in ("none",) if quick else ("none", "affine"):
        data = stand_in("mnist", F1.on("mnist", augmentation=augmentation))
        turns: list[list[float]] = []
        for turn in range(rounds + 1):
            turns.append([0.0, 0.0])
            for way in (0, 1) if turn % 2 else (1, 0):  # neither always comes first
                torch.manual_seed(0)
                recipe = F1.on("mnist", augmentation=augmentation)
                turns[-1][way] = (_in_trainer, _bare)[way](recipe, data) / STEPS
        ours, bare = zip(*turns, strict=True)
        yield Row(f"Trainer, augmentation {augmentation}", "a bare loop", ratios(ours, bare), milliseconds(ours))


def _in_trainer(recipe: F1, data: Any) -> float:
    return seconds_in_trainer(recipe, data, STEPS, device="cpu", seconds=time.process_time)


def _bare(recipe: F1, data: Any) -> float:
    network, size = recipe.network.train(), recipe.batch_size
    ready = [data.train[torch.arange(k * size, (k + 1) * size)] for k in range(8)]
    optimizer = recipe.configure_optimizers()
    for step in range(STEPS + WARMUP):
        if step == WARMUP:
            began = time.process_time()
        optimizer.zero_grad()
        mean_loss(network, ready[step % len(ready)]).backward()
        optimizer.step()
    return time.process_time() - began
