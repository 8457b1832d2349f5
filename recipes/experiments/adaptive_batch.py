"""Let the norm test of Byrd et al. (2012) choose the batch of network F1 on MNIST, beside fixed batches.

ADAM at 1e-3, from 32 samples up. All runs of a seed have the same first weights and order of samples. BatchNorm
sees about 16 samples in all of them, so that only the batch of the optimizer step differs. Test accuracy every 15,000
samples. Cost of a run: 80 to 160 seconds on one thread of an AMD EPYC.
"""

from __future__ import annotations

import itertools
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure

from lightning_gap import AdaptiveBatchSize, GhostBatchNormSwap, LearningRateScaling

from ..datasets import DATASETS
from ..evaluation import evaluate
from ..f1 import F1
from ..recipe import Recipe
from ..reports.drawing import SERIES, blank, label, legend_below
from ..reports.parts import Chart, Numbers, Part, Table
from ..runner.measurement import Measurement
from ..runner.quiet import spoken_plainly
from ..runner.trainer import make_trainer
from .experiment import Experiment, Findings
from .scales import Choice

Row = dict[str, float]
Rows = list[Row]
Results = dict[str, dict[int, Rows]]
TARGETS = (97.5, 98.0, 98.2)  # test accuracies, percent
REGIMES = ("fixed-32", "adaptive", "inside-epochs", "inside-epochs-sqrt-lr", "fixed-256")
EPOCHS = 8
HYPERPARAMETERS: dict[str, Any] = {
    "epochs": EPOCHS,
    "small_batch_size": 32,
    "large_batch_size": 2048,  # as far as the test may grow it
    "ghost_batch_size": 16,
    "optimizer": "adam",
    "learning_rate": 1e-3,
}
SCALES: dict[str, dict[str, Any]] = {
    "tiny": {"data": "digits", "every_n_samples": 700, "changed": {"inputs": 64, "width": 32, "large_batch_size": 256}},
    "small": {"data": "mnist", "every_n_samples": 15_000, "changed": {}},
    "paper": {"data": "mnist", "every_n_samples": 15_000, "changed": {}},  # the paper's is logistic regression
}


def fixed_small(recipe: Recipe) -> list[Callback]:
    """The small batch throughout."""
    recipe.batch_size = recipe.small_batch_size
    return [GhostBatchNormSwap(recipe.ghost_batch_size, leftover="balance")]


def fixed_large(recipe: Recipe) -> list[Callback]:
    """Eight times the small batch throughout."""
    recipe.batch_size = 8 * recipe.small_batch_size
    return [GhostBatchNormSwap(recipe.ghost_batch_size, leftover="balance")]


def adaptive(recipe: Recipe, every_n_steps: int | None = None) -> list[Callback]:
    """The norm test decides at the ends of epochs."""
    # Two micro-batches of 16 to begin with: the ghosts that a batch of 32 has, in as few passes as can be compared.
    growth = AdaptiveBatchSize(
        recipe.small_batch_size,
        max_batch_size=recipe.large_batch_size,
        test="norm",
        micro_batches=2,
        decide_every_n_steps=every_n_steps,
    )
    return [growth, *fixed_small(recipe)]


def inside_epochs(recipe: Recipe) -> list[Callback]:
    """The norm test decides every ten steps."""
    return adaptive(recipe, every_n_steps=10)


def inside_epochs_sqrt_lr(recipe: Recipe) -> list[Callback]:
    """The norm test decides every ten steps, and the learning rate follows by the square root."""
    scaling = LearningRateScaling(recipe.small_batch_size, rule="sqrt", warmup_epochs=0)
    return [*inside_epochs(recipe), scaling]


class AdaptiveF1(F1):
    """F1 with this experiment's regimes."""

    regimes: ClassVar = {
        "fixed-32": fixed_small,
        "adaptive": adaptive,
        "inside-epochs": inside_epochs,
        "inside-epochs-sqrt-lr": inside_epochs_sqrt_lr,
        "fixed-256": fixed_large,
    }


@dataclass
class Trace(Callback):
    """Test accuracy, batch size and what the test asks for, each time that a number of samples has passed."""

    every_n_samples: int
    rows: Rows = field(default_factory=list)
    samples: int = 0
    steps: int = 0
    evaluating: float = 0.0
    began: float = field(default_factory=time.process_time)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.samples += len(batch[0])
        if trainer.global_step == self.steps:  # a micro-batch that ends no step
            return
        self.steps = trainer.global_step
        if self.samples // self.every_n_samples > len(self.rows):
            started = time.process_time()
            pl_module.eval()
            _, accuracy = evaluate(pl_module, trainer.datamodule.evaluation("test", 10_000))  # type: ignore[attr-defined]
            pl_module.train()
            self.evaluating += time.process_time() - started
            loader: Any = trainer.train_dataloader
            metrics = trainer.callback_metrics
            row = {
                "samples": self.samples,
                "steps": self.steps,
                "batch_size": loader.batch_size * trainer.accumulate_grad_batches,
                "test_accuracy": 100 * accuracy,
                "seconds": time.process_time() - self.began - self.evaluating,
            }
            asked = {"wanted": float(metrics["batch/wanted"])} if "batch/wanted" in metrics else {}
            self.rows.append(row | asked)


