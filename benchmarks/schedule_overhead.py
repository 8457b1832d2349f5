"""What a schedule callback costs in a step where nothing is due, beside a step of 5 ms.

A whole step varies by more than that, so the time spent inside the callback's own hooks, and in those it hangs on the
optimizer, is measured: the median over all steps of several fits, interleaved.

    python benchmarks/schedule_overhead.py --rounds 7
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measuring import PLAIN, command, table

from lightning_gap import (
    AdaptiveBatchSize,
    BatchSizeScheduler,
    ExactAccumulation,
    InMemoryLoader,
    LearningRateScaling,
    PiggybackWarmStart,
)
from lightning_gap.callbacks._hyperparameter_factors import HyperparameterFactors

STEPS, BATCH, STEP_SECONDS = 200, 32, 5e-3


class Linear(LightningModule):
    """The smallest step there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 3)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Stopwatch(Callback):
    """Adds up the seconds of the functions it was given to time; one number for each step. Listed last."""

    def __init__(self) -> None:
        self.now, self.steps = 0.0, []  # type: float, list[float]

    def times(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            self.now += time.perf_counter() - began
            return result

        return timed

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step > len(self.steps):
            self.steps.append(self.now)
            self.now = 0.0


def _tokens(batch: list[torch.Tensor]) -> int:
    return batch[0].numel()


CALLBACKS: dict[str, Callable[[], Callback]] = {
    "an idle one": Callback,
    "LearningRateScaling": lambda: LearningRateScaling(16, warmup_epochs=0),
    "LearningRateScaling, warming up": lambda: LearningRateScaling(16, warmup_epochs=1),
    "ExactAccumulation": ExactAccumulation,
    "ExactAccumulation, 4 micro-batches": ExactAccumulation,
    "BatchSizeScheduler": lambda: BatchSizeScheduler(lambda _: BATCH),
    "BatchSizeScheduler, by steps": lambda: BatchSizeScheduler({0: BATCH, 10**9: 2 * BATCH}, unit="steps"),
    "BatchSizeScheduler, by tokens": lambda: BatchSizeScheduler(lambda _: BATCH, unit="tokens", count_tokens=_tokens),
    "BatchSizeScheduler, by samples, 4 micro-batches": lambda: BatchSizeScheduler(
        {0: BATCH, 10**9: 2 * BATCH}, unit="samples", max_micro_batch=BATCH // 4
    ),
    "PiggybackWarmStart": lambda: PiggybackWarmStart(1, 2 * BATCH, optimizer_state="keep"),
    "AdaptiveBatchSize, 2 micro-batches": lambda: AdaptiveBatchSize(
        BATCH, BATCH, micro_batches=2, measure_every_n_steps=10**6
    ),
}


def hook_seconds(name: str) -> list[float]:
    """Seconds in the callback's hooks, for every step of one fit but the first ten."""
    callback, stopwatch = CALLBACKS[name](), Stopwatch()
    for hook in (hook for hook in dir(Callback) if hook.startswith("on_")):
        setattr(callback, hook, stopwatch.times(getattr(callback, hook)))
    factors: Any = HyperparameterFactors
    before, after = factors._before, factors._after
    factors._before, factors._after = stopwatch.times(before), stopwatch.times(after)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        max_steps=STEPS,
        accumulate_grad_batches=4 if name == "ExactAccumulation, 4 micro-batches" else 1,
        callbacks=[callback, stopwatch],
        log_every_n_steps=50,
        **PLAIN,
    )
    tensors = torch.randn(4 * BATCH * STEPS, 8), torch.arange(4 * BATCH * STEPS) % 3
    try:
        trainer.fit(Linear(), InMemoryLoader(tensors, batch_size=BATCH))
    finally:
        factors._before, factors._after = before, after
    return stopwatch.steps[10:]


def main(rounds: int = 7) -> None:
    """Print a table.

    Args:
        rounds: Fits of each callback, in turn.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in CALLBACKS}
    for _ in range(rounds):
        for name in CALLBACKS:
            seconds[name] += hook_seconds(name)
    spent = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [(name, f"{1e6 * each:.1f}", f"{100 * each / STEP_SECONDS:.2f} %") for name, each in spent.items()]
    print(table("callback | µs per step | share of a step of 5 ms", rows))


if __name__ == "__main__":
    command(main)
