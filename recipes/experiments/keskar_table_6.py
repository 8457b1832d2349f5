"""Keskar et al. (2017), Table 6: the large batch with augmented images, beside the small batch with them."""

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
    title = "Both batches with flips, rotations and shifts"
    yield remedy_table(choice, found, lambda *which: _runs(choice, *which), published.AUGMENTED, title)


def _runs(choice: Choice, network: str, seed: int) -> tuple[RunSpec, RunSpec]:
    return choice.run(network, "small", seed, augmentation="affine"), choice.run(network, "augmented", seed)


EXPERIMENT = Experiment(
    "Keskar et al. (2017), Table 6: augmented images",
    tuple(published.AUGMENTED),
    needs,
    show,
    {"augmentation": "horizontal flips, rotations of up to 10 degrees, shifts of up to a fifth of the image"},
)
