"""What the sections of `sharpness.py` measure with: the checkpoints, losses on them, turns, and tables."""

from __future__ import annotations

import copy
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_gap.functional import DatasetLoss, FixedSubset
from lightning_gap.recipes.networks import F1

PAIR = ("small-0/epoch-30", "large-0/epoch-40")
Cells = tuple[object, ...]
Result = TypeVar("Result")


def mean_loss(module: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy of a batch."""
    return cross_entropy(module(batch[0]), batch[1])


@dataclass(frozen=True)
class Bench:
    """What all sections share; ``everything`` is how many samples "all" are, a sixth of them being "10k"."""

    folder: Path
    only: list[str]
    data: TensorDataset
    samples: int
    everything: int
    rounds: int
    evaluations: int
    chunk: int = 500

    def networks(self, *names: str) -> Iterator[tuple[str, F1]]:
        """The chosen checkpoints, otherwise these."""
        for name in self.only or names:
            network = F1()
            network.load_state_dict(torch.load(self.folder / f"{name}.pt"))
            yield name, network

    def loss(self, network: nn.Module, samples: int, *, chunk: int = 0, batch_norm: Any = "running") -> DatasetLoss:
        """Mean loss over a fixed choice of samples."""
        return DatasetLoss(network, mean_loss, self.batches(samples, chunk=chunk), batch_norm=batch_norm)

    def batches(self, samples: int, *, chunk: int = 0) -> list[Any]:
        """A fixed choice of samples; a smaller one is the beginning of a larger one."""
        return list(FixedSubset(self.data, samples=samples, chunk_size=chunk or self.chunk))

    def epoch(self, network: nn.Module) -> Callable[[], None]:
        """One epoch of plain training at batch 256, on a copy."""
        trained = copy.deepcopy(network).train()
        optimizer = torch.optim.Adam(trained.parameters(), lr=1e-3)

        def run() -> None:
            for indices in torch.randperm(self.everything).split(256):
                optimizer.zero_grad(set_to_none=True)
                mean_loss(trained, self.data[indices]).backward()
                optimizer.step()

        return run


class Whole(AbstractContextManager["Whole"]):
    """A loss whose halves are not shown, so that every step of corner ascent is made by the whole of it."""

    def __init__(self, loss: DatasetLoss) -> None:
        self._loss = loss

    def __call__(self) -> Tensor | Iterator[Tensor]:
        return self._loss()

    def __enter__(self) -> Whole:
        self._loss.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._loss.__exit__(*error)


def interleaved(
    variants: Mapping[str, Callable[[], Result]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Result]]:
    """Seconds of every round, and the last thing returned, by variant."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    results: dict[str, Result] = {}
    for _ in range(rounds):
        for name, variant in variants.items():
            results.pop(name, None)
            gc.collect()
            began = time.perf_counter()
            results[name] = variant()
            times[name].append(time.perf_counter() - began)
    return times, results


def ratio(own: Sequence[float], base: Sequence[float]) -> float:
    """Median over rounds."""
    return statistics.median(a / b for a, b in zip(own, base, strict=True))


def table(header: str, rows: Sequence[Cells]) -> str:
    """Markdown; numbers to four digits."""
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    for row in rows:
        cells = ("-" if c is None or c != c else f"{c:.4g}" if isinstance(c, float) else str(c) for c in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def say(*cells: object) -> None:
    """Show that it goes on."""
    print("  ", *(f"{c:.4g}" if isinstance(c, float) else c for c in cells), file=sys.stderr, flush=True)
