"""Thin Lightning callbacks over `lightning_gap.functional`: when to call, and where the result goes."""

from .accumulation import ExactAccumulation as ExactAccumulation
from .adaptive_batch import AdaptiveBatchSize as AdaptiveBatchSize
from .batch_size import BatchSizeScheduler as BatchSizeScheduler
from .curvature import CurvatureMonitor as CurvatureMonitor
from .generalization_gap import GeneralizationGapMonitor as GeneralizationGapMonitor
from .ghost_batch_norm import GhostBatchNormSwap as GhostBatchNormSwap
from .learning_rate import LearningRateScaling as LearningRateScaling
from .noise_scale import GradientNoiseScaleMonitor as GradientNoiseScaleMonitor
from .piggyback import PiggybackWarmStart as PiggybackWarmStart
from .resume_exactly import ResumeExactly as ResumeExactly
from .sharpness import SharpnessMonitor as SharpnessMonitor
from .weight_distance import WeightDistanceMonitor as WeightDistanceMonitor
