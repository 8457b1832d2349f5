"""Fits on two processes, without and with the monitors; run by test_two_processes.py."""

import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback

from lightning_gap import (
    CriticalSharpnessMonitor,
    CurvatureMonitor,
    GeneralizationGapMonitor,
    GhostBatchNormSwap,
    GradientNoiseScaleMonitor,
    LearningRateScaling,
    SharpnessMonitor,
    WeightDistanceMonitor,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny
from exact_on_processes import measure, recompute


def fit(*, with_monitors: bool) -> dict[str, object]:
    monitors = [
        SharpnessMonitor(samples=20, chunk_size=8, at_start=True),
        CurvatureMonitor(samples=20, chunk_size=8, probes=2),
        CriticalSharpnessMonitor(every_n_steps=2, max_time_share=None),
        WeightDistanceMonitor(),
        GeneralizationGapMonitor(samples=20, chunk_size=8),
        GradientNoiseScaleMonitor(samples=24, chunk_size=8),
    ]
    callbacks = [GhostBatchNormSwap(4), LearningRateScaling(8, warmup_epochs=0), *(monitors if with_monitors else [])]
    torch.manual_seed(0)
    module = tiny.Validated()
    trainer = tiny.trainer(*callbacks, strategy="ddp", devices=2)
    trainer.fit(module, tiny.loader(batch_size=8, shuffle=True), tiny.loader(24, seed=2))
    return {"weights": tiny.state_of(module), "metrics": dict(trainer.callback_metrics)}


class WithoutBatchNorm(tiny.TinyClassifier):
    """Whose loss of a batch is the mean of the losses of its parts."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        del self.net[1]


class Keeps(Callback):
    """What is logged, step by step."""

    def __init__(self) -> None:
        self.multiples: list[float] = []

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step > len(self.multiples):
            self.multiples.append(float(trainer.callback_metrics["curvature/critical_multiple"]))


def critical(*, devices: int, accumulate: int) -> list[float]:
    """The critical multiples of the updates of one run, however its global batch of 16 is split."""
    keeps = Keeps()
    monitor = CriticalSharpnessMonitor(every_n_steps=1, max_time_share=None)
    strategy = {"strategy": "ddp", "devices": devices, "use_distributed_sampler": False} if devices > 1 else {}
    trainer = tiny.trainer(monitor, keeps, precision="64-true", accumulate_grad_batches=accumulate, **strategy)
    own = range(trainer.global_rank, 48, devices)  # in order: Lightning's own sampler shuffles
    trainer.fit(WithoutBatchNorm(), tiny.loader(batch_size=16 // devices // accumulate, sampler=own))
    return keeps.multiples


def main() -> None:
    exact = {**measure(2), "statistics": recompute(2)}
    found = {"plain": fit(with_monitors=False), "monitors": fit(with_monitors=True), "exact": exact}
    found["critical"] = critical(devices=2, accumulate=1)
    torch.save(found, Path(sys.argv[1]) / f"{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main()
