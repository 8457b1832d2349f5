"""Thin Lightning callbacks over `lightning_gap.functional`: when to call, and where the result goes."""

from ._landscape import landscape as landscape
from .accumulation import ExactAccumulation as ExactAccumulation
from .adaptive_batch import AdaptiveBatchSize as AdaptiveBatchSize
from .adversarial import AdversarialTraining as AdversarialTraining
from .batch_size import BatchSizeScheduler as BatchSizeScheduler
from .conservative import ConservativeTraining as ConservativeTraining
from .critical_sharpness import CriticalSharpnessMonitor as CriticalSharpnessMonitor
from .curvature import CurvatureMonitor as CurvatureMonitor
from .generalization_gap import GeneralizationGapMonitor as GeneralizationGapMonitor
from .ghost_batch_norm import GhostBatchNormSwap as GhostBatchNormSwap
from .gradient_penalty import GradientPenalty as GradientPenalty
from .learning_rate import LearningRateScaling as LearningRateScaling
from .multiplicative_noise import MultiplicativeNoise as MultiplicativeNoise
from .noise_scale import GradientNoiseScaleMonitor as GradientNoiseScaleMonitor
from .optimizer_scaling import OptimizerScaling as OptimizerScaling
from .piggyback import PiggybackWarmStart as PiggybackWarmStart
from .recompute_batch_norm import RecomputeBatchNorm as RecomputeBatchNorm
from .resume_exactly import ResumeExactly as ResumeExactly
from .sharpness import SharpnessMonitor as SharpnessMonitor
from .sharpness_aware import SharpnessAwareMinimization as SharpnessAwareMinimization
from .stability import StabilityTraining as StabilityTraining
from .stop_on_nan import StopOnNaN as StopOnNaN
from .weight_distance import WeightDistanceMonitor as WeightDistanceMonitor
