"""Train the solutions of F1 on MNIST that sharpness.py measures, and keep them after some epochs.

    python benchmarks/sharpness_checkpoints.py DATA_DIR CHECKPOINTS --seeds '[0, 1, 2, 3, 4]'

CHECKPOINTS/small-0/epoch-30.pt is the network's `state_dict` of the small batch, seed 0, after 30 epochs. Seven minutes
a run on one thread.
"""

from __future__ import annotations

from pathlib import Path

import torch
from measuring import command

from lightning_gap.recipes import F1
from lightning_gap.recipes.runner.quiet import spoken_plainly
from lightning_gap.recipes.runner.run_store import RunSpec, RunStore

KEPT = {"small": (0, 1, 2, 5, 10, 20, 30), "large": (0, 2, 5, 10, 20, 40, 60, 100)}


def main(data_dir: Path, checkpoints: Path, seeds: tuple[int, ...] = (0,)) -> None:
    """Train what is not there.

    Args:
        data_dir: Folder with MNIST's files.
        checkpoints: Where they go.
        seeds: Of the initial weights and the order of the samples.
    """
    torch.set_num_threads(1)
    store = RunStore(checkpoints, data_dir)
    for seed in seeds:
        for regime, kept in KEPT.items():
            spec = RunSpec(F1, regime, "mnist", seed, {"epochs": kept[-1]}, kept_epochs=kept)
            with spoken_plainly():
                store.make(spec)
            for epoch in kept:
                file = checkpoints / f"{regime}-{seed}" / f"epoch-{epoch}.pt"
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.save(store.trained(spec).state(epoch), file)


if __name__ == "__main__":
    command(main)
