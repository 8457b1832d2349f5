"""The F1 rows of Keskar et al. (2017), Tables 3 and 4, from our own solutions: both maximisers, both BatchNorm modes.

python benchmarks/f1_checkpoints.py DATA_DIR CHECKPOINTS --kind small --seeds 0 1 2 3 4     # and --kind large
python benchmarks/keskar_f1_tables.py DATA_DIR CHECKPOINTS --out benchmarks/results/keskar-f1.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_gap.functional import (
    DatasetLoss,
    FixedSubset,
    epsilon_name,
    sharpness_profile,
    subspace_sharpness,
)
from lightning_gap.recipes.datasets import DATASETS
from lightning_gap.recipes.networks import F1

EPSILONS = (1e-3, 5e-4)
SOLUTIONS = {"small": "epoch-30", "large": "epoch-100"}


def mean_loss(network: torch.nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of a batch of images and labels."""
    return cross_entropy(network(batch[0]), batch[1])


def measure(network: torch.nn.Module, dataset: TensorDataset, settings: argparse.Namespace) -> dict[str, Any]:
    """Every number of one solution, by row, BatchNorm mode and epsilon."""
    batches = list(FixedSubset(dataset, samples=settings.samples, chunk_size=settings.chunk_size))
    weights = list(network.parameters())
    found: dict[str, Any] = {}
    for mode in ("running", "batch"):
        loss = DatasetLoss(network, mean_loss, batches, batch_norm=mode)
        full = {
            "corner": sharpness_profile(loss, weights, EPSILONS),
            "lbfgsb": sharpness_profile(loss, weights, EPSILONS, method="lbfgsb"),
        }
        for method, results in full.items():
            for r in results:
                found[f"full {method} {mode} {epsilon_name(r.epsilon)}"] = r.percent
        found[f"loss {mode}"] = full["corner"][0].loss
        fewer = list(FixedSubset(dataset, samples=settings.subspace_samples, chunk_size=settings.subspace_samples))
        loss = DatasetLoss(network, mean_loss, fewer, batch_norm=mode)
        for epsilon in EPSILONS:
            for method in ("corner", "lbfgsb"):
                drawn = subspace_sharpness(loss, weights, epsilon=epsilon, draws=settings.draws, method=method)
                found[f"subspace {method} {mode} {epsilon_name(epsilon)}"] = drawn.percent
                found[f"subspace-spread {method} {mode} {epsilon_name(epsilon)}"] = drawn.standard_deviation
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    """Mean and sample standard deviation over the trials, a row for each way to measure."""
    by_kind = {kind: [r for name, r in results.items() if name.startswith(kind)] for kind in SOLUTIONS}
    lines = ["| measured how | epsilon | small | large | large / small |", "|---|---|---|---|---|"]
    for row in next(iter(results.values())):
        cells = []
        for trials in by_kind.values():
            values = [trial[row] for trial in trials]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append((statistics.fmean(values), spread))
        *how, last = row.split()
        shown = " | ".join(f"{mean:.4g} ± {spread:.2g}" for mean, spread in cells)
        ratio = cells[1][0] / cells[0][0] if cells[0][0] else float("nan")
        lines.append(f"| {' '.join(how)} | {last} | {shown} | {ratio:.3g} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--chunk_size", type=int, default=5_000)
    parser.add_argument("--subspace_samples", type=int, default=2_000, help="in one chunk")
    parser.add_argument("--draws", type=int, default=5, help="random subspaces for each solution")
    parser.add_argument("--out", type=Path, help="JSON file; what is in it is not measured again")
    settings = parser.parse_args()
    dataset = TensorDataset(*DATASETS["mnist"](settings.data_dir).train.whole())
    results = json.loads(settings.out.read_text()) if settings.out and settings.out.exists() else {}
    network = F1()
    for seed in settings.seeds:
        for kind, epoch in SOLUTIONS.items():
            if f"{kind}-{seed}" in results:
                continue
            network.load_state_dict(torch.load(settings.checkpoints / f"{kind}-{seed}" / f"{epoch}.pt"))
            results[f"{kind}-{seed}"] = measure(network, dataset, settings)
            print(f"{kind}-{seed}: {results[f'{kind}-{seed}']}", flush=True)
            if settings.out:
                settings.out.parent.mkdir(parents=True, exist_ok=True)
                settings.out.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
