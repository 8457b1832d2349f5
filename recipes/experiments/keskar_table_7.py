"""Keskar et al. (2017), Table 7: the large batch under conservative training, beside the small batch."""

from __future__ import annotations

from ..runner.run_store import RunSpec
from . import published
from .remedy_tables import remedy_experiment
from .scales import Choice


def runs(choice: Choice, network: str, seed: int) -> tuple[RunSpec, RunSpec]:
    """The small batch and the remedy."""
    return choice.run(network, "small", seed), choice.run(network, "conservative", seed)


EXPERIMENT = remedy_experiment(
    "Keskar et al. (2017), Table 7: conservative training",
    "Conservative training, three steps on each large batch",
    runs,
    published.CONSERVATIVE,
    {"conservative training": "three steps of ADAM on each batch, lambda 1e-3; the moments are kept between batches"},
)
