"""Keskar et al. (2017): a large-batch solution is said to be sharp in about 5 % of the space only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..reports.parts import Numbers, Part, Published, Table
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec
from . import published
from .experiment import Experiment, Findings
from .measures import share_of_sharp_directions
from .scales import Choice
from .sharpness_tables import of_both_batches


def share(spec: RunSpec) -> Measurement:
    """Of a run's solution."""
    return Measurement("sharp-share", (spec,), share_of_sharp_directions, cost=2)


def needs(choice: Choice) -> Iterator[Measurement]:
    for spec in of_both_batches(choice):
        yield share(spec)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    rows = list[Sequence[str | Numbers]]()
    for network in choice.networks:
        for regime in ("small", "large"):
            own = [found[share(choice.run(network, regime, seed))] for seed in choice.seeds_of(network)]
            paper = choice.beside(Published(5.0), network) if regime == "large" else None
            rows.append(
                (
                    f"{network.upper()}, {regime}",
                    Numbers(tuple(100 * each["share"] for each in own), 4, paper),
                    Numbers(tuple(each["average_rise"] for each in own), 6),
                    Numbers(tuple(each["worst_rise"] for each in own), 4),
                    Numbers(tuple(each["share"] * each["weights"] for each in own), 0),
                )
            )
    head = ["network, batch", "share %", "mean rise", "highest rise", "so many of its dimensions"]
    note = "Mean rise of the loss in random directions over the highest found at the same distance, that of a corner."
    yield Table("Share of the directions in which a solution is sharp", head, rows, note)


EXPERIMENT = Experiment(
    "Keskar et al. (2017): the share of sharp directions",
    tuple(published.TEST_ACCURACY),
    needs,
    show,
    {
        "share": "mean over worst rise at the distance of the corners of Metric 2.1's box at 1e-3: if all sharp ones "
        "were as sharp as the worst and the others flat, the share of the sharp ones. The paper does not say how "
        "it counted.",
        "BatchNorm": "by the statistics of each evaluation chunk; dropout off",
    },
)
