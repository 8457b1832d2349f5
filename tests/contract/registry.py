"""Every callback, once: what the battery in this folder drives. A new callback is tested by being listed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightning.pytorch import Callback

from lightning_gap import (
    AdaptiveBatchSize,
    AdversarialTraining,
    BatchSizeScheduler,
    ConservativeTraining,
    CriticalSharpnessMonitor,
    CurvatureMonitor,
    ExactAccumulation,
    GeneralizationGapMonitor,
    GhostBatchNormSwap,
    GradientNoiseScaleMonitor,
    GradientPenalty,
    LearningRateScaling,
    MultiplicativeNoise,
    OptimizerScaling,
    PiggybackWarmStart,
    RecomputeBatchNorm,
    ResumeExactly,
    SharpnessAwareMinimization,
    SharpnessMonitor,
    StabilityTraining,
    StopOnNaN,
    WeightDistanceMonitor,
)
from lightning_gap.functional import GeometricGrowth


@dataclass(frozen=True)
class Entry:
    """A callback under test.

    Attributes:
        make: A fresh instance.
        second: A fresh instance that stands beside the first, or the message with which a second one is refused, or
            ``None`` where several do what one does.
        keys: The documented keys.
        is_monitor: Whether training must be bit for bit the same without it.
    """

    make: Callable[[], Callback]
    second: Callable[[], Callback] | str | None
    keys: frozenset[str]
    is_monitor: bool = False


REGISTRY = {
    "GhostBatchNormSwap": Entry(
        lambda: GhostBatchNormSwap(4),
        second="GhostBatchNormSwap and GhostBatchNormSwap both",
        keys=frozenset({"ghost/layers"}),
    ),
    "AdaptiveBatchSize": Entry(
        lambda: AdaptiveBatchSize(8, 24, test="noise_scale", measure_every_n_steps=1, micro_batches=2),
        second="AdaptiveBatchSize and AdaptiveBatchSize",
        keys=frozenset({"batch/size", "batch/accumulate", "batch/wanted", "batch/test"}),
    ),
    "BatchSizeScheduler": Entry(
        lambda: BatchSizeScheduler(GeometricGrowth(8, 48, factor=1.5, multiple_of=4), max_micro_batch=8),
        second="BatchSizeScheduler and BatchSizeScheduler",
        keys=frozenset({"batch/size", "batch/accumulate", "batch/lr_factor"}),
    ),
    "ExactAccumulation": Entry(
        lambda: ExactAccumulation(),
        second="ExactAccumulation and ExactAccumulation both",
        keys=frozenset(),
    ),
    "LearningRateScaling": Entry(
        lambda: LearningRateScaling(8, warmup_epochs=1),
        second="LearningRateScaling and LearningRateScaling both",
        keys=frozenset({"lr/effective", "lr/scale", "batch/size", "batch/effective"}),
    ),
    "OptimizerScaling": Entry(
        lambda: OptimizerScaling(8, "sqrt"),
        second="OptimizerScaling and OptimizerScaling both",
        keys=frozenset({"lr/effective", "lr/scale", "batch/size"}),  # and others with other rules and optimizers
    ),
    "PiggybackWarmStart": Entry(
        lambda: PiggybackWarmStart(1, 24, optimizer_state="keep"),
        second="PiggybackWarmStart and PiggybackWarmStart",
        keys=frozenset({"piggyback/switched", "batch/size", "batch/accumulate"}),
    ),
    "SharpnessAwareMinimization": Entry(
        lambda: SharpnessAwareMinimization(0.1),
        second="SharpnessAwareMinimization and SharpnessAwareMinimization both",
        keys=frozenset({"sam/rise"}),
    ),
    "ConservativeTraining": Entry(
        lambda: ConservativeTraining(0.1, inner_steps=2),
        second="ConservativeTraining and ConservativeTraining both",
        keys=frozenset(),
    ),
    "AdversarialTraining": Entry(
        lambda: AdversarialTraining(0.1, steps=2),
        second="AdversarialTraining and AdversarialTraining both",
        keys=frozenset({"adversarial/rise"}),
    ),
    "StabilityTraining": Entry(
        lambda: StabilityTraining(0.1, strength=0.5),
        second="StabilityTraining and StabilityTraining both",
        keys=frozenset({"stability/divergence"}),
    ),
    "GradientPenalty": Entry(
        lambda: GradientPenalty(0.1),
        second="GradientPenalty and GradientPenalty both",
        keys=frozenset(),
    ),
    "MultiplicativeNoise": Entry(
        lambda: MultiplicativeNoise(1.0),
        second="MultiplicativeNoise and MultiplicativeNoise both",
        keys=frozenset(),
    ),
    "RecomputeBatchNorm": Entry(
        lambda: RecomputeBatchNorm(),
        second="RecomputeBatchNorm and RecomputeBatchNorm both",
        keys=frozenset(),
    ),
    "ResumeExactly": Entry(lambda: ResumeExactly(), second=None, keys=frozenset()),
    "StopOnNaN": Entry(lambda: StopOnNaN(), second=None, keys=frozenset()),
    "SharpnessMonitor": Entry(
        lambda: SharpnessMonitor(samples=20, chunk_size=8, max_time_share=None),
        second=lambda: SharpnessMonitor(samples=20, batch_norm="batch", suffix="_batch"),
        keys=frozenset(
            f"sharpness/{name}"
            for name in (
                "full_eps1e-3",
                "full_eps5e-4",
                "loss",
                "gradient_norm",
                "weight_p05",
                "weight_p50",
                "weight_p95",
            )
        ),
        is_monitor=True,
    ),
    "CriticalSharpnessMonitor": Entry(
        lambda: CriticalSharpnessMonitor(every_n_steps=2, max_time_share=None),
        second=lambda: CriticalSharpnessMonitor(every_n_steps=3, batch_norm="running", suffix="_running"),
        keys=frozenset(
            f"curvature/critical_{name}" for name in ("sharpness", "learning_rate", "multiple", "evaluations")
        ),
        is_monitor=True,
    ),
    "CurvatureMonitor": Entry(
        lambda: CurvatureMonitor(samples=20, chunk_size=8, probes=2, max_time_share=None),
        second=lambda: CurvatureMonitor(samples=20, batch_norm="batch", probes=0, preconditioned=True, suffix="_batch"),
        keys=frozenset(
            f"curvature/{name}"
            for name in (
                "lambda_max",
                "lambda_min",
                "lambda_max_residual",
                "trace",
                "trace_standard_error",
                "loss",
                "gradient_norm",
                "two_over_lr",
                "edge",
            )
        ),
        is_monitor=True,
    ),
    "GradientNoiseScaleMonitor": Entry(
        lambda: GradientNoiseScaleMonitor(samples=48, chunk_size=8, max_time_share=None),
        second=lambda: GradientNoiseScaleMonitor(samples=48, chunk_size=12, probes=0, suffix="_twelve"),
        keys=frozenset(
            {
                *("noise/simple_scale", "noise/simple_scale_now", "noise/critical_batch", "noise/critical_batch_now"),
                *("noise/gradient_norm_squared", "noise/variance"),
            }
        ),
        is_monitor=True,
    ),
    "WeightDistanceMonitor": Entry(
        lambda: WeightDistanceMonitor(),
        second=lambda: WeightDistanceMonitor(every_n_epochs=2, suffix="_rarely"),
        keys=frozenset({"weights/distance_from_init", "weights/log_slope", "weights/log_r2"}),
        is_monitor=True,
    ),
    "GeneralizationGapMonitor": Entry(
        lambda: GeneralizationGapMonitor(samples=20, chunk_size=8, max_time_share=None),
        second=lambda: GeneralizationGapMonitor(samples=10, suffix="_ten"),
        keys=frozenset({"gap/loss", "gap/accuracy"}),
        is_monitor=True,
    ),
}
