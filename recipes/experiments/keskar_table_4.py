"""Keskar et al. (2017), Table 4: sharpness in random subspaces of 100 dimensions."""

from __future__ import annotations

from collections.abc import Iterator

from ..reports.parts import Part
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec
from . import published
from .experiment import Experiment, Findings
from .measures import random_subspace_sharpness
from .scales import Choice
from .sharpness_tables import METHODS, of_both_batches, sharpness_tables


def sharpness(spec: RunSpec, method: str) -> Measurement:
    """By both BatchNorm modes and epsilons."""
    return Measurement(f"subspace-{method}", (spec,), random_subspace_sharpness, {"method": method}, cost=2)


def needs(choice: Choice) -> Iterator[Measurement]:
    for spec in of_both_batches(choice):
        for method in METHODS:
            yield sharpness(spec, method)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    yield from sharpness_tables(choice, found, sharpness, published.SUBSPACE_SHARPNESS)


EXPERIMENT = Experiment(
    "Keskar et al. (2017), Table 4: sharpness in random subspaces",
    tuple(published.SUBSPACE_SHARPNESS[1e-3]),
    needs,
    show,
    {
        "subspace": "100 columns of independent normal entries of unit variance, whose scale the paper does not give; "
        "mean over 5 draws for each solution",
        "lbfgsb": "the paper's maximiser: L-BFGS-B, 10 iterations from the weights, tolerances 0, best value seen",
        "best": "the highest of lbfgsb, sign-gradient ascent of at most 7 evaluations, and L-BFGS-B from its end",
    },
)
