"""Keskar et al. (2017), Table 3: sharpness in the full space, of a small and a large batch."""

from __future__ import annotations

from collections.abc import Iterator

from ..reports.parts import Part
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec
from . import published
from .experiment import Experiment, Findings
from .measures import full_sharpness
from .scales import Choice
from .sharpness_tables import METHODS, of_both_batches, sharpness_tables


def sharpness(spec: RunSpec, method: str) -> Measurement:
    """By both BatchNorm modes and epsilons."""
    return Measurement(f"sharpness-{method}", (spec,), full_sharpness, {"method": method})


def needs(choice: Choice) -> Iterator[Measurement]:
    for spec in of_both_batches(choice):
        for method in METHODS:
            yield sharpness(spec, method)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    yield from sharpness_tables(choice, found, sharpness, published.SHARPNESS)


EXPERIMENT = Experiment(
    "Keskar et al. (2017), Table 3: sharpness in the full space",
    tuple(published.SHARPNESS[1e-3]),
    needs,
    show,
    {
        "sharpness": "Metric 2.1, percent, box of half-width epsilon (|x| + 1); each value is a lower bound",
        "lbfgsb": "the paper's maximiser: L-BFGS-B, 10 iterations from the weights, tolerances 0, best value seen",
        "best": "the highest of lbfgsb, sign-gradient ascent of at most 7 evaluations, and L-BFGS-B from its end",
    },
)
