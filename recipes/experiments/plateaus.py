"""Batch sharpness settles near 2 / rate under SGD, Adam's preconditioned eigenvalue near 38 / rate.

Andreyev and Beneventano (2024) and Cohen et al. (2022), in miniature: a tanh network that memorises 320 digits with
random labels, squared error. Hard to fit, so that training sharpens it until the learning rate holds it back. Cost of
a run: 15 seconds (Adam) to a minute (SGD) on one thread of an AMD EPYC, beside other work.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lightning_gap import CurvatureMonitor, InMemoryLoader
from lightning_gap.functional import batch_sharpness

from ..reports.drawing import SERIES, blank, label, legend_below, line_with_band
from ..reports.parts import Chart, Numbers, Part, Published, Table
from ..runner.measurement import Measurement
from ..runner.quiet import spoken_plainly
from ..runner.trainer import make_trainer
from .experiment import Experiment, Findings
from .scales import Choice

Batch = Sequence[Tensor]
Row = dict[str, float]

SAMPLES = 320
RATES = {"sgd": (0.2, 0.3), "adam": (0.001, 0.003)}
BATCH = {"sgd": 8, "adam": SAMPLES}
EDGE = {"sgd": 2.0, "adam": 38.0}  # over the learning rate
STEPS = {"tiny": {"sgd": 400, "adam": 20}, "small": {"sgd": 24_000, "adam": 1500}}
_LOOKED_AT = 20


class Memoriser(LightningModule):
    """Two hidden layers of tanh units; half the squared distance of the scores from one-hot labels."""

    def __init__(self, optimizer: str, learning_rate: float) -> None:
        super().__init__()
        layers = [nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)]
        self.network = nn.Sequential(*layers)
        self.optimizer, self.learning_rate = optimizer, learning_rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        return self.loss(batch)

    def loss(self, batch: Batch) -> Tensor:
        """Mean over the samples."""
        distances: Tensor = (self.network(batch[0]) - one_hot(batch[1], 10)).square().sum(dim=1)
        return distances.mean() / 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with torch's own betas, or SGD without momentum."""
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.SGD
        return kind(self.parameters(), lr=self.learning_rate)


@dataclass
class Watch(Callback):
    """At the end of some epochs the curvature, by the monitor, and the batch sharpness of fresh batches."""

    monitor: CurvatureMonitor
    samples: tuple[Tensor, Tensor]
    batch_size: int
    every_n_epochs: int
    rows: list[Row] = field(default_factory=list)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        found, _, own = self.monitor.measure(trainer, pl_module)  # type: ignore[misc]
        row = {"step": trainer.global_step, "loss": found.loss, "lambda_max": found.largest}
        row |= {"preconditioned": own["preconditioned_lambda_max"], "threshold": own["preconditioned_threshold"]}
        if self.batch_size < len(self.samples[0]):
            fresh = batch_sharpness(self._losses(trainer, pl_module), pl_module.parameters(), tolerance=0.03)
            row["batch_sharpness"] = fresh.value
        self.rows.append(row)

    def _losses(self, trainer: Trainer, module: Any) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(trainer.global_step)
        for _ in itertools.count():
            drawn = torch.randperm(len(self.samples[0]), generator=generator)[: self.batch_size]
            yield lambda batch=[tensor[drawn] for tensor in self.samples]: module.loss(batch)


def memorised() -> tuple[Tensor, Tensor]:
    """The first 320 digits, around their mean, with labels drawn at random."""
    pixels = torch.from_numpy(load_digits().data[:SAMPLES] / 16).float()
    labels = torch.randint(10, (SAMPLES,), generator=torch.Generator().manual_seed(5))
    return (pixels - pixels.mean(0)) / pixels.std(), labels


def along(_: Path, *, optimizer: str, rate: float, steps: int, seed: int) -> list[Row]:
    """Train, and look at the curvature along the way.

    Args:
        _: Folder of the data, of which there is none.
        optimizer: "sgd" or "adam".
        rate: Its learning rate.
        steps: Optimizer steps, about.
        seed: Of the first weights and the order of the samples.
    """
    samples, size = memorised(), BATCH[optimizer]
    epochs = max(_LOOKED_AT, steps * size // SAMPLES)
    torch.manual_seed(seed)
    module = Memoriser(optimizer, rate)
    monitor = CurvatureMonitor(
        samples=SAMPLES, chunk_size=SAMPLES, max_products=40, probes=0, every_n_epochs=epochs, preconditioned=True
    )
    watch = Watch(monitor, samples, size, epochs // _LOOKED_AT)
    with spoken_plainly():
        trainer = make_trainer({"enable_checkpointing": False}, epochs=epochs, callbacks=[monitor, watch], logger=None)
        trainer.fit(module, InMemoryLoader(samples, batch_size=size, shuffle=True, seed=seed))
    return watch.rows


def run(choice: Choice, optimizer: str, rate: float, seed: int) -> Measurement:
    """Of an optimizer at a learning rate."""
    steps = STEPS["tiny" if choice.scale == "tiny" else "small"][optimizer]
    options = {"optimizer": optimizer, "rate": rate, "steps": steps, "seed": seed}
    return Measurement(f"plateau-{optimizer}", (), along, options, cost=20)


def needs(choice: Choice) -> Iterator[Measurement]:
    for optimizer, rates in RATES.items():
        for rate in rates:
            for seed in choice.seeds_or(3):
                yield run(choice, optimizer, rate, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    figure, (axes,) = blank(4.4)
    series = iter(SERIES)
    rows = list[Sequence[str | Numbers]]()
    for optimizer, rates in RATES.items():
        measured = "batch_sharpness" if optimizer == "sgd" else "preconditioned"
        for rate in rates:
            runs = [found[run(choice, optimizer, rate, seed)] for seed in choice.seeds_or(3)]
            edge = EDGE[optimizer] / rate
            curves = [[row[measured] / edge for row in each] for each in runs]
            done = [row["step"] / runs[0][-1]["step"] for row in runs[0]]
            line_with_band(axes, done, curves, name=f"{optimizer}, rate {rate}", like=next(series))
            late = [each[2 * len(each) // 3 :] for each in runs]
            shares, plain = (
                tuple(statistics.fmean(row[key] / edge for row in each) for each in late)
                for key in (measured, "lambda_max")
            )
            losses = Numbers(tuple(each[-1]["loss"] for each in runs), 6)
            name = f"{optimizer}, batch {BATCH[optimizer]}"
            published = Numbers(shares, 3, Published(1.0))
            rows.append((name, f"{rate}", f"{edge:g}", published, Numbers(plain, 3), losses))
    axes.axhline(1.0, color="black", linestyle=":", linewidth=1)
    label(axes, "share of the run", "over the edge")
    legend_below(figure, axes, columns=2)
    yield Chart(
        "Towards the edge",
        figure,
        "Batch sharpness over 2 / rate, and the preconditioned eigenvalue over 38 / rate: both rise to about 1.",
        "Band: 95 % interval over the seeds.",
    )
    head = ["optimizer", "rate", "edge", "over the edge, last third", "lambda_max over the edge", "loss at the end"]
    note = "Over the edge: batch sharpness for SGD, the largest eigenvalue of P^-1/2 H P^-1/2 for Adam."
    yield Table("At the edge", head, rows, note)


EXPERIMENT = Experiment(
    "Andreyev and Beneventano (2024), Cohen et al. (2022): plateaus of sharpness",
    (),
    needs,
    show,
    {"network": "64, 64, 64, 10 with tanh, squared error, 320 digits with random labels; the papers': CIFAR-10"},
)