def traced(data_dir: Path, *, run: str, seed: int, data: str, every_n_samples: int, changed: Mapping[str, Any]) -> Rows:
    """Train a run, and give a row for each evaluation.

    Args:
        data_dir: Folder with the data's files.
        run: A regime of `AdaptiveF1`.
        seed: Seed of the first weights and of the order of the samples.
        data: Name of the data set.
        every_n_samples: Samples between two evaluations.
        changed: Hyperparameters that differ from the recipe's.
    """
    trace = Trace(every_n_samples)
    torch.manual_seed(seed)
    recipe = AdaptiveF1(run, **changed)
    with spoken_plainly():
        # Where ghosts have the size of the small batch, they are meant to be that batch.
        warnings.filterwarnings("ignore", message=".*plain BatchNorm")
        trainer = make_trainer({"log_every_n_steps": 10}, epochs=recipe.epochs, callbacks=[trace], logger=None)
        trainer.fit(recipe, DATASETS[data](recipe, data_dir=data_dir, seed=seed))
    return trace.rows


def trace(choice: Choice, run: str, seed: int) -> Measurement:
    """Of a regime and a seed."""
    at_scale = SCALES[choice.scale]
    settings = at_scale | {"changed": {**HYPERPARAMETERS, **at_scale["changed"]}}
    return Measurement(f"trace-{run}", (), traced, {"run": run, "seed": seed, **settings}, cost=8)


def needs(choice: Choice) -> Iterator[Measurement]:
    for seed in choice.seeds_or(2):
        for run in REGIMES:
            yield trace(choice, run, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    results = {run: {seed: found[trace(choice, run, seed)] for seed in choice.seeds_or(2)} for run in REGIMES}
    yield from tables(results)
    yield Chart(
        "Batch sizes and accuracy",
        figure(results),
        "Batch size and test accuracy along the epochs.",
        "A line for each seed; dots: the size that the test asks for.",
    )


def reached(rows: Rows, target: float) -> Row | None:
    """The first evaluation with this accuracy."""
    return next((row for row in rows if row["test_accuracy"] >= target), None)


def tables(results: Results) -> Iterator[Table]:
    """The ends of the runs, then what each accuracy took; means only where all seeds got there."""
    head = ["regime", "steps", "last batch", "asked for", "test accuracy %, last epoch", "best", "seconds"]
    rows = []
    for regime, trials in results.items():
        ends = [rows[-1] for rows in trials.values()]
        last_epoch = [[row for row in rows if row["samples"] > 7 / 8 * rows[-1]["samples"]] for rows in trials.values()]
        rows.append(
            (
                regime,
                Numbers(tuple(end["steps"] for end in ends), 0),
                Numbers(tuple(end["batch_size"] for end in ends), 0),
                Numbers(tuple(end["wanted"] for end in ends), 0) if "wanted" in ends[0] else "",
                Numbers(tuple(statistics.fmean(row["test_accuracy"] for row in rows) for rows in last_epoch)),
                Numbers(tuple(max(row["test_accuracy"] for row in rows) for rows in trials.values())),
                Numbers(tuple(end["seconds"] for end in ends), 0),
            )
        )
    yield Table("Ends of the runs", head, rows)
    head = [
        "test accuracy %, regime",
        "seeds there",
        "steps",
        "thousand samples",
        "seconds",
        "steps, fixed-32 over its",
    ]
    reaching = []
    for target, (regime, trials) in itertools.product(TARGETS, results.items()):
        first = {seed: reached(rows, target) for seed, rows in trials.items()}
        there = [row for row in first.values() if row]
        cells: list[str | Numbers] = [f"{target}, {regime}", f"{len(there)} of {len(first)}"]
        if len(there) == len(first):
            base = {seed: reached(rows, target) for seed, rows in results.get("fixed-32", {}).items()}
            pairs = [(base.get(seed), row) for seed, row in first.items()]
            cells += [
                Numbers(tuple(row["steps"] for row in there), 0),
                Numbers(tuple(row["samples"] / 1000 for row in there), 0),
                Numbers(tuple(row["seconds"] for row in there), 0),
                Numbers(tuple(small["steps"] / row["steps"] for small, row in pairs if small and row), 1),
            ]
        else:
            cells += ["-"] * 4
        reaching.append(cells)
    yield Table("What an accuracy took", head, reaching)


def figure(results: Results) -> Figure:
    """Batch size above test accuracy, along the epochs; a line for each seed."""
    canvas, (sizes, accuracy) = blank(5.6, rows=2)
    for (regime, trials), like in zip(results.items(), SERIES, strict=False):
        style: dict[str, Any] = {"color": like.color, "linestyle": like.line, "linewidth": 1.1}
        for rows in trials.values():
            epochs = [EPOCHS * row["samples"] / rows[-1]["samples"] for row in rows]
            sizes.plot(epochs, [row["batch_size"] for row in rows], **style, label=regime)
            if "wanted" in rows[0]:
                wanted = [row["wanted"] for row in rows]
                sizes.plot(epochs, wanted, linestyle="none", marker=".", markersize=3, color=like.color)
            accuracy.plot(epochs, [row["test_accuracy"] for row in rows], **style)
    label(sizes, "", "batch size", log="y")
    label(accuracy, "epoch", "test accuracy (%)")
    legend_below(canvas, sizes, columns=2)
    return canvas


EXPERIMENT = Experiment("Byrd et al. (2012): a batch size chosen by the norm test", (), needs, show)
