"""Fits on two processes, without and with the monitors; run by test_two_processes.py."""

import sys
from pathlib import Path

import torch

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


def main() -> None:
    exact = {**measure(2), "statistics": recompute(2)}
    found = {"plain": fit(with_monitors=False), "monitors": fit(with_monitors=True), "exact": exact}
    torch.save(found, Path(sys.argv[1]) / f"{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main()
