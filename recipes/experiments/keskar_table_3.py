"""Keskar et al. (2017), Table 3: sharpness in the full space, of a small and a large batch."""

from __future__ import annotations

from . import published
from .measures import full_sharpness
from .sharpness_tables import sharpness_experiment

EXPERIMENT = sharpness_experiment(
    "Keskar et al. (2017), Table 3: sharpness in the full space",
    "sharpness",
    full_sharpness,
    published.SHARPNESS,
    {"sharpness": "Metric 2.1, percent, box of half-width epsilon (|x| + 1); each value is a lower bound"},
)
