"""Keskar et al. (2017), section 2.2: the small batch moves 3 to 10 times as far from its initial weights."""

from __future__ import annotations

from collections.abc import Iterator

from ..intervals import ratio_interval
from ..reports.parts import Numbers, Part, Table
from . import published
from .experiment import Experiment, Findings
from .scales import Choice
from .sharpness_tables import of_both_batches


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    rows = []
    for network in choice.networks:
        small, large = (
            tuple(found[choice.run(network, regime, seed)].distance for seed in choice.seeds_of(network))
            for regime in ("small", "large")
        )
        ratios = tuple(s / b for s, b in zip(small, large, strict=True))
        ratio = Numbers(ratios, interval=ratio_interval(small, large))
        rows.append((network.upper(), Numbers(small), Numbers(large), ratio, "3 to 10"))
    head = ["network", "distance, small", "distance, large", "ratio of the means", "ratio in the paper"]
    yield Table("Distance from the initial weights", head, rows, "Euclidean, all weights; the ratio's by Fieller.")


EXPERIMENT = Experiment(
    "Keskar et al. (2017): distance from the initial weights", tuple(published.TEST_ACCURACY), of_both_batches, show
)
