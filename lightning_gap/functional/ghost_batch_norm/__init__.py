"""Batch normalisation over small slices (ghosts) of a large batch."""

# Where a whole module looks for its layers that was saved when this was one file.
from .layers import GhostBatchNorm1d as GhostBatchNorm1d
from .layers import GhostBatchNorm2d as GhostBatchNorm2d
from .layers import GhostBatchNorm3d as GhostBatchNorm3d
