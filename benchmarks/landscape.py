"""Many points of weight space at once, against loops over them: ratios of time, and how far the losses are apart.

    python benchmarks/landscape.py --samples '[100, 1000]' --threads 1

"Loop" is `evaluate_points(..., points_at_once=1)`. "By hand" is what one writes without this package: for each point
interpolate, `load_state_dict`, and go over the loader. "Multiplications" are the matrix products of the network alone,
on tensors that are there already: no method that evaluates every sample at every point in float32 takes less. The
variants take turns, so that what else the machine does meets all of them; medians of the ratios within a round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from measuring import command, interleaved, keep_freed_memory, machine, mean_loss, ratio, say, table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_gap.functional import batch_statistics, evaluate_points, line_points
from lightning_gap.recipes.networks import C1, F1

Values = Sequence[float]
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "F1": (F1, (784,)),
    "F1 of 16 units on digits": (lambda: F1(64, width=16), (64,)),
    "C1": (C1, (3, 32, 32)),
}


class Digits(Dataset[tuple[Tensor, int]]):
    """Random images as bytes, made into a float tensor one by one, as torchvision's data sets do it."""

    def __init__(self, samples: int, shape: Sequence[int]) -> None:
        self.images = torch.randint(256, (samples, *shape), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index].float().div(255).sub(0.13).div(0.31), index % 10


def by_hand(module: nn.Module, ends: Sequence[Mapping[str, Tensor]], alphas: Values, loader: Iterable[Any]) -> Values:
    """The loss at each point, the way one writes it first; BatchNorm is set by the caller."""
    start, end = ends
    losses = []
    for alpha in alphas:
        module.load_state_dict(
            {k: torch.lerp(v, end[k], alpha) if v.is_floating_point() else v for k, v in start.items()}
        )
        total, samples = 0.0, 0
        with torch.no_grad():
            for batch in loader:
                total += float(mean_loss(module, batch)) * len(batch[1])
                samples += len(batch[1])
        losses.append(total / samples)
    return losses


def multiplications(module: F1, points: int, batches: Sequence[Any]) -> Callable[[], None]:
    """The matrix products of F1, one point after the other, into memory that is there."""
    weights = [part.weight.detach() for part in module.modules() if isinstance(part, nn.Linear)]
    rows = max(len(batch[0]) for batch in batches)
    inputs = {width: torch.rand(rows, width) for width in {weight.shape[1] for weight in weights}}
    outputs = {width: torch.empty(rows, width) for width in {weight.shape[0] for weight in weights}}

    def run() -> None:
        for _ in range(points):
            for batch in batches:
                for weight in weights:
                    size = len(batch[0])
                    torch.mm(inputs[weight.shape[1]][:size], weight.T, out=outputs[weight.shape[0]][:size])

    return run


@dataclass(frozen=True)
class Case:
    """A line between two networks of one kind, and what to evaluate on it.

    Attributes:
        module: The network.
        ends: Two states of it.
        alphas: Places of the points.
        given: The samples, in batches.
        mode: What BatchNorm normalises by.
    """

    module: nn.Module
    ends: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
    alphas: Values
    given: Iterable[Any]
    mode: Any

    @classmethod
    def of(cls, network: str, mode: Any, samples: int, points: int, *, lazily: bool) -> Case:
        """Of a network of NETWORKS; ``lazily`` from a loader that makes each sample anew, else from ready batches."""
        torch.manual_seed(0)
        make, shape = NETWORKS[network]
        module = make()
        loader = DataLoader(Digits(samples, shape), batch_size=min(1000, samples))
        batches = list(loader)
        with torch.no_grad():
            module.train()
            for inputs, _ in batches:
                module(inputs)
        start = {k: v.clone() for k, v in module.state_dict().items()}
        end = {k: v + 0.05 * v.abs() if v.is_floating_point() else v for k, v in start.items()}
        alphas = torch.linspace(0, 1, points).tolist()
        return cls(module.eval(), (start, end), alphas, loader if lazily else batches, mode)

    def ours(self, at_once: int | None = None) -> Values:
        """The losses, so many points at once, by default as many as it chooses."""
        found = evaluate_points(
            self.module,
            line_points(*self.ends, self.alphas),
            mean_loss,
            {"train": self.given},
            batch_norm=self.mode,
            points_at_once=at_once,
        )
        return found.values["train"]["loss"]

    def by_hand(self) -> Values:
        """The same losses by the loop."""
        with batch_statistics(self.module) if self.mode == "batch" else nullcontext():
            return by_hand(self.module, self.ends, self.alphas, self.given)


def row(network: str, mode: Any, samples: int, points: int, rounds: int, *, lazily: bool) -> tuple[object, ...]:
    """One row of the table."""
    case = Case.of(network, mode, samples, points, lazily=lazily)
    variants: dict[str, Callable[[], Any]] = {
        "by hand": case.by_hand,
        "loop": partial(case.ours, 1),
        "default": case.ours,
        "together": partial(case.ours, points),
    }
    if isinstance(case.module, F1):
        variants["multiplications"] = multiplications(case.module, points, list(case.given))
    times, found = interleaved(variants, rounds + 1)
    times = {name: taken[1:] for name, taken in times.items()}
    apart = max(abs(a - b) / (1 + abs(b)) for a, b in zip(found["together"], found["by hand"], strict=True))
    return (
        network,
        mode,
        samples,
        "loader" if lazily else "list",
        points,
        f"{1e3 * statistics.median(times['by hand']) / points:.1f}",
        f"{ratio(times['by hand'], times['loop']):.2f}",
        f"{ratio(times['by hand'], times['default']):.2f}",
        f"{ratio(times['by hand'], times['together']):.2f}",
        f"{ratio(times['by hand'], times['multiplications']):.2f}" if "multiplications" in times else "-",
        f"{apart:.0e}",
    )


def main(
    networks: tuple[str, ...] = tuple(NETWORKS),
    samples: tuple[int, ...] = (10, 100, 1000),
    points: int = 25,
    rounds: int = 5,
    threads: int = 1,
    keep_memory: bool = False,
) -> None:
    """Print the table.

    Args:
        networks: Of NETWORKS.
        samples: Sizes of the split.
        points: On the line.
        rounds: Timed rounds, after one that is not.
        threads: CPU threads.
        keep_memory: Whether glibc keeps freed memory, and does not hand it back to the kernel after each layer.
    """
    if keep_memory:
        keep_freed_memory()
    torch.set_num_threads(threads)
    rows = []
    for network in networks:
        for number in samples:
            for mode, lazily in (("running", False), ("batch", False), ("running", True)):
                rows.append(row(network, mode, number, points, rounds, lazily=lazily))
                say(*rows[-1])
    print(f"{machine()}; medians of {rounds} rounds\n")
    header = "network | BatchNorm | samples | data | points | by hand, ms a point | loop | default | together"
    print(table(f"{header} | multiplications | apart", rows))


if __name__ == "__main__":
    command(main)
