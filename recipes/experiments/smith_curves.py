"""Decay the learning rate or grow the batch: the curves of Smith et al. (2018), Figure 5, for network F1 on MNIST.

SGD with momentum, ghosts of 128; milestones at 30, 60 and 80 % of the epochs, as in the paper. All runs of a seed have
the same first weights and the same order of samples, so that they are one run up to the first milestone. `constant`
changes nothing and shows what the milestones are worth. Cost of a run: two minutes on one thread of an AMD EPYC.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure

from lightning_gap import BatchSizeScheduler, GhostBatchNormSwap
from lightning_gap.logging import mean_and_std

from ..evaluation import evaluate
from ..f1 import F1
from ..gap import Gap
from ..recipe import Recipe
from ..regimes import growing
from .experiment import Experiment, Results, train

COLOURS = {"constant": "tab:gray", "decay": "tab:blue", "hybrid": "tab:orange", "growth": "tab:green"}
HYPERPARAMETERS: dict[str, Any] = {
    "epochs": 16,
    "small_batch_size": 128,
    "large_batch_size": 6000,  # a tenth of the samples, as in the paper
    "ghost_batch_size": 128,
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": 0.1,
    "learning_rate_steps": {5: 1 / 5, 10: 1 / 25, 13: 1 / 125},  # the paper's factor
}
FIRST = min(HYPERPARAMETERS["learning_rate_steps"])  # up to which all runs of a seed are alike


def constant(recipe: Recipe) -> list[Callback]:
    """Small batch and first learning rate throughout."""
    recipe.learning_rate_steps = {}
    return decay(recipe)


def decay(recipe: Recipe) -> list[Callback]:
    """The learning rate is divided at each milestone."""
    recipe.batch_size = recipe.small_batch_size
    return [GhostBatchNormSwap(recipe.ghost_batch_size)]


def hybrid(recipe: Recipe) -> list[Callback]:
    """The batch is multiplied at the first milestone, the learning rate divided at the others."""
    (first, factor), *others = recipe.learning_rate_steps.items()
    recipe.learning_rate_steps = {epoch: other / factor for epoch, other in others}
    small = recipe.small_batch_size
    return [BatchSizeScheduler({0: small, first: round(small / factor)}), *decay(recipe)]


def growth(recipe: Recipe) -> list[Callback]:
    """The batch is multiplied at each milestone, up to the large one; the learning rate is divided by the rest."""
    return [*growing(recipe), *decay(recipe)]


class SmithF1(F1):
    """F1 with this experiment's regimes."""

    regimes: ClassVar = {"constant": constant, "decay": decay, "hybrid": hybrid, "growth": growth}


@dataclass
class Curve(Callback):
    """Losses and test accuracy after each epoch, in evaluation mode."""

    rows: list[dict[str, float]] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    evaluating: float = 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        started = time.perf_counter()
        data = trainer.datamodule  # type: ignore[attr-defined]
        pl_module.eval()
        test_loss, accuracy = evaluate(pl_module, data.evaluation("test", 10_000))
        train_loss, _ = evaluate(pl_module, [data.train[torch.arange(min(10_000, len(data.train)))]])
        pl_module.train()
        self.evaluating += time.perf_counter() - started
        self.rows.append(
            {
                "test_accuracy": 100 * accuracy,
                "test_loss": test_loss,
                "train_loss": train_loss,
                "updates": trainer.global_step,
                "seconds": time.perf_counter() - self.began - self.evaluating,
            }
        )


def measure(run: str, seed: int, data_dir: Path, **changed: Any) -> list[dict[str, float]]:
    """One row for each epoch.

    Args:
        run: A regime of `SmithF1`.
        seed: Seed of the first weights and of the order of the samples.
        data_dir: Folder with MNIST's files.
        changed: Overrides of ``HYPERPARAMETERS``.
    """
    curve = Curve()
    train(lambda: SmithF1(run, **{**HYPERPARAMETERS, **changed}), seed, data_dir, curve)
    return curve.rows


