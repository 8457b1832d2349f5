"""The F1 rows of Keskar et al. (2017), Tables 3 and 4: sharpness by both maximisers, in both BatchNorm modes.

Solutions on MNIST of batches of 256, 30 epochs, and of 6,000, 100 epochs; ADAM with its defaults, as in the paper. Cost
of a run: three to seven minutes on one thread of an AMD EPYC.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_gap.functional import DatasetLoss, FixedSubset, epsilon_name, sharpness_profile, subspace_sharpness

from ..datasets import MNIST
from ..f1 import F1
from .experiment import Experiment, Results, train

EPSILONS = (1e-3, 5e-4)
METHODS: tuple[Literal["corner", "lbfgsb"], ...] = ("corner", "lbfgsb")
EPOCHS = {"small": 30, "large": 100}
KEPT = {"small": (0, 1, 2, 5, 10, 20, 30), "large": (0, 2, 5, 10, 20, 40, 60, 100)}


class KeepWeights(Callback):
    """Write the network's weights into a folder before the first epoch, epoch 0, and after chosen ones."""

    def __init__(self, folder: Path, epochs: Iterable[int]) -> None:
        self.folder, self.epochs = folder, set(epochs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(pl_module, 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(pl_module, trainer.current_epoch + 1)

    def _keep(self, recipe: LightningModule, epoch: int) -> None:
        if epoch in self.epochs:
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(recipe.network.state_dict(), self.folder / f"epoch-{epoch}.pt")  # type: ignore[union-attr]


def measure(
    run: str,
    seed: int,
    data_dir: Path,
    *,
    samples: int = 10_000,
    chunk_size: int = 5_000,
    subspace_samples: int = 2_000,
    draws: int = 5,
    weights: Path | None = None,
    **changed: Any,
) -> dict[str, float]:
    """Every number of one solution, by row, BatchNorm mode and epsilon.

    Args:
        run: A regime of `F1`, "small" or "large".
        seed: Seed of the first weights and of the order of the samples.
        data_dir: Folder with MNIST's files.
        samples: Training samples that the full-space sharpness is measured on.
        chunk_size: Samples evaluated at once, and so part of what batch statistics mean.
        subspace_samples: Training samples for the subspaces, in one chunk.
        draws: Random subspaces for each solution.
        weights: Folder for the weights after some epochs, WEIGHTS/small-0/epoch-30.pt for instance.
        changed: Overrides of the recipe's hyperparameters.
    """
    hyperparameters = {"epochs": EPOCHS[run], **changed}
    keep = [] if weights is None else [KeepWeights(weights / f"{run}-{seed}", KEPT[run])]
    recipe, data = train(lambda: F1(run, **hyperparameters), seed, data_dir, *keep)
    network, dataset = recipe.network.cpu().eval(), TensorDataset(*_whole(data))
    subsets = {
        "full": list(FixedSubset(dataset, samples=samples, chunk_size=chunk_size)),
        "subspace": list(FixedSubset(dataset, samples=subspace_samples, chunk_size=subspace_samples)),
    }
    found: dict[str, float] = {}
    for mode in ("running", "batch"):
        loss = DatasetLoss(network, _mean_loss, subsets["full"], batch_norm=mode)
        for method in METHODS:
            for result in sharpness_profile(loss, list(network.parameters()), EPSILONS, method=method):
                found[f"full {method} {mode} {epsilon_name(result.epsilon)}"] = result.percent
                found[f"loss {mode}"] = result.loss
        loss = DatasetLoss(network, _mean_loss, subsets["subspace"], batch_norm=mode)
        for epsilon in EPSILONS:
            for method in METHODS:
                drawn = subspace_sharpness(
                    loss, list(network.parameters()), epsilon=epsilon, draws=draws, method=method
                )
                found[f"subspace {method} {mode} {epsilon_name(epsilon)}"] = drawn.percent
                found[f"subspace-spread {method} {mode} {epsilon_name(epsilon)}"] = drawn.standard_deviation
    return found


def table(results: Results) -> str:
    """Mean and sample standard deviation over the seeds, a row for each way to measure."""
    lines = ["| measured how | epsilon | small | large | large / small |", "|---|---|---|---|---|"]
    first = next(iter(next(iter(results.values())).values()))
    for row in first:
        samples = [[trial[row] for trial in results.get(run, {}).values()] for run in EPOCHS]
        means = [statistics.fmean(values) if values else float("nan") for values in samples]
        spreads = [statistics.stdev(values) if len(values) > 1 else float("nan") for values in samples]
        *how, last = row.split()
        cells = [f"{mean:.4g} ± {spread:.2g}" for mean, spread in zip(means, spreads, strict=True)]
        ratio = means[1] / means[0] if means[0] else float("nan")
        lines.append(f"| {' '.join(how)} | {last} | {' | '.join(cells)} | {ratio:.3g} |")
    return "\n".join(lines)


def _whole(data: MNIST) -> tuple[Tensor, Tensor]:
    """All training samples, where the network is measured."""
    inputs, targets = data.train.whole()
    return inputs.cpu(), targets.cpu()


def _mean_loss(network: nn.Module, batch: list[Tensor]) -> Tensor:
    return cross_entropy(network(batch[0]), batch[1])


EXPERIMENT = Experiment(tuple(EPOCHS), (0, 1, 2, 3, 4), measure, table)
