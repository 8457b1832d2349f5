"""Steps per second of whole trainings with `GhostBatchNormSwap`, beside the same with plain BatchNorm.

    python benchmarks/ghost_batch_norm_training.py
    python benchmarks/ghost_batch_norm_training.py --device cuda

Networks F1 and C1 of Keskar et al. at a batch of 4096 and 1024, ghosts of 128, under a real Trainer, on random data of
the shapes of MNIST and CIFAR-10 that is ready in memory. Both ways take turns; a ratio is the median over rounds.
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from ghost_batch_norm import machine
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_gap import GhostBatchNormSwap
from lightning_gap.recipes.networks import C1, F1

NETWORKS = {"F1": (F1, (1, 28, 28), 4096), "C1": (C1, (3, 32, 32), 1024)}
GHOST = 128


class Classifier(LightningModule):
    """A network under ADAM, as in the paper."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean cross-entropy."""
        return cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """ADAM with its defaults."""
        return torch.optim.Adam(self.parameters())


class StepTimes(Callback):
    """Seconds from the start of one batch to the start of the next, the first left out."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the time."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.starts.append(time.perf_counter())

    def median(self) -> float:
        """Median time of a step."""
        steps = [end - start for start, end in zip(self.starts[1:-1], self.starts[2:], strict=True)]
        return statistics.median(steps)


def seconds_per_step(name: str, device: str, steps: int, callbacks: list[Callback]) -> float:
    """Train for some steps and give the median time of one."""
    torch.manual_seed(0)
    network, shape, batch_size = NETWORKS[name]
    batch = torch.randn(batch_size, *shape), torch.arange(batch_size) % 10
    times = StepTimes()
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_steps=steps,
        callbacks=[*callbacks, times],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(network()), DataLoader([batch] * steps, batch_size=None))  # ready batches
    return times.median()


def main(device: str = "cpu", steps: int = 14, rounds: int = 16, threads: int = 2, output: Path | None = None) -> None:
    """Print the step rate with ghosts relative to plain BatchNorm.

    Args:
        device: Where to train.
        steps: Steps of one training.
        rounds: How often both take their turn.
        threads: Threads on the CPU.
        output: Markdown file to append the table to.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    lines = [
        "",
        "## Whole trainings",
        "",
        f"{machine(torch.device(device), threads)}; {rounds} rounds of {steps} steps. Made by",
        "`benchmarks/ghost_batch_norm_training.py`.",
        "",
        "| network | batch | ghost | plain, ms a step | step rate with ghosts, plain = 1 | lowest and highest round |",
        "|---|---|---|---|---|---|",
    ]
    for name, (_, _, batch_size) in NETWORKS.items():
        plain, ghosts = [], []
        for turn in range(rounds):
            for ghosted in (False, True) if turn % 2 else (True, False):  # neither always comes first
                callbacks: list[Callback] = [GhostBatchNormSwap(GHOST)] if ghosted else []
                (ghosts if ghosted else plain).append(seconds_per_step(name, device, steps, callbacks))
        rates = sorted(base / own for base, own in zip(plain, ghosts, strict=True))
        milliseconds = 1000 * statistics.median(plain)
        lines.append(
            f"| {name} | {batch_size} | {GHOST} | {milliseconds:.0f} | {statistics.median(rates):.3f} | "
            f"{rates[0]:.3f} to {rates[-1]:.3f} |"
        )
        print(lines[-1], flush=True)
    if output is not None:
        with output.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=False)
