"""What exact BatchNorm statistics change: a narrow F1 on scikit-learn's digits, tested after each epoch with either.

python docs/examples/exact_batch_norm.py    # minutes; prints a table for docs/methods/recompute-batch-norm.md

The runs of a row pair differ in nothing but the statistics, since `RecomputeBatchNorm` does not change training. With
averaged weights (`EMAWeightAveraging`, of lightning 2.6) the running statistics are those that Lightning averages.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
from collections.abc import Callable, Sequence

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging

from lightning_gap import RecomputeBatchNorm
from lightning_gap.recipes import F1, Digits

EPOCHS = (1, 2, 5, 10, 30)
WIDTH = 64  # instead of 512, so that a minute is enough
STUDENT_T = {2: 12.706, 3: 4.303, 5: 2.776, 10: 2.262}  # 97.5 % quantile, by the number of seeds
RUNS: dict[str, tuple[str, Callable[[], Sequence[Callback]]]] = {
    "`large`": ("large", tuple),
    "`linear-lr`": ("linear-lr", tuple),
    "`ghost-lr`": ("ghost-lr", tuple),
    "`linear-lr`, weights averaged": ("linear-lr", lambda: [EMAWeightAveraging(decay=0.9)]),
}


class Curve(Callback):
    """The accuracy of each epoch, in percent."""

    def __init__(self) -> None:
        self.accuracy: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.accuracy.append(100 * float(trainer.callback_metrics["validation/accuracy"]))


def curve(regime: str, callbacks: Sequence[Callback], *, epochs: int, seed: int) -> list[float]:
    """Test accuracy after each epoch; weights and order depend on the seed alone."""
    seed_everything(seed, verbose=False)
    recipe = F1.on("digits", regime, epochs=epochs, validation_size=0, width=WIDTH)
    data = Digits(recipe, seed=seed)
    data.setup("fit")
    kept = Curve()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*callbacks, kept],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(recipe, data.train_dataloader(), data.test_dataloader())
    return kept.accuracy


def table(names: Sequence[str], seeds: Sequence[int], epochs: Sequence[int] = EPOCHS) -> None:
    """One row pair for each run, and the difference paired by seed with its 95 % interval."""
    print(f"| test accuracy %, {len(seeds)} seeds | " + " | ".join(f"epoch {epoch}" for epoch in epochs) + " |")
    print("|---" * (len(epochs) + 1) + "|")
    for name in names:
        regime, make = RUNS[name]
        running = [curve(regime, make(), epochs=max(epochs), seed=seed) for seed in seeds]
        exact = [curve(regime, [*make(), RecomputeBatchNorm()], epochs=max(epochs), seed=seed) for seed in seeds]
        cells: dict[str, list[str]] = {"running": [], "exact": [], "difference": []}
        for epoch in epochs:
            ends = [[run[epoch - 1] for run in runs] for runs in (running, exact)]
            differences = [b - a for a, b in zip(*ends, strict=True)]
            half = STUDENT_T[len(seeds)] * statistics.stdev(differences) / math.sqrt(len(seeds))
            cells["running"].append(f"{statistics.mean(ends[0]):.1f}")
            cells["exact"].append(f"{statistics.mean(ends[1]):.1f}")
            cells["difference"].append(f"{statistics.mean(differences):+.1f} ± {half:.1f}")
        for kind, values in cells.items():
            print(f"| {name}, {kind} | " + " | ".join(values) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5, choices=sorted(STUDENT_T))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    table(list(RUNS), range(parser.parse_args().seeds))


if __name__ == "__main__":
    main()
