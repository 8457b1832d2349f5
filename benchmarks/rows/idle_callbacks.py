"""What each callback of the catalogue costs in a step in which it has nothing to do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measuring import PLAIN, quiet, training_step
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import get_total_norm

import lightning_gap as gap
from lightning_gap.recipes import F1
from rows.row import Row

PEER, EMPTY = "a step of F1 on digits", "an empty Callback of Lightning's"
BATCH, NEVER = 32, 10**6
HELD_OUT = [(torch.randn(BATCH, 8), torch.arange(BATCH) % 3)]
MONITORED: dict[str, Any] = {"samples": BATCH, "chunk_size": BATCH}
# A callback, and into how many micro-batches the step is split.
IDLE: dict[str, tuple[Callable[[], Callback], int]] = {
    "GhostBatchNormSwap": (lambda: gap.GhostBatchNormSwap(BATCH), 1),
    "LearningRateScaling": (lambda: gap.LearningRateScaling(16, warmup_epochs=0), 1),
    "LearningRateScaling, warming up": (lambda: gap.LearningRateScaling(16, warmup_epochs=1), 1),
    "OptimizerScaling": (lambda: gap.OptimizerScaling(16, "sqrt"), 1),
    "BatchSizeScheduler": (lambda: gap.BatchSizeScheduler(lambda _: BATCH), 1),
    "BatchSizeScheduler, by steps": (lambda: gap.BatchSizeScheduler({0: BATCH, NEVER: 64}, unit="steps"), 1),
    "BatchSizeScheduler, by samples": (lambda: gap.BatchSizeScheduler({0: BATCH, NEVER: 64}, unit="samples"), 1),
    "AdaptiveBatchSize": (
        lambda: gap.AdaptiveBatchSize(BATCH, BATCH, micro_batches=2, measure_every_n_steps=NEVER),
        2,
    ),
    "PiggybackWarmStart": (lambda: gap.PiggybackWarmStart(1, 2 * BATCH, optimizer_state="keep"), 1),
    "ExactAccumulation": (gap.ExactAccumulation, 1),
    "ExactAccumulation, accumulating": (gap.ExactAccumulation, 4),
    "ResumeExactly": (gap.ResumeExactly, 1),
    "StopOnNaN": (gap.StopOnNaN, 1),
    "RecomputeBatchNorm": (lambda: gap.RecomputeBatchNorm("end", 1), 1),
    "SharpnessAwareMinimization": (lambda: gap.SharpnessAwareMinimization(start=0.99), 1),
    "SharpnessMonitor": (lambda: gap.SharpnessMonitor(every_n_epochs=NEVER, **MONITORED), 1),
    "CurvatureMonitor": (lambda: gap.CurvatureMonitor(every_n_epochs=NEVER, **MONITORED), 1),
    "CriticalSharpnessMonitor": (lambda: gap.CriticalSharpnessMonitor(every_n_steps=NEVER), 1),
    "WeightDistanceMonitor": (lambda: gap.WeightDistanceMonitor(every_n_epochs=NEVER), 1),
    "GradientNoiseScaleMonitor": (
        lambda: gap.GradientNoiseScaleMonitor(every_n_epochs=NEVER, samples=BATCH, chunk_size=8),
        1,
    ),
    "GeneralizationGapMonitor": (
        lambda: gap.GeneralizationGapMonitor(every_n_epochs=NEVER, validation_data=HELD_OUT, **MONITORED),
        1,
    ),
}
WORK_IN_EVERY_STEP = (
    "AdversarialTraining",
    "ConservativeTraining",
    "GradientPenalty",
    "MultiplicativeNoise",
    "StabilityTraining",
)


class Small(LightningModule):
    """About the smallest step there is."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class BatchStarts(Callback):
    """When each batch started, in processor time of this process."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *_: object) -> None:
        self.times.append(time.process_time())


def rows(rounds: int, *, quick: bool, batches: int | None = None) -> Iterator[Row]:
    """A step of F1 on 32 digits, about 5 ms, with the callback beside one without: promised is at most 1 % more.

    Measured is what a batch of a far smaller step takes more, from its start to that of the next, so that nothing is
    missed that a callback hangs on loader, optimizer or step: the processor time of the fastest tenth of the batches
    of a fit, less that of a fit with an empty `Callback` right before. The step itself is measured in between, as a
    busy machine slows both. Of a step that is split this is the cost for each micro-batch.
    """
    quiet()
    batches = batches or (60 if quick else 120)
    step = training_step(F1.on("digits"), (1, 8, 8), 32)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in [EMPTY, *IDLE]}
    _fit(None, 1, batches), _several(step, batches // 4)  # much is done once
    for _ in range(rounds):
        for name, (make, parts) in {EMPTY: (Callback, 1), **IDLE}.items():
            without = _fit(None if name == EMPTY else Callback(), parts, batches)
            more = _fit(make(), parts, batches) - without
            found[name].append((more, _several(step, batches // 10)))
    notes = {"StopOnNaN": f"its work: the norm of the gradient, {_norm_of_f1():.0f} µs for that of F1"}
    for name, pairs in found.items():
        amount = f"{1e6 * statistics.median(more for more, _ in pairs):.0f} µs more"
        yield Row(name, PEER, tuple(1 + more / of for more, of in pairs), amount, notes.get(name, ""))
    for name in WORK_IN_EVERY_STEP:
        yield Row(name, PEER, found="never idle: [its cost](../benchmarks/results/plugin-costs-cpu.md)")


def _norm_of_f1() -> float:
    """Microseconds that `StopOnNaN` takes to look at the gradient of F1, far larger than that of the small step."""
    gradient = [torch.randn_like(weight) for weight in F1.on("digits").parameters()]
    return 1e6 * _several(lambda: float(get_total_norm(gradient)), 20)


def _several(step: Callable[[], object], times: int) -> float:
    """Seconds of a step."""
    taken = []
    for _ in range(max(times, 1)):
        began = time.process_time()
        step()
        taken.append(time.process_time() - began)
    return _fastest_tenth(taken)


def _fastest_tenth(seconds: list[float]) -> float:
    """The longest of it: what else the machine does makes the others longer."""
    return sorted(seconds)[len(seconds) // 10]


def _fit(callback: Callback | None, parts: int, batches: int) -> float:
    """Seconds of a batch of a fit that ends inside its first epoch."""
    torch.manual_seed(0)
    size = BATCH // parts
    tensors = torch.randn(2 * size * batches, 8), torch.arange(2 * size * batches) % 3
    starts = BatchStarts()
    options: dict[str, Any] = PLAIN | {
        "accelerator": "cpu",
        "max_epochs": 2,  # of twice as many batches: a run that ends before anything is due
        "max_steps": batches // parts,
        "accumulate_grad_batches": parts,
        "callbacks": [starts, *([callback] if callback else [])],
    }
    Trainer(**options).fit(Small(), gap.InMemoryLoader(tensors, batch_size=size))
    return _fastest_tenth([after - before for before, after in pairwise(starts.times)])
