"""Decay the learning rate or grow the batch: the curves of Smith et al. (2018), Figure 5, for network F1 on MNIST.

SGD with momentum, ghosts of 128; milestones at 30, 60 and 80 % of the epochs, as in the paper. All runs of a seed have
the same first weights and the same order of samples, so that they are one run up to the first milestone. `constant`
changes nothing and shows what the milestones are worth. Cost of a run: two minutes on one thread of an AMD EPYC.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from lightning.pytorch import Callback
from matplotlib.figure import Figure

from lightning_gap import BatchSizeScheduler, GhostBatchNormSwap

from ..f1 import F1
from ..recipe import Recipe
from ..regimes import growing
from ..reports.drawing import SERIES, blank, label, legend_below, line_with_band
from ..reports.parts import Chart, Numbers, Part, Remark, Table
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec
from .experiment import Experiment, Findings
from .measures import by_epoch
from .scales import Choice

SCHEDULES = ("constant", "decay", "hybrid", "growth")
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
SCALES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": (
        "digits",
        {
            "inputs": 64,
            "width": 32,
            "epochs": 6,
            "small_batch_size": 32,
            "large_batch_size": 160,
            "ghost_batch_size": 32,
            "learning_rate_steps": {2: 1 / 5, 4: 1 / 25},
        },
    ),
    "small": ("mnist", {}),
    "paper": ("mnist", {}),  # the paper's network is a wide ResNet
}
Results = dict[str, dict[int, list[dict[str, float]]]]  # a row for each epoch, by schedule and seed


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


def run(choice: Choice, schedule: str, seed: int) -> RunSpec:
    """With the weights after every epoch."""
    data, changed = SCALES[choice.scale]
    changed = {**HYPERPARAMETERS, **changed}
    return RunSpec(SmithF1, schedule, data, seed, changed, kept_epochs=tuple(range(changed["epochs"] + 1)))


def curve(spec: RunSpec) -> Measurement:
    """Losses and test accuracy after each epoch, in evaluation mode."""
    return Measurement("by-epoch", (spec,), by_epoch, {"epochs": list(spec.kept_epochs[1:])})


def needs(choice: Choice) -> Iterator[Measurement]:
    for seed in choice.seeds_or(3):
        for schedule in SCHEDULES:
            yield curve(run(choice, schedule, seed))


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    specs = {name: {seed: run(choice, name, seed) for seed in choice.seeds_or(3)} for name in SCHEDULES}
    results = {name: {seed: found[curve(spec)] for seed, spec in own.items()} for name, own in specs.items()}
    seconds = {name: [found[spec].seconds for spec in own.values()] for name, own in specs.items()}
    first = min(specs["decay"][choice.seeds_or(3)[0]].hyperparameters["learning_rate_steps"])
    yield from tables(results, seconds, first)
    yield Chart(
        "Curves against epochs",
        figure(results, "epoch", specs["decay"][choice.seeds_or(3)[0]].hyperparameters["learning_rate_steps"]),
        "Test accuracy and training loss of the schedules against epochs: those that decay or grow are alike.",
        "Band: 95 % interval over the seeds. Dotted: the milestones.",
    )
    yield Chart(
        "Curves against optimizer steps",
        figure(results, "step"),
        "The same against optimizer steps: the batch that grows takes far fewer.",
    )


def tables(results: Results, seconds: Mapping[str, Sequence[float]], first: int) -> Iterator[Part]:
    """How far the curves are from that of `decay` after the first milestone, beside how far its seeds are apart."""
    decay, decay_loss = curves(results, "decay", "test_accuracy"), curves(results, "decay", "train_loss")
    head = ["schedule", "optimizer steps", "seconds", "test accuracy %, end", "training loss, end"]
    head += ["test minus decay, points", "largest difference of means", "of one seed", "training loss over decay's, %"]
    rows = []
    for name in results:
        mine, loss = curves(results, name, "test_accuracy"), curves(results, name, "train_loss")
        apart = differences(((decay[seed], mine[seed]) for seed in mine), first)
        means = [statistics.fmean(epoch) for epoch in zip(*apart, strict=True)]
        pairs = [zip(decay_loss[seed][first:], loss[seed][first:], strict=True) for seed in mine]
        ratios = [statistics.geometric_mean(b / a for a, b in pair) for pair in pairs]
        rows.append(
            (
                name,
                f"{next(iter(curves(results, name, 'step').values()))[-1]:.0f}",
                Numbers(tuple(seconds[name]), 0),
                Numbers(tuple(values[-1] for values in mine.values())),
                Numbers(tuple(values[-1] for values in loss.values()), 5),
                Numbers(tuple(statistics.fmean(each) for each in apart), 3, differences=True),
                f"{max(map(abs, means)):.2f}",
                f"{max(abs(point) for each in apart for point in each):.2f}",
                Numbers(tuple(100 * (ratio - 1) for ratio in ratios), 2, differences=True),
            )
        )
    yield Table("Schedules", head, rows, "Differences from the first milestone on, mean over the epochs.")
    yield Remark(f"{between_seeds(decay, first)} Alike to the bit before: {alike(results, first)}.")


def curves(results: Results, run: str, key: str) -> dict[int, list[float]]:
    """One curve for each seed."""
    return {seed: [row[key] for row in rows] for seed, rows in results.get(run, {}).items()}


def differences(pairs: Iterable[tuple[list[float], list[float]]], first: int) -> list[list[float]]:
    """Of curves, from the first milestone on."""
    return [[b - a for a, b in zip(one[first:], other[first:], strict=True)] for one, other in pairs]


def between_seeds(decay: dict[int, list[float]], first: int) -> str:
    """How far the seeds of one schedule are apart after the first milestone."""
    apart = differences(itertools.combinations(decay.values(), 2), first)
    if not apart:
        return f"{len(decay)} seed of decay: nothing to tell of the distance between two."
    spreads = [statistics.stdev(epoch) for epoch in zip(*decay.values(), strict=True)][first:]
    largest = max(abs(point) for each in apart for point in each)
    return (
        f"Two seeds of decay from epoch {first + 1} on: at most {largest:.2f} "
        f"points apart; standard deviation between seeds {statistics.fmean(spreads):.3f} (mean over the epochs)."
    )


def alike(results: Results, first: int) -> bool:
    """Whether all schedules of a seed have the same rows before the first milestone."""
    keys = ("test_accuracy", "test_loss", "train_loss", "step")
    early: dict[int, set[str]] = {}
    for trials in results.values():
        for seed, rows in trials.items():
            early.setdefault(seed, set()).add(str([[row[key] for key in keys] for row in rows[:first]]))
    return all(len(different) == 1 for different in early.values())


def figure(results: Results, against: str, milestones: Iterable[int] = ()) -> Figure:
    """Test accuracy above training loss, against "epoch" or "step"."""
    canvas, (accuracy, loss) = blank(5.2, rows=2)
    for schedule, like in zip(results, SERIES, strict=False):
        for axes, key in ((accuracy, "test_accuracy"), (loss, "train_loss")):
            x = next(iter(curves(results, schedule, against).values()))
            line_with_band(axes, x, list(curves(results, schedule, key).values()), name=schedule, like=like)
            for milestone in milestones:
                axes.axvline(milestone + 0.5, color="0.6", linewidth=0.8, linestyle=":")
    label(accuracy, "", "test accuracy (%)")
    label(loss, "epoch" if against == "epoch" else "optimizer step", "training loss", log="y")
    legend_below(canvas, accuracy, columns=2)
    return canvas


EXPERIMENT = Experiment("Smith et al. (2018), Figure 5: decay the learning rate or grow the batch", (), needs, show)
