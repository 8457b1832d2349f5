"""Decay the rate or grow the batch: the curves of Smith et al. (2018), Figure 5, for network F1 on MNIST.

    python benchmarks/smith_curves.py DATA_DIR --out benchmarks/results/smith_curves.json \
        --figure docs/images/smith-curves.png

SGD with momentum, ghosts of 128. All schedules of a seed have the same first weights and the same order of samples, so
that they are one run up to the first milestone. `constant` changes nothing and shows what the milestones are worth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import MultiStepLR

from lightning_gap import BatchSizeScheduler, GhostBatchNormSwap, InMemoryLoader
from lightning_gap.functional import SmithGrowth
from lightning_gap.recipes.datasets import DATASETS, Splits
from lightning_gap.recipes.networks import F1

Run = dict[str, Any]
COLOURS = {"constant": "tab:gray", "decay": "tab:blue", "hybrid": "tab:orange", "growth": "tab:green"}


@dataclass(frozen=True)
class Regime:
    """What every schedule has in common; milestones at 30, 60 and 80 % of the epochs, as in the paper."""

    batch_size: int = 128
    max_batch_size: int = 6000
    factor: float = 5.0
    learning_rate: float = 0.1
    epochs: int = 16
    milestones: tuple[int, ...] = (5, 10, 13)

    def grows_at(self, schedule: str) -> tuple[int, ...]:
        """Milestones that multiply the batch."""
        return {"constant": (), "decay": (), "hybrid": self.milestones[:1], "growth": self.milestones}[schedule]

    def decays_at(self, schedule: str) -> tuple[int, ...]:
        """Milestones that divide the rate."""
        return {"constant": (), "decay": self.milestones, "hybrid": self.milestones[1:], "growth": ()}[schedule]


class Digits(LightningModule):
    """F1 with mean cross-entropy, SGD with momentum 0.9, and a rate divided at milestones."""

    def __init__(self, regime: Regime, decays_at: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.regime, self.decays_at = F1(), regime, decays_at

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.regime.learning_rate, momentum=0.9)
        return [optimizer], [MultiStepLR(optimizer, self.decays_at, gamma=1 / self.regime.factor)]


@dataclass
class Curve(Callback):
    """Losses and test accuracy after each epoch, in evaluation mode."""

    data: Splits
    rows: list[dict[str, float]] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    evaluating: float = 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        started = time.perf_counter()
        test = self.data.test.whole()
        scores, loss = evaluate(pl_module.network, *test)
        row = {
            "test_accuracy": 100 * float((scores.argmax(1) == test[1]).double().mean()),
            "test_loss": loss,
            "train_loss": evaluate(pl_module.network, *self.data.train[torch.arange(10_000)])[1],
            "updates": trainer.global_step,
        }
        self.evaluating += time.perf_counter() - started
        self.rows.append({**row, "seconds": time.perf_counter() - self.began - self.evaluating})


@torch.no_grad()
def evaluate(network: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Scores and mean loss with the running statistics; the mode ends as it began."""
    was_training = network.training
    scores = network.eval()(inputs)
    network.train(was_training)
    return scores, float(cross_entropy(scores, targets))


def train(data: Splits, regime: Regime, schedule: str, seed: int) -> list[dict[str, float]]:
    """One row for each epoch."""
    torch.manual_seed(seed)
    module, curve = Digits(regime, regime.decays_at(schedule)), Curve(data)
    grow = SmithGrowth(regime.batch_size, regime.grows_at(schedule), regime.max_batch_size, regime.factor)
    trainer = Trainer(
        max_epochs=regime.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[BatchSizeScheduler(grow), GhostBatchNormSwap(128), curve],
    )
    trainer.fit(module, InMemoryLoader(data.train, batch_size=regime.batch_size, shuffle=True, seed=seed))
    return curve.rows


def curves(runs: list[Run], schedule: str, key: str) -> dict[int, list[float]]:
    """One curve for each seed."""
    chosen = (run for run in runs if run["schedule"] == schedule)
    return {run["seed"]: [row[key] for row in run["epochs"]] for run in chosen}


def differences(pairs: Iterable[tuple[list[float], list[float]]], first: int) -> list[list[float]]:
    """Of curves, from an epoch on."""
    return [[b - a for a, b in zip(one[first:], other[first:], strict=True)] for one, other in pairs]


