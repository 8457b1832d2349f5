"""The mathematics, in plain torch: usable in any training loop, without Lightning."""

from ._renamed import __getattr__ as __getattr__
from .batch_size.accumulation import AccumulationWindow as AccumulationWindow
from .batch_size.adaptive import BatchSizeTest as BatchSizeTest
from .batch_size.adaptive import next_batch_size as next_batch_size
from .batch_size.adaptive_sampling import BatchTest as BatchTest
from .batch_size.adaptive_sampling import augmented_inner_product_test as augmented_inner_product_test
from .batch_size.adaptive_sampling import cabs as cabs
from .batch_size.adaptive_sampling import inner_product_test as inner_product_test
from .batch_size.adaptive_sampling import norm_test as norm_test
from .batch_size.adaptive_sampling import orthogonality_test as orthogonality_test
from .batch_size.gradient_statistics import GradientStatistics as GradientStatistics
from .batch_size.gradient_statistics import gradient_statistics as gradient_statistics
from .batch_size.growth import AdaBatch as AdaBatch
from .batch_size.growth import GeometricGrowth as GeometricGrowth
from .batch_size.growth import SmithGrowth as SmithGrowth
from .batch_size.schedule import EpochBatch as EpochBatch
from .batch_size.schedule import LongerTraining as LongerTraining
from .batch_size.schedule import MicroBatching as MicroBatching
from .batch_size.schedule import Schedule as Schedule
from .batch_size.schedule import epoch_batch_at as epoch_batch_at
from .batch_size.schedule import planned_optimizer_steps as planned_optimizer_steps
from .batch_size.schedule import split_batch as split_batch
from .batch_size.schedule import train_longer as train_longer
from .batch_statistics import batch_statistics as batch_statistics
from .batch_statistics import recomputed_statistics as recomputed_statistics
from .curvature.hessian_products import hessian_vector_product as hessian_vector_product
from .curvature.spectrum import Eigenvalues as Eigenvalues
from .curvature.spectrum import SpectralDensity as SpectralDensity
from .curvature.spectrum import Trace as Trace
from .curvature.spectrum import hessian_eigenvalues as hessian_eigenvalues
from .curvature.spectrum import hessian_trace as hessian_trace
from .curvature.spectrum import spectral_density as spectral_density
from .dataset_loss import BatchNormMode as BatchNormMode
from .dataset_loss import DatasetLoss as DatasetLoss
from .errors import FailedElsewhereError as FailedElsewhereError
from .errors import RandomLossError as RandomLossError
from .errors import UndefinedCurvatureError as UndefinedCurvatureError
from .errors import UndefinedNoiseError as UndefinedNoiseError
from .errors import UndefinedSharpnessError as UndefinedSharpnessError
from .fixed_subset import FixedSubset as FixedSubset
from .ghost_batch_norm.layers import GhostBatchNorm1d as GhostBatchNorm1d
from .ghost_batch_norm.layers import GhostBatchNorm2d as GhostBatchNorm2d
from .ghost_batch_norm.layers import GhostBatchNorm3d as GhostBatchNorm3d
from .ghost_batch_norm.normalisation import ghost_batch_norm as ghost_batch_norm
from .ghost_batch_norm.runs import ghost_runs as ghost_runs
from .ghost_batch_norm.swap import SwapReport as SwapReport
from .ghost_batch_norm.swap import restore_batch_norm as restore_batch_norm
from .ghost_batch_norm.swap import swap_batch_norm as swap_batch_norm
from .landscape.line import along_line as along_line
from .learning_rate import constant_warmup as constant_warmup
from .learning_rate import gradual_warmup as gradual_warmup
from .learning_rate import learning_rate_scale as learning_rate_scale
from .noise_scale.gradient_noise import gradient_noise as gradient_noise
from .noise_scale.noise_scale import GradientNoise as GradientNoise
from .noise_scale.noise_scale import RatioAverage as RatioAverage
from .noise_scale.noise_scale import learning_rate_gain as learning_rate_gain
from .noise_scale.noise_scale import noise_from_norms as noise_from_norms
from .noise_scale.noise_scale import optimal_learning_rate as optimal_learning_rate
from .sharpness.average import AverageSharpness as AverageSharpness
from .sharpness.average import average_sharpness as average_sharpness
from .sharpness.random_subspace import RandomSubspace as RandomSubspace
from .sharpness.result import Sharpness as Sharpness
from .sharpness.sharpness import epsilon_name as epsilon_name
from .sharpness.sharpness import sharpness as sharpness
from .sharpness.sharpness import sharpness_profile as sharpness_profile
from .sharpness.variants import GroupedSharpness as GroupedSharpness
from .sharpness.variants import SubspaceSharpness as SubspaceSharpness
from .sharpness.variants import layer_sharpness as layer_sharpness
from .sharpness.variants import m_sharpness as m_sharpness
from .sharpness.variants import subspace_sharpness as subspace_sharpness
from .weight_distance import LogFit as LogFit
from .weight_distance import layer_distances as layer_distances
from .weight_distance import log_fit as log_fit
from .weight_distance import weight_distance as weight_distance
from .weight_quantiles import weight_quantiles as weight_quantiles

__all__ = [
    "AccumulationWindow",
    "AdaBatch",
    "AverageSharpness",
    "BatchNormMode",
    "BatchSizeTest",
    "BatchTest",
    "DatasetLoss",
    "Eigenvalues",
    "EpochBatch",
    "FailedElsewhereError",
    "FixedSubset",
    "GeometricGrowth",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "GradientNoise",
    "GradientStatistics",
    "GroupedSharpness",
    "LogFit",
    "LongerTraining",
    "MicroBatching",
    "RandomLossError",
    "RandomSubspace",
    "RatioAverage",
    "Schedule",
    "Sharpness",
    "SmithGrowth",
    "SpectralDensity",
    "SubspaceSharpness",
    "SwapReport",
    "Trace",
    "UndefinedCurvatureError",
    "UndefinedNoiseError",
    "UndefinedSharpnessError",
    "along_line",
    "augmented_inner_product_test",
    "average_sharpness",
    "batch_statistics",
    "cabs",
    "constant_warmup",
    "epoch_batch_at",
    "epsilon_name",
    "ghost_batch_norm",
    "ghost_runs",
    "gradient_noise",
    "gradient_statistics",
    "gradual_warmup",
    "hessian_eigenvalues",
    "hessian_trace",
    "hessian_vector_product",
    "inner_product_test",
    "layer_distances",
    "layer_sharpness",
    "learning_rate_gain",
    "learning_rate_scale",
    "log_fit",
    "m_sharpness",
    "next_batch_size",
    "noise_from_norms",
    "norm_test",
    "optimal_learning_rate",
    "orthogonality_test",
    "planned_optimizer_steps",
    "recomputed_statistics",
    "restore_batch_norm",
    "sharpness",
    "sharpness_profile",
    "spectral_density",
    "split_batch",
    "subspace_sharpness",
    "swap_batch_norm",
    "train_longer",
    "weight_distance",
    "weight_quantiles",
]