def table(results: Results) -> str:
    """How far the curves are from that of `decay` after the first milestone, beside how far its seeds are apart."""
    decay, decay_loss = curves(results, "decay", "test_accuracy"), curves(results, "decay", "train_loss")
    lines = [
        "| schedule | seeds | updates | seconds | test % at the end | training loss at the end "
        "| test minus decay, points | largest difference of means | of one seed | training loss over decay's, % |",
        "|" + "---|" * 10,
    ]
    for run in results:
        mine, loss = curves(results, run, "test_accuracy"), curves(results, run, "train_loss")
        both = [seed for seed in mine if seed in decay]
        apart = differences((decay[seed], mine[seed]) for seed in both)
        means = [statistics.fmean(epoch) for epoch in zip(*apart, strict=True)]
        pairs = [zip(decay_loss[seed][FIRST:], loss[seed][FIRST:], strict=True) for seed in both]
        ratios = [statistics.geometric_mean(b / a for a, b in pair) for pair in pairs]
        cells = [
            run,
            f"{len(mine)}",
            f"{next(iter(curves(results, run, 'updates').values()))[-1]:.0f}",
            mean_and_std([curve[-1] for curve in curves(results, run, "seconds").values()]),
            mean_and_std([curve[-1] for curve in mine.values()], 2),
            mean_and_std([curve[-1] for curve in loss.values()], 5),
        ]
        if both:
            cells += [
                interval([statistics.fmean(each) for each in apart]),
                f"{max(map(abs, means)):.2f}",
                f"{max(abs(point) for each in apart for point in each):.2f}",
                interval([100 * (ratio - 1) for ratio in ratios]),
            ]
        lines.append(f"| {' | '.join([*cells, *['-'] * (10 - len(cells))])} |")
    return "\n".join([*lines, "", between_seeds(decay), f"Alike to the bit before: {alike(results)}"])


def curves(results: Results, run: str, key: str) -> dict[int, list[float]]:
    """One curve for each seed."""
    return {seed: [row[key] for row in rows] for seed, rows in results.get(run, {}).items()}


def differences(pairs: Iterable[tuple[list[float], list[float]]]) -> list[list[float]]:
    """Of curves, from the first milestone on."""
    return [[b - a for a, b in zip(one[FIRST:], other[FIRST:], strict=True)] for one, other in pairs]


def interval(sample: Sequence[float]) -> str:
    """Mean and 95 % interval by Student's t; the mean alone of one value.

    Example:
        >>> interval([1.0, 2.0, 3.0])
        '+2.000 (-0.484 to +4.484)'
    """
    gap = Gap(tuple(sample))
    mean, half = gap.mean, gap.half_width
    if math.isnan(half):
        return f"{mean:+.3f}"
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def between_seeds(decay: dict[int, list[float]]) -> str:
    """How far the seeds of one schedule are apart after the first milestone."""
    apart = differences(itertools.combinations(decay.values(), 2))
    if not apart:
        return f"{len(decay)} seeds of decay: nothing to tell of the distance between two"
    spreads = [statistics.stdev(epoch) for epoch in zip(*decay.values(), strict=True)][FIRST:]
    largest = max(abs(point) for each in apart for point in each)
    return (
        f"Two seeds of decay from epoch {FIRST + 1} on: at most {largest:.2f} "
        f"points apart; standard deviation between seeds {statistics.fmean(spreads):.3f} (mean over the epochs)"
    )


def alike(results: Results) -> bool:
    """Whether all schedules of a seed have the same rows before the first milestone."""
    keys = ("test_accuracy", "test_loss", "train_loss", "updates")
    early: dict[int, set[str]] = {}
    for trials in results.values():
        for seed, rows in trials.items():
            early.setdefault(seed, set()).add(str([[row[key] for key in keys] for row in rows[:FIRST]]))
    return all(len(different) == 1 for different in early.values())


def figure(results: Results) -> Figure:
    """Test accuracy and training loss, against epochs and against updates: mean and range over the seeds."""
    canvas = Figure(figsize=(9.5, 6.5), layout="constrained")
    axes = canvas.subplots(2, 2, sharey="row")
    for column, axis in enumerate(("epoch", "updates")):
        for ax, key in zip(axes[:, column], ("test_accuracy", "train_loss"), strict=True):
            for run in results:
                by_epoch = list(zip(*curves(results, run, key).values(), strict=True))
                updates = next(iter(curves(results, run, "updates").values()))
                x = range(1, len(by_epoch) + 1) if axis == "epoch" else updates
                mean = list(map(statistics.fmean, by_epoch))
                ax.plot(x, mean, color=COLOURS[run], marker="o", markersize=2.5, linewidth=1.2, label=run)
                low, high = list(map(min, by_epoch)), list(map(max, by_epoch))
                ax.fill_between(x, low, high, color=COLOURS[run], alpha=0.15, linewidth=0)
            if axis == "epoch":
                for milestone in HYPERPARAMETERS["learning_rate_steps"]:
                    ax.axvline(milestone + 0.5, color="0.6", linewidth=0.8, linestyle=":")
        axes[1, column].set(xlabel="epochs" if axis == "epoch" else "updates", yscale="log")
    axes[0, 0].set(ylabel="test accuracy (%)", ylim=(96.4, 98.9))
    axes[1, 0].set(ylabel="training loss")
    axes[0, 0].legend(frameon=False, loc="lower right")
    return canvas


EXPERIMENT = Experiment(tuple(COLOURS), (0, 1, 2), measure, table, figure)
