"""What the sections of `sharpness.py` measure on: the checkpoints, and losses of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from measuring import Cells, mean_loss, say, table
from torch import nn
from torch.utils.data import TensorDataset

from lightning_gap.functional import DatasetLoss, FixedSubset
from lightning_gap.recipes.networks import F1

PAIR = ("small-0/epoch-30", "large-0/epoch-40")


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


Section = Callable[[Bench], str]


def section(header: str) -> Callable[[Callable[[Bench, F1], Iterator[Cells]]], Section]:
    """Make a section of a function that gives the rows of one checkpoint: their table, for one after the other."""

    def decorate(rows_of: Callable[[Bench, F1], Iterator[Cells]]) -> Section:
        @wraps(rows_of)
        def tabulated(bench: Bench) -> str:
            rows: list[Cells] = []
            for name, network in bench.networks(*PAIR):
                for cells in rows_of(bench, network):
                    rows.append((name, *cells))
                    say(*rows[-1])
            return table(f"checkpoint | {header}", rows)

        return tabulated

    return decorate


def whole(loss: DatasetLoss) -> DatasetLoss:
    """The same loss, whose halves are not shown, so that every step of corner ascent is made by the whole of it."""
    alone = copy.copy(loss)
    alone.halves = tuple  # type: ignore[method-assign]
    return alone
