"""Keskar et al. (2017), Figure 7: loss and accuracy on the arc through a small-batch and a large-batch solution."""

from __future__ import annotations

from functools import partial

from . import published
from .experiment import Experiment
from .paths import needs, show

EXPERIMENT = Experiment(
    "Keskar et al. (2017), Figure 7: the arc through two solutions",
    tuple(published.TEST_ACCURACY),
    partial(needs, path="curved"),
    partial(show, path="curved"),
    {
        "arc": "sin(alpha pi/2) x_large + cos(alpha pi/2) x_small at 25 positions from -1 to 2",
        "BatchNorm": "by the statistics of each evaluation chunk; dropout off",
    },
)
