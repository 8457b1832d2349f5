"""Large batches in Lightning without the generalization gap: close it, and see why it opens."""

from ._version import __version__ as __version__
from .callbacks import AdaptiveBatchSize as AdaptiveBatchSize
from .callbacks import BatchSizeScheduler as BatchSizeScheduler
from .callbacks import CurvatureMonitor as CurvatureMonitor
from .callbacks import ExactAccumulation as ExactAccumulation
from .callbacks import GeneralizationGapMonitor as GeneralizationGapMonitor
from .callbacks import GhostBatchNormSwap as GhostBatchNormSwap
from .callbacks import GradientNoiseScaleMonitor as GradientNoiseScaleMonitor
from .callbacks import LearningRateScaling as LearningRateScaling
from .callbacks import PiggybackWarmStart as PiggybackWarmStart
from .callbacks import ResumeExactly as ResumeExactly
from .callbacks import SharpnessMonitor as SharpnessMonitor
from .callbacks import WeightDistanceMonitor as WeightDistanceMonitor
from .data import BatchPlan as BatchPlan
from .data import InMemoryLoader as InMemoryLoader
from .data import ResumableLoader as ResumableLoader
from .functional import GhostBatchNorm1d as GhostBatchNorm1d
from .functional import GhostBatchNorm2d as GhostBatchNorm2d
from .functional import GhostBatchNorm3d as GhostBatchNorm3d
from .functional import restore_batch_norm as restore_batch_norm
from .functional import sharpness as sharpness
from .functional import swap_batch_norm as swap_batch_norm
from .functional import weight_distance as weight_distance
