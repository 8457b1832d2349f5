"""A large batch that is worse, and what each remedy gives: a small network of one's own on scikit-learn's digits.

python docs/examples/what_now.py    # minutes on one core; prints the tables of docs/large-batch-run-is-worse.md

Everything here is what a user would write: a LightningModule, loaders, a Trainer and callbacks. The learning rates were
chosen from five each at batch 32, on seeds 100 to 104: 0.05 for SGD, 0.005 for ADAM.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gap import BatchSizeScheduler, GhostBatchNormSwap, LearningRateScaling

SMALL, LARGE, EPOCHS = 32, 320, 10
STUDENT_T = {2: 12.706, 3: 4.303, 5: 2.776, 10: 2.262}  # 97.5 % quantile, by the number of seeds


class ConvNet(LightningModule):
    """Two convolutions with BatchNorm; SGD with momentum or ADAM, under a cosine schedule."""

    def __init__(self, optimizer: str, learning_rate: float, epochs: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        settings = self.hparams
        if settings.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(self.parameters(), settings.learning_rate, momentum=0.9)
        else:
            optimizer = torch.optim.Adam(self.parameters(), settings.learning_rate)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings.epochs)]


@dataclass(frozen=True)
class Run:
    """What is trained: a batch size, callbacks, and for how long."""

    batch_size: int = LARGE
    callbacks: Callable[[], Sequence[Callback]] = tuple
    epochs: int = EPOCHS


@dataclass(frozen=True)
class Result:
    steps: int
    train_loss: float
    accuracy: float  # percent of the test samples


def train(run: Run, *, optimizer: str, learning_rate: float, seed: int) -> Result:
    """One run; the split, the first weights and the order of samples depend on the seed alone."""
    images, labels = load_digits(return_X_y=True)
    data = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    training, test = ([values[part] for values in data] for part in (order[:1280], order[1280:]))
    seed_everything(seed, verbose=False)
    module = ConvNet(optimizer, learning_rate, run.epochs)
    trainer = Trainer(
        max_epochs=run.epochs,
        accelerator="cpu",
        callbacks=list(run.callbacks()),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(*training), batch_size=run.batch_size, shuffle=True))
    module.eval()
    with torch.no_grad():
        loss = cross_entropy(module(training[0]), training[1]).item()
        accuracy = (module(test[0]).argmax(1) == test[1]).double().mean().item()
    return Result(trainer.global_step, loss, 100 * accuracy)


def scaled(**settings: Any) -> Run:
    return Run(callbacks=lambda: [LearningRateScaling(SMALL, **settings)])


GROWN = {0: 32, 3: 64, 5: 128, 7: 320}
SGD = {
    "batch 32": Run(SMALL),
    "batch 320": Run(),
    "`LearningRateScaling(32, warmup_epochs=0)`": scaled(warmup_epochs=0),
    "`LearningRateScaling(32, warmup_epochs=1)`": scaled(warmup_epochs=1),
    "`LearningRateScaling(32)`: a warmup of 5": scaled(),
    '`LearningRateScaling(32, rule="sqrt")`': scaled(rule="sqrt"),
    "`GhostBatchNormSwap(32)`": Run(callbacks=lambda: [GhostBatchNormSwap(32)]),
    "`LearningRateScaling(32)` and `GhostBatchNormSwap(32)`": Run(
        callbacks=lambda: [LearningRateScaling(SMALL), GhostBatchNormSwap(32)]
    ),
    f"`BatchSizeScheduler({GROWN})`": Run(SMALL, lambda: [BatchSizeScheduler(GROWN)]),
    "the same and `LearningRateScaling(32, warmup_epochs=0)`": Run(
        SMALL, lambda: [BatchSizeScheduler(GROWN), LearningRateScaling(SMALL, warmup_epochs=0)]
    ),
    "batch 320 for 100 epochs": Run(epochs=EPOCHS * LARGE // SMALL),
}
WARMUPS = ("`LearningRateScaling(32, warmup_epochs=0)`", "`LearningRateScaling(32, warmup_epochs=1)`")
ADAM = {name: run for name, run in SGD.items() if name not in WARMUPS}


def interval(values: Sequence[float]) -> str:
    """Mean with the half-width of its 95 % interval by Student's t."""
    half = STUDENT_T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


def table(optimizer: str, learning_rate: float, runs: dict[str, Run], seeds: Sequence[int]) -> None:
    """Print a row for each run; gaps are paired by seed with the first one."""
    print(f"\n{optimizer}, learning rate {learning_rate}, {len(seeds)} seeds\n")
    print("| run | steps | training loss | test % | points below batch 32 |\n|---|---|---|---|---|")
    base: list[Result] = []
    for name, run in runs.items():
        found = [train(run, optimizer=optimizer, learning_rate=learning_rate, seed=seed) for seed in seeds]
        base = base or found
        below = interval([small.accuracy - result.accuracy for small, result in zip(base, found, strict=True)])
        loss, accuracy = (statistics.mean(getattr(r, what) for r in found) for what in ("train_loss", "accuracy"))
        print(f"| {name} | {found[0].steps} | {loss:.3f} | {accuracy:.1f} | {below if found is not base else ''} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, choices=sorted(STUDENT_T))
    seeds = range(parser.parse_args().seeds)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    table("sgd", 0.05, SGD, seeds)
    table("adam", 0.005, ADAM, seeds)


if __name__ == "__main__":
    main()
