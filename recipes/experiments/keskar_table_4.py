"""Keskar et al. (2017), Table 4: sharpness in random subspaces of 100 dimensions."""

from __future__ import annotations

from . import published
from .measures import random_subspace_sharpness
from .sharpness_tables import sharpness_experiment

EXPERIMENT = sharpness_experiment(
    "Keskar et al. (2017), Table 4: sharpness in random subspaces",
    "subspace",
    random_subspace_sharpness,
    published.SUBSPACE_SHARPNESS,
    {
        "subspace": "100 columns of independent normal entries of unit variance, whose scale the paper does not give; "
        "mean over 5 draws for each solution",
    },
    cost=2,
)
