"""Large batches in Lightning without the generalization gap: close it, and see why it opens.

A name is imported when it is first asked for: the command line then starts without torch.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .callbacks import AdaptiveBatchSize as AdaptiveBatchSize
    from .callbacks import AdversarialTraining as AdversarialTraining
    from .callbacks import BatchSizeScheduler as BatchSizeScheduler
    from .callbacks import ConservativeTraining as ConservativeTraining
    from .callbacks import CriticalSharpnessMonitor as CriticalSharpnessMonitor
    from .callbacks import CurvatureMonitor as CurvatureMonitor
    from .callbacks import ExactAccumulation as ExactAccumulation
    from .callbacks import GeneralizationGapMonitor as GeneralizationGapMonitor
    from .callbacks import GhostBatchNormSwap as GhostBatchNormSwap
    from .callbacks import GradientNoiseScaleMonitor as GradientNoiseScaleMonitor
    from .callbacks import GradientPenalty as GradientPenalty
    from .callbacks import LearningRateScaling as LearningRateScaling
    from .callbacks import MultiplicativeNoise as MultiplicativeNoise
    from .callbacks import OptimizerScaling as OptimizerScaling
    from .callbacks import PiggybackWarmStart as PiggybackWarmStart
    from .callbacks import RecomputeBatchNorm as RecomputeBatchNorm
    from .callbacks import ResumeExactly as ResumeExactly
    from .callbacks import SharpnessAwareMinimization as SharpnessAwareMinimization
    from .callbacks import SharpnessMonitor as SharpnessMonitor
    from .callbacks import StabilityTraining as StabilityTraining
    from .callbacks import StopOnNaN as StopOnNaN
    from .callbacks import WeightDistanceMonitor as WeightDistanceMonitor
    from .callbacks import landscape as landscape
    from .data import BatchPlan as BatchPlan
    from .data import InMemoryLoader as InMemoryLoader
    from .data import ResumableLoader as ResumableLoader
    from .data import ResumableStream as ResumableStream
    from .functional import GhostBatchNorm1d as GhostBatchNorm1d
    from .functional import GhostBatchNorm2d as GhostBatchNorm2d
    from .functional import GhostBatchNorm3d as GhostBatchNorm3d
    from .functional import restore_batch_norm as restore_batch_norm
    from .functional import sharpness as sharpness
    from .functional import swap_batch_norm as swap_batch_norm
    from .functional import weight_distance as weight_distance

__all__ = [
    "AdaptiveBatchSize",
    "AdversarialTraining",
    "BatchPlan",
    "BatchSizeScheduler",
    "ConservativeTraining",
    "CriticalSharpnessMonitor",
    "CurvatureMonitor",
    "ExactAccumulation",
    "GeneralizationGapMonitor",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "GhostBatchNormSwap",
    "GradientNoiseScaleMonitor",
    "GradientPenalty",
    "InMemoryLoader",
    "LearningRateScaling",
    "MultiplicativeNoise",
    "OptimizerScaling",
    "PiggybackWarmStart",
    "RecomputeBatchNorm",
    "ResumableLoader",
    "ResumableStream",
    "ResumeExactly",
    "SharpnessAwareMinimization",
    "SharpnessMonitor",
    "StabilityTraining",
    "StopOnNaN",
    "WeightDistanceMonitor",
    "landscape",
    "restore_batch_norm",
    "sharpness",
    "swap_batch_norm",
    "weight_distance",
]

_PACKAGES = ("functional", "data", "callbacks", "logging")  # in this order: callbacks has files of the functions' names


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f".{name}", __name__)
    for package in _PACKAGES if name in __all__ else ():
        found = import_module(f".{package}", __name__)
        value = getattr(found, name, None)
        if value is not None and not isinstance(value, ModuleType):  # functional.landscape is a folder
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_PACKAGES, *(name for name in globals() if name.startswith("__"))]
