"""Let the norm test of Byrd et al. (2012) choose the batch of network F1 on MNIST, beside fixed batches.

ADAM at 1e-3, from 32 samples up. All runs of a seed have the same first weights and order of samples. BatchNorm
sees about 16 samples in all of them, so that only the batch of the optimizer step differs. Test accuracy every 15,000
samples. Cost of a run: 80 to 160 seconds on one thread of an AMD EPYC.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure

from lightning_gap import AdaptiveBatchSize, GhostBatchNormSwap, LearningRateScaling
from lightning_gap.logging import mean_and_std

from ..evaluation import evaluate
from ..f1 import F1
from ..recipe import Recipe
from .experiment import Experiment, Results, train

Row = dict[str, float]
SAMPLES_BETWEEN_TESTS, SAMPLES = 15_000, 60_000
TARGETS = (97.5, 98.0, 98.2)  # test accuracies, percent
COLOURS = {
    "fixed-32": "tab:blue",
    "adaptive": "tab:orange",
    "inside-epochs": "tab:red",
    "inside-epochs-sqrt-lr": "tab:purple",
    "fixed-256": "tab:gray",
}
HYPERPARAMETERS: dict[str, Any] = {
    "epochs": 8,
    "small_batch_size": 32,
    "large_batch_size": 2048,  # as far as the test may grow it
    "ghost_batch_size": 16,
    "optimizer": "adam",
    "learning_rate": 1e-3,
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
    rows: list[Row] = field(default_factory=list)
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


def measure(run: str, seed: int, data_dir: Path, **changed: Any) -> list[Row]:
    """One row for each evaluation.

    Args:
        run: A regime of `AdaptiveF1`.
        seed: Seed of the first weights and of the order of the samples.
        data_dir: Folder with MNIST's files.
        changed: Overrides of ``HYPERPARAMETERS``; or every_n_samples, between two evaluations.
    """
    trace = Trace(changed.pop("every_n_samples", SAMPLES_BETWEEN_TESTS))
    hyperparameters: Mapping[str, Any] = {**HYPERPARAMETERS, **changed}
    train(lambda: AdaptiveF1(run, **hyperparameters), seed, data_dir, trace, log_every_n_steps=10)
    return trace.rows


def reached(rows: list[Row], target: float) -> Row | None:
    """The first evaluation with this accuracy."""
    return next((row for row in rows if row["test_accuracy"] >= target), None)


def table(results: Results) -> str:
    """The ends of the runs, then what each accuracy took; means only where all seeds got there."""
    lines = ["| regime | seeds | steps | last batch | asked for | test %, last epoch | best test % | seconds |"]
    lines.append("|" + "---|" * 8)
    for regime, trials in results.items():
        ends = [rows[-1] for rows in trials.values()]
        last_epoch = [rows[-(SAMPLES // SAMPLES_BETWEEN_TESTS) :] for rows in trials.values()]
        cells = [
            regime,
            f"{len(ends)}",
            mean_and_std([end["steps"] for end in ends]),
            mean_and_std([end["batch_size"] for end in ends]),
            mean_and_std([end["wanted"] for end in ends]) if "wanted" in ends[0] else "",
            mean_and_std([statistics.fmean(row["test_accuracy"] for row in rows) for rows in last_epoch], 2),
            mean_and_std([max(row["test_accuracy"] for row in rows) for rows in trials.values()], 2),
            mean_and_std([end["seconds"] for end in ends]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| test % | regime | seeds there | steps | thousand samples | seconds | steps of fixed-32 over its |"]
    lines.append("|" + "---|" * 7)
    for target, (regime, trials) in itertools.product(TARGETS, results.items()):
        first = {seed: reached(rows, target) for seed, rows in trials.items()}
        there = [row for row in first.values() if row]
        cells = [f"{target}", regime, f"{len(there)} of {len(first)}"]
        if len(there) == len(first):
            base = {seed: reached(rows, target) for seed, rows in results.get("fixed-32", {}).items()}
            pairs = [(base.get(seed), row) for seed, row in first.items()]
            ratios = [small["steps"] / row["steps"] for small, row in pairs if small and row]
            cells += [
                mean_and_std([row["steps"] for row in there]),
                mean_and_std([row["samples"] / 1000 for row in there]),
                mean_and_std([row["seconds"] for row in there]),
                " ".join(f"{ratio:.1f}" for ratio in ratios),
            ]
        else:
            cells += ["-"] * 4
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(results: Results) -> Figure:
    """Batch size and the size asked for along the epochs; test accuracy against epochs and against steps."""
    canvas = Figure(figsize=(12, 4), layout="constrained")
    sizes, by_epoch, by_step = canvas.subplots(1, 3)
    for regime, trials in results.items():
        colour = COLOURS[regime]
        columns = list(zip(*trials.values(), strict=True))  # the rows of all seeds, evaluation by evaluation
        epochs = [rows[0]["samples"] / SAMPLES for rows in columns]
        for rows in trials.values():
            sizes.plot(epochs, [row["batch_size"] for row in rows], color=colour, linewidth=1.1)
            if "wanted" in rows[0]:
                sizes.plot(epochs, [row["wanted"] for row in rows], color=colour, linewidth=0.8, linestyle=":")
        accuracies = [[row["test_accuracy"] for row in rows] for rows in columns]
        steps = [statistics.fmean(row["steps"] for row in rows) for rows in columns]
        for axes, x in ((by_epoch, epochs), (by_step, steps)):
            axes.plot(x, list(map(statistics.fmean, accuracies)), color=colour, linewidth=1.2, label=regime)
            low, high = list(map(min, accuracies)), list(map(max, accuracies))
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    sizes.set(yscale="log", xlabel="epochs", ylabel="batch size (dotted: what the test asks for)")
    sizes.set_yticks([32, 64, 128, 256, 512, 1024], labels=["32", "64", "128", "256", "512", "1024"])
    sizes.minorticks_off()
    by_epoch.set(xlabel="epochs", ylabel="test accuracy (%)", ylim=(95.5, 98.8))
    by_step.set(xlabel="optimizer steps", xscale="log", ylim=(95.5, 98.8))
    by_epoch.legend(frameon=False, loc="lower right", fontsize="small")
    return canvas


EXPERIMENT = Experiment(tuple(COLOURS), (0, 1), measure, table, figure)
