"""Large batches in Lightning without the generalization gap: close it, and see why it opens.

The names come from ``_public`` when one of them is first asked for: the command line then starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from ._public import *

__all__ = [
    "AdaptiveBatchSize",
    "BatchPlan",
    "BatchSizeScheduler",
    "CurvatureMonitor",
    "ExactAccumulation",
    "GeneralizationGapMonitor",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "GhostBatchNormSwap",
    "GradientNoiseScaleMonitor",
    "InMemoryLoader",
    "LearningRateScaling",
    "PiggybackWarmStart",
    "ResumableLoader",
    "SharpnessMonitor",
    "WeightDistanceMonitor",
    "restore_batch_norm",
    "sharpness",
    "swap_batch_norm",
    "weight_distance",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("._public", __name__), name)
    if name in ("callbacks", "data", "functional", "logging"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__", "callbacks", "data", "functional", "logging"]
