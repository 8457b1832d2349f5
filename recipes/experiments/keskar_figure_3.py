"""Keskar et al. (2017), Figure 3: loss and accuracy on the line through a small-batch and a large-batch solution."""

from __future__ import annotations

from functools import partial

from . import published
from .experiment import Experiment
from .paths import needs, show

EXPERIMENT = Experiment(
    "Keskar et al. (2017), Figure 3: the line through two solutions",
    tuple(published.TEST_ACCURACY),
    partial(needs, path="linear"),
    partial(show, path="linear"),
    {
        "line": "alpha x_large + (1 - alpha) x_small at 25 positions from -1 to 2, running statistics too",
        "BatchNorm": "by the statistics of each evaluation chunk; dropout off",
    },
)
