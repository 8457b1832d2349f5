"""Steps per second of whole trainings with `GhostBatchNormSwap`, beside the same with plain BatchNorm.

    python benchmarks/ghost_batch_norm_training.py
    python benchmarks/ghost_batch_norm_training.py --device cuda

Networks F1 and C1 of Keskar et al. at a batch of 4096 and 1024, ghosts of 128, under a real Trainer, on random data of
the shapes of MNIST and CIFAR-10 that is ready in memory. Both ways take turns; a ratio is the median over rounds.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from measuring import WARMUP, command, machine, say, seconds_in_trainer, table
from torch.utils.data import DataLoader

from lightning_gap import GhostBatchNormSwap
from lightning_gap.recipes import C1, F1

CASES: dict[type[Any], tuple[str, dict[str, Any], tuple[int, ...], int]] = {
    F1: ("mnist", {}, (1, 28, 28), 4096),
    C1: ("cifar10", {"channels_last": False}, (3, 32, 32), 1024),
}
GHOST = 128


def main(
    device: Literal["cpu", "cuda"] = "cpu",
    steps: int = 14,
    rounds: int = 16,
    threads: int = 2,
    output: Path | None = None,
) -> None:
    """Print the step rate with ghosts relative to plain BatchNorm.

    Args:
        device: Where to train.
        steps: Timed steps of one training.
        rounds: How often both take their turn.
        threads: Threads on the CPU.
        output: Markdown file to append the table to.
    """
    torch.set_num_threads(threads)
    rows = []
    for kind, (name, settings, shape, batch_size) in CASES.items():
        batch = torch.randn(batch_size, *shape), torch.arange(batch_size) % 10
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(rounds):
            for ghosts in (False, True) if turn % 2 else (True, False):  # neither always comes first
                torch.manual_seed(0)
                callbacks: list[Callback] = [GhostBatchNormSwap(GHOST)] if ghosts else []
                ready = DataLoader([batch] * (steps + WARMUP), batch_size=None)  # type: ignore[arg-type]
                recipe = kind.on(name, **settings)
                seconds[ghosts].append(seconds_in_trainer(recipe, ready, steps, *callbacks, device=device) / steps)
        rates = sorted(base / own for base, own in zip(*seconds.values(), strict=True))
        milliseconds, rate = f"{1000 * statistics.median(seconds[False]):.0f}", f"{statistics.median(rates):.3f}"
        ends = f"{rates[0]:.3f} to {rates[-1]:.3f}"
        rows.append((kind.__name__, batch_size, GHOST, milliseconds, rate, ends))
        say(*rows[-1])
    header = "network | batch | ghost | plain, ms a step | step rate with ghosts, plain = 1 | lowest and highest round"
    text = f"\n## Whole trainings\n\n{machine(device)}; {rounds} rounds of {steps} steps. Made by\n"
    text += f"`benchmarks/ghost_batch_norm_training.py`.\n\n{table(header, rows)}\n"
    print(text)
    if output is not None:
        with output.open("a", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    command(main)
