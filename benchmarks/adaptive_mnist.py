"""Let the norm test choose the batch of network F1 on MNIST, from 32 samples up, against a batch of 32 throughout.

    python benchmarks/adaptive_mnist.py DATA_DIR --out benchmarks/results/adaptive_mnist.json \
        --figure docs/images/adaptive-mnist.png

ADAM at 1e-3. All regimes of a seed have the same first weights and the same order of samples. BatchNorm sees about 16
samples in all of them, so that only the batch of the optimizer step differs. Test accuracy every 15,000 samples.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy

from lightning_gap import AdaptiveBatchSize, GhostBatchNormSwap, InMemoryLoader, LearningRateScaling
from lightning_gap.recipes.datasets import DATASETS, Splits
from lightning_gap.recipes.networks import F1

Row = dict[str, float]
SMALLEST, LARGEST, GHOST, SAMPLES_BETWEEN_TESTS = 32, 2048, 16, 15_000
FIXED = {"fixed 32": 32, "fixed 256": 256}
COLOURS = {
    "fixed 32": "tab:blue",
    "adaptive": "tab:orange",
    "adaptive inside epochs": "tab:red",
    "inside epochs, sqrt rate": "tab:purple",
    "fixed 256": "tab:gray",
}


class Digits(LightningModule):
    """F1 with mean cross-entropy and ADAM."""

    def __init__(self) -> None:
        super().__init__()
        self.network = F1()

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@dataclass
class Trace(Callback):
    """Test accuracy, batch size and what the test asks for, every so many samples and at the ends of epochs."""

    test: tuple[torch.Tensor, torch.Tensor]
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
        if self.samples // SAMPLES_BETWEEN_TESTS > len(self.rows):
            started = time.process_time()
            accuracy = evaluate(pl_module.network, *self.test)
            self.evaluating += time.process_time() - started
            metrics = trainer.callback_metrics
            row = {
                "samples": self.samples,
                "steps": self.steps,
                "batch_size": trainer.train_dataloader.batch_size * trainer.accumulate_grad_batches,
                "test_accuracy": accuracy,
                "seconds": time.process_time() - self.began - self.evaluating,
            }
            asked = {"wanted": float(metrics["batch/wanted"])} if "batch/wanted" in metrics else {}
            self.rows.append(row | asked)


@torch.no_grad()
def evaluate(network: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Accuracy in percent with the running statistics; the mode ends as it began."""
    was_training = network.training
    predicted = network.eval()(inputs).argmax(1)
    network.train(was_training)
    return 100 * float((predicted == targets).double().mean())


def callbacks(regime: str) -> list[Callback]:
    """What sets the batch and the rate."""
    if regime in FIXED:
        return []
    # Two micro-batches of 16 to begin with: the ghosts that a batch of 32 has, in as few passes as can be compared.
    adaptive = AdaptiveBatchSize(
        SMALLEST,
        max_batch_size=LARGEST,
        test="norm",
        micro_batches=2,
        decide_every_n_steps=10 if "inside epochs" in regime else None,
    )
    scaling = LearningRateScaling(base_batch_size=SMALLEST, rule="sqrt", warmup_epochs=0)
    return [adaptive, scaling] if regime.endswith("sqrt rate") else [adaptive]


def train(data: Splits, regime: str, *, seed: int, epochs: int) -> list[Row]:
    """One row for each evaluation."""
    torch.manual_seed(seed)
    module, trace = Digits(), Trace(data.test.whole())
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks(regime), GhostBatchNormSwap(GHOST, leftover="balance"), trace],
    )
    size = FIXED.get(regime, SMALLEST)
    trainer.fit(module, InMemoryLoader(data.train, batch_size=size, shuffle=True, seed=seed))
    return trace.rows


def reached(rows: list[Row], target: float) -> Row | None:
    """The first evaluation with this accuracy."""
    return next((row for row in rows if row["test_accuracy"] >= target), None)


def plus_minus(sample: list[float], form: str) -> str:
    """Mean and sample standard deviation."""
    spread = statistics.stdev(sample) if len(sample) > 1 else math.nan
    return f"{statistics.fmean(sample):{form}} ± {spread:{form}}"