def interval(sample: list[float]) -> str:
    """Mean and 95 % interval by Student's t."""
    quantiles = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}
    if len(sample) not in quantiles:
        return f"{statistics.fmean(sample):+.3f}"
    mean, half = statistics.fmean(sample), quantiles[len(sample)] * statistics.stdev(sample) / math.sqrt(len(sample))
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def table(runs: list[Run], regime: Regime) -> str:
    """How far the curves are from that of `decay` after the first milestone, beside how far its seeds are apart."""
    first = regime.milestones[0]
    decay, decay_loss = curves(runs, "decay", "test_accuracy"), curves(runs, "decay", "train_loss")
    lines = [
        "| schedule | seeds | updates | seconds | test % at the end | training loss at the end "
        "| test minus decay, points | largest difference of means | of one seed | training loss over decay's, % |",
        "|" + "---|" * 10,
    ]
    for schedule in COLOURS:
        mine, loss = curves(runs, schedule, "test_accuracy"), curves(runs, schedule, "train_loss")
        apart = differences(((decay[seed], mine[seed]) for seed in mine), first)
        means = [statistics.fmean(epoch) for epoch in zip(*apart, strict=True)]
        both = {seed: zip(decay_loss[seed][first:], loss[seed][first:], strict=True) for seed in loss}
        ratios = [statistics.geometric_mean(b / a for a, b in pairs) for pairs in both.values()]
        cells = [
            schedule,
            f"{len(mine)}",
            f"{next(iter(curves(runs, schedule, 'updates').values()))[-1]:.0f}",
            plus_minus([curve[-1] for curve in curves(runs, schedule, "seconds").values()], ".0f"),
            plus_minus([curve[-1] for curve in mine.values()], ".2f"),
            plus_minus([curve[-1] for curve in loss.values()], ".5f"),
            interval([statistics.fmean(each) for each in apart]),
            f"{max(map(abs, means)):.2f}",
            f"{max(abs(point) for each in apart for point in each):.2f}",
            interval([100 * (ratio - 1) for ratio in ratios]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", between_seeds(decay, first), f"Alike to the bit before: {alike(runs, first)}"])


def between_seeds(decay: dict[int, list[float]], first: int) -> str:
    """How far the seeds of one schedule are apart after the first milestone."""
    apart = differences(itertools.combinations(decay.values(), 2), first)
    if not apart:
        return "One seed of decay"
    spreads = [statistics.stdev(epoch) for epoch in zip(*decay.values(), strict=True)][first:]
    largest = max(abs(point) for each in apart for point in each)
    return (
        f"Two seeds of decay from epoch {first + 1} on: at most {largest:.2f} "
        f"points apart; standard deviation between seeds {statistics.fmean(spreads):.3f} (mean over the epochs)"
    )


def plus_minus(sample: list[float], form: str) -> str:
    """Mean and sample standard deviation."""
    spread = statistics.stdev(sample) if len(sample) > 1 else math.nan
    return f"{statistics.fmean(sample):{form}} ± {spread:{form}}"


def alike(runs: list[Run], first: int) -> bool:
    """Whether all schedules of a seed have the same rows before the first milestone."""
    keys = ("test_accuracy", "test_loss", "train_loss", "updates")
    early: dict[int, set[str]] = {}
    for run in runs:
        early.setdefault(run["seed"], set()).add(str([[row[key] for key in keys] for row in run["epochs"][:first]]))
    return all(len(different) == 1 for different in early.values())


def figure(runs: list[Run], regime: Regime) -> Figure:
    """Test accuracy and training loss, against epochs and against updates: mean and range over the seeds."""
    drawn = Figure(figsize=(9.5, 6.5), layout="constrained")
    axes = drawn.subplots(2, 2, sharey="row")
    for column, axis in enumerate(("epoch", "updates")):
        for ax, key in zip(axes[:, column], ("test_accuracy", "train_loss"), strict=True):
            for schedule, colour in COLOURS.items():
                by_epoch = list(zip(*curves(runs, schedule, key).values(), strict=True))
                updates = next(iter(curves(runs, schedule, "updates").values()))
                x = range(1, regime.epochs + 1) if axis == "epoch" else updates
                mean = list(map(statistics.fmean, by_epoch))
                ax.plot(x, mean, color=colour, marker="o", markersize=2.5, linewidth=1.2, label=schedule)
                low, high = list(map(min, by_epoch)), list(map(max, by_epoch))
                ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            if axis == "epoch":
                for milestone in regime.milestones:
                    ax.axvline(milestone + 0.5, color="0.6", linewidth=0.8, linestyle=":")
        axes[1, column].set(xlabel="epochs" if axis == "epoch" else "updates", yscale="log")
    axes[0, 0].set(ylabel="test accuracy (%)", ylim=(96.4, 98.9))
    axes[1, 0].set(ylabel="training loss")
    axes[0, 0].legend(frameon=False, loc="lower right")
    return drawn


def main() -> None:
    """Train what is not in the file yet, print the table and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder that holds MNIST/raw")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--schedules", nargs="+", choices=list(COLOURS), default=list(COLOURS), help="to train now")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--milestones", type=int, nargs="+", default=[5, 10, 13])
    parser.add_argument("--out", type=Path, required=True, help="JSON file; what is in it is not trained again")
    parser.add_argument("--figure", type=Path, help="PNG file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*(does not have many workers|plain BatchNorm|LeafSpec).*")
    regime = Regime(epochs=given.epochs, milestones=tuple(given.milestones))
    data = DATASETS["mnist"](given.data_dir)
    runs: list[Run] = json.loads(given.out.read_text()) if given.out.exists() else []
    for seed, schedule in itertools.product(given.seeds, given.schedules):
        if any(run["seed"] == seed and run["schedule"] == schedule for run in runs):
            continue
        runs.append({"seed": seed, "schedule": schedule, "epochs": train(data, regime, schedule, seed)})
        print(f"{schedule} {seed}: {runs[-1]['epochs'][-1]}", flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(runs, indent=1))
    print(table(runs, regime))
    if given.figure:
        figure(runs, regime).savefig(given.figure, dpi=130)


if __name__ == "__main__":
    main()
