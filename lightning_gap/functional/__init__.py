"""The mathematics, in plain torch: usable in any training loop, without Lightning."""

from .batch_statistics import batch_statistics as batch_statistics
from .ghost_batch_norm import GhostBatchNorm1d as GhostBatchNorm1d
from .ghost_batch_norm import GhostBatchNorm2d as GhostBatchNorm2d
from .ghost_batch_norm import GhostBatchNorm3d as GhostBatchNorm3d
from .ghost_normalisation import ghost_batch_norm as ghost_batch_norm
from .ghost_swap import SwapReport as SwapReport
from .ghost_swap import restore_batch_norm as restore_batch_norm
from .ghost_swap import swap_batch_norm as swap_batch_norm
from .ghosts import ghost_runs as ghost_runs
from .landscape import along_line as along_line
from .learning_rate import gradual_warmup as gradual_warmup
from .learning_rate import learning_rate_scale as learning_rate_scale
from .sharpness import Sharpness as Sharpness
from .sharpness import UndefinedSharpnessError as UndefinedSharpnessError
from .sharpness import epsilon_name as epsilon_name
from .sharpness import sharpness as sharpness
from .weight_distance import LogFit as LogFit
from .weight_distance import log_fit as log_fit
from .weight_distance import weight_distance as weight_distance
