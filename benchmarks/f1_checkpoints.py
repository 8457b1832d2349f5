"""Train F1 on MNIST with small and large batches, and keep its weights along the way: what `sharpness.py` measures on.

    python benchmarks/f1_checkpoints.py DATA_DIR OUT --kind small --seeds 0 1 2 3 4
    python benchmarks/f1_checkpoints.py DATA_DIR OUT --kind large --seeds 0 1 2 3 4

ADAM with its defaults, as in the paper, in a plain loop. Writes state dicts to OUT/<kind>-<seed>/epoch-<k>.pt; epoch 0
is the network as it was initialised.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from lightning_gap.recipes.datasets import DATASETS, InMemoryData, Splits
from lightning_gap.recipes.networks import F1


@dataclass(frozen=True)
class Kind:
    """Samples per step, and the epochs whose end is kept."""

    batch_size: int
    epochs: tuple[int, ...]


KINDS = {"small": Kind(256, (0, 1, 2, 5, 10, 20, 30)), "large": Kind(6000, (0, 2, 5, 10, 20, 40, 60, 100))}


def train(data: Splits, folder: Path, *, batch_size: int, epochs: Collection[int], seed: int, one_order: bool) -> None:
    """Train up to the last of ``epochs`` and write the weights at the end of each.

    Args:
        data: Samples to train on.
        folder: Where to write; made if it is not there.
        batch_size: Samples per step.
        epochs: Which to keep; 0 is the start.
        seed: Of the first weights and of the order of the samples.
        one_order: Whether all epochs go through the samples in the order of the first.
    """
    torch.manual_seed(seed)
    network = F1()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = InMemoryData(data, batch_size=batch_size, seed=seed).train_dataloader()
    assert loader.sampler is not None  # it shuffles
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    for epoch in range(max(epochs) + 1):
        if epoch > 0:
            loader.sampler.set_epoch(0 if one_order else epoch - 1)
            network.train()
            for inputs, targets in loader:
                optimizer.zero_grad(set_to_none=True)
                cross_entropy(network(inputs), targets).backward()
                optimizer.step()
        if epoch in epochs:
            torch.save(network.state_dict(), folder / f"epoch-{epoch}.pt")
            print(f"{folder.name} epoch {epoch}: {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    """Train one kind with every seed asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder that holds MNIST/raw")
    parser.add_argument("out", type=Path, help="where to write the checkpoints")
    parser.add_argument("--kind", choices=KINDS, required=True, help="batches of 256 or of 6,000 samples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, nargs="+", help="epochs to keep instead of the kind's own")
    parser.add_argument("--one-order", action="store_true", help="do not shuffle anew in each epoch")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    kind, data = KINDS[given.kind], DATASETS["mnist"](given.data_dir)
    epochs = given.epochs or kind.epochs
    for seed in given.seeds:
        folder = given.out / f"{given.kind}-{seed}"
        train(data, folder, batch_size=kind.batch_size, epochs=epochs, seed=seed, one_order=given.one_order)


if __name__ == "__main__":
    main()
