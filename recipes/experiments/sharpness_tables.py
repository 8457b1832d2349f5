"""Tables of sharpness beside those of Keskar et al. (2017): one for each maximiser and BatchNorm mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from lightning_gap.functional import epsilon_name

from ..reports.parts import Numbers, Published, Table
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec
from .experiment import Findings
from .measures import EPSILONS, MODES
from .published import Row
from .scales import Choice

METHODS = ("lbfgsb", "best")
_MODES = {"batch": "the statistics of each evaluation chunk", "running": "running statistics"}


def of_both_batches(choice: Choice) -> Iterator[RunSpec]:
    """All runs, seed by seed."""
    for network in choice.networks:
        for seed in choice.seeds_of(network):
            for regime in ("small", "large"):
                yield choice.run(network, regime, seed)


def sharpness_tables(
    choice: Choice,
    found: Findings,
    measurement: Callable[[RunSpec, str], Measurement],
    paper: Mapping[float, Mapping[str, Row]],
) -> Iterator[Table]:
    """A row for each network: both batches at both epsilons, and the decimal logarithm of their ratio by seed.

    Args:
        choice: What was made.
        found: Of it.
        measurement: Of a run, by a maximiser.
        paper: Values by epsilon and network.
    """
    head = ["network"]
    for epsilon in EPSILONS:
        name = epsilon_name(epsilon)
        head += [f"small, {name}", f"large, {name}", f"log10 large / small, {name}"]
    for method in METHODS:
        for mode in MODES:
            rows = []
            for network in choice.networks:
                seeds = choice.seeds_of(network)
                cells = list[str | Numbers]([network.upper()])
                for epsilon in EPSILONS:
                    small, large = (
                        tuple(
                            found[measurement(choice.run(network, regime, seed), method)][mode][epsilon_name(epsilon)]
                            for seed in seeds
                        )
                        for regime in ("small", "large")
                    )
                    row = paper[epsilon][network]
                    ratio = Published(math.log10(row.large.mean / row.small.mean))
                    logs = tuple(log_ratio(b, s) for s, b in zip(small, large, strict=True))
                    cells += [
                        Numbers(small, paper=row.small),
                        Numbers(large, paper=row.large),
                        Numbers(logs, paper=ratio, differences=True),
                    ]
                rows.append(cells)
            yield Table(
                f"{method}, BatchNorm by {_MODES[mode]}",
                head,
                rows,
                "Percent. "
                + "The authors' networks normalise by the statistics of a batch, always." * (mode == MODES[0]),
            )


def log_ratio(above: float, below: float) -> float:
    """Decimal logarithm of a ratio; NaN where one of the two is not positive."""
    return math.log10(above / below) if above > 0 and below > 0 else math.nan
