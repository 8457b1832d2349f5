"""What CriticalSharpnessMonitor costs with its defaults, as a share of the training time.

The time inside the monitor's own hooks, over that of the rest of the run: whole runs with and without it differ by more
than that. Three networks whose steps take milliseconds to tens of milliseconds on a CPU.

    python benchmarks/critical_sharpness_cost.py --steps 1001
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measuring import PLAIN, command, table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from lightning_gap import CriticalSharpnessMonitor, InMemoryLoader


class Block(nn.Module):
    """Causal attention by the fused kernel, and two dense layers."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.first, self.second = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.first(x)).chunk(3, dim=-1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in qkv)
        x = x + self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.dense(self.second(x))


class Trained(LightningModule):
    """A network, the cross-entropy of its scores, and AdamW."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        scores = self.network(batch[0])
        return cross_entropy(scores.flatten(0, -2), batch[1].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def dense() -> tuple[nn.Module, tuple[Tensor, Tensor], int]:
    """One hidden layer."""
    layers = [nn.Linear(784, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers), (torch.randn(2048, 784), torch.randint(10, (2048,))), 64


def convolutions() -> tuple[nn.Module, tuple[Tensor, Tensor], int]:
    """Three layers on images of 32 x 32."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))
    return network, (torch.randn(1024, 3, 32, 32), torch.randint(10, (1024,))), 32


def transformer() -> tuple[nn.Module, tuple[Tensor, Tensor], int]:
    """Two blocks of width 128 on 64 characters."""
    network = nn.Sequential(
        nn.Embedding(96, 128), *(Block(128) for _ in range(2)), nn.LayerNorm(128), nn.Linear(128, 96)
    )
    tokens = torch.randint(96, (512, 65))
    return network, (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()), 8


NETWORKS = {
    "dense, 784-512-10, batch 64": dense,
    "convolutions, batch 32": convolutions,
    "transformer, 8 x 64": transformer,
}


class Stopwatch(Callback):
    """Adds up the seconds inside the monitor's hooks, and counts its measurements. Listed last."""

    def __init__(self) -> None:
        self.seconds, self.evaluations, self.began, self.total = 0.0, list[float](), 0.0, 0.0

    def times(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds += time.perf_counter() - began
            return result

        return timed

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == 1:  # with the check before the first step, and the first measurement
            self.first, self.seconds, self.began = self.seconds, 0.0, time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.total = time.perf_counter() - self.began


def main(steps: int = 1001, rounds: int = 3) -> None:
    """Print a table.

    Args:
        steps: Of each run.
        rounds: Runs of each network, in turn.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in NETWORKS}
    for _ in range(rounds):
        for name, make in NETWORKS.items():
            torch.manual_seed(0)
            network, samples, batch_size = make()
            monitor, stopwatch = CriticalSharpnessMonitor(), Stopwatch()
            for hook in (hook for hook in dir(Callback) if hook.startswith("on_train")):
                setattr(monitor, hook, stopwatch.times(getattr(monitor, hook)))
            measure, counted = monitor._values, stopwatch.evaluations
            monitor._values = lambda result, rate, *, of=measure, to=counted: (  # type: ignore[method-assign]
                to.append(result.evaluations) or of(result, rate)
            )
            callbacks = [monitor, stopwatch]
            trainer = Trainer(accelerator="cpu", max_epochs=-1, max_steps=steps, callbacks=callbacks, **PLAIN)
            trainer.fit(Trained(network), InMemoryLoader(samples, batch_size=batch_size, shuffle=True))
            rest = stopwatch.total - stopwatch.seconds
            later = counted[1:] or counted
            found[name].append(
                (1e3 * rest / (steps - 1), len(later), statistics.fmean(later), 1e3 * stopwatch.first,
                 1e3 * stopwatch.seconds / len(later), 100 * stopwatch.seconds / rest)
            )  # fmt: skip
    rows = []
    for name, runs in found.items():
        each = [statistics.median(values) for values in zip(*runs, strict=True)]
        rows.append((name, *(f"{value:.{digits}f}" for value, digits in zip(each, (1, 0, 1, 0, 0, 2), strict=True))))
    head = "network | ms per step | measured after the first | passes each | ms before step 2 | ms each | share, %"
    print(table(head, rows))


if __name__ == "__main__":
    command(main)