def table(runs: dict[str, dict[int, list[Row]]], targets: list[float]) -> str:
    """The ends of the runs, then what each accuracy took; means only where all seeds got there."""
    lines = ["| regime | seeds | steps | last batch | asked for | test %, last epoch | best test % | seconds |"]
    lines.append("|" + "---|" * 8)
    for regime, trials in runs.items():
        ends = [rows[-1] for rows in trials.values()]
        last_epoch = [rows[-(60_000 // SAMPLES_BETWEEN_TESTS) :] for rows in trials.values()]
        cells = [
            regime,
            f"{len(ends)}",
            plus_minus([end["steps"] for end in ends], ".0f"),
            plus_minus([end["batch_size"] for end in ends], ".0f"),
            plus_minus([end["wanted"] for end in ends], ".0f") if "wanted" in ends[0] else "",
            plus_minus([statistics.fmean(row["test_accuracy"] for row in rows) for rows in last_epoch], ".2f"),
            plus_minus([max(row["test_accuracy"] for row in rows) for rows in trials.values()], ".2f"),
            plus_minus([end["seconds"] for end in ends], ".0f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| test % | regime | seeds there | steps | thousand samples | seconds | steps of fixed 32 over its |"]
    lines.append("|" + "---|" * 7)
    for target, (regime, trials) in itertools.product(targets, runs.items()):
        first = {seed: reached(rows, target) for seed, rows in trials.items()}
        there = [row for row in first.values() if row]
        cells = [f"{target}", regime, f"{len(there)} of {len(first)}"]
        if len(there) == len(first):
            base = {seed: reached(rows, target) for seed, rows in runs["fixed 32"].items()}
            ratios = [base[seed]["steps"] / row["steps"] for seed, row in first.items() if row and base.get(seed)]
            cells += [
                plus_minus([row["steps"] for row in there], ".0f"),
                plus_minus([row["samples"] / 1000 for row in there], ".0f"),
                plus_minus([row["seconds"] for row in there], ".0f"),
                " ".join(f"{ratio:.1f}" for ratio in ratios),
            ]
        else:
            cells += ["-"] * 4
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(runs: dict[str, dict[int, list[Row]]]) -> Figure:
    """Batch size and the size asked for along the epochs; test accuracy against epochs and against steps."""
    drawn = Figure(figsize=(12, 4), layout="constrained")
    sizes, by_epoch, by_step = drawn.subplots(1, 3)
    for regime, trials in runs.items():
        colour = COLOURS[regime]
        columns = list(zip(*trials.values(), strict=True))  # the rows of all seeds, evaluation by evaluation
        epochs = [rows[0]["samples"] / 60_000 for rows in columns]
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
    return drawn


def main() -> None:
    """Train what is not in the file yet, print the tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder that holds MNIST/raw")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--regimes", nargs="+", choices=list(COLOURS), default=list(COLOURS), help="to train now")
    parser.add_argument("--targets", type=float, nargs="+", default=[97.5, 98.0, 98.2])
    parser.add_argument("--out", type=Path, required=True, help="JSON file; what is in it is not trained again")
    parser.add_argument("--figure", type=Path, help="PNG file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*(does not have many workers|plain BatchNorm|LeafSpec).*")
    data = DATASETS["mnist"](given.data_dir)
    done: dict[str, list[Row]] = json.loads(given.out.read_text()) if given.out.exists() else {}
    for seed, regime in itertools.product(given.seeds, given.regimes):
        name = f"{regime}, seed {seed}"
        if name in done:
            continue
        done[name] = train(data, regime, seed=seed, epochs=given.epochs)
        print(f"{name}: {done[name][-1]}", flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(done, indent=1))
    runs: dict[str, dict[int, list[Row]]] = {}
    for regime in COLOURS:
        found = {seed: done.get(f"{regime}, seed {seed}") for seed in given.seeds}
        runs |= {regime: {seed: rows for seed, rows in found.items() if rows}} if any(found.values()) else {}
    print(table(runs, given.targets))
    if given.figure:
        figure(runs).savefig(given.figure, dpi=130)


if __name__ == "__main__":
    main()
