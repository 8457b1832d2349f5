"""Keskar et al. (2017), Table 7: the large batch under conservative training, beside the small batch."""

from __future__ import annotations

from collections.abc import Iterator

from ..reports.parts import Part
from ..runner.run_store import RunSpec
from . import published
from .experiment import Experiment, Findings
from .remedy_tables import remedy_table
from .scales import Choice


def needs(choice: Choice) -> Iterator[RunSpec]:
    for network in choice.networks:
        for seed in choice.seeds_of(network):
            yield from _runs(choice, network, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    title = "Conservative training, three steps on each large batch"
    yield remedy_table(choice, found, lambda *which: _runs(choice, *which), published.CONSERVATIVE, title)


def _runs(choice: Choice, network: str, seed: int) -> tuple[RunSpec, RunSpec]:
    return choice.run(network, "small", seed), choice.run(network, "conservative", seed)


EXPERIMENT = Experiment(
    "Keskar et al. (2017), Table 7: conservative training",
    tuple(published.CONSERVATIVE),
    needs,
    show,
    {"conservative training": "three steps of ADAM on each batch, lambda 1e-3; the moments are kept between batches"},
)
