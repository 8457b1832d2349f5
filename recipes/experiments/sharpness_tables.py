"""Tables of sharpness beside those of Keskar et al. (2017): one for each maximiser and BatchNorm mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from lightning_gap.functional import epsilon_name

from ..reports.parts import Numbers, Part, Published, Table
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec
from .experiment import Experiment, Findings
from .measures import EPSILONS, MODES
from .published import Row
from .scales import Choice

METHODS = {
    "lbfgsb": "the paper's maximiser: L-BFGS-B, 10 iterations from the weights, tolerances 0, best value seen",
    "best": "the highest of lbfgsb, sign-gradient ascent of at most 7 evaluations, and L-BFGS-B from its end",
}
_MODES = {"batch": "the statistics of each evaluation chunk", "running": "running statistics"}


def of_both_batches(choice: Choice) -> Iterator[RunSpec]:
    """All runs, seed by seed."""
    for network in choice.networks:
        for seed in choice.seeds_of(network):
            for regime in ("small", "large"):
                yield choice.run(network, regime, seed)


def sharpness_experiment(
    title: str,
    name: str,
    by: Callable[..., Any],
    paper: Mapping[float, Mapping[str, Row]],
    terms: Mapping[str, str],
    cost: float = 1.0,
) -> Experiment:
    """The experiment of a table of sharpness.

    Args:
        title: As `Experiment` has it.
        name: Of the measurement.
        by: Measures a run, by a maximiser that it takes as ``method``.
        paper: Values by epsilon and network.
        terms: Beside those of the maximisers.
        cost: Of the measurement.
    """

    def measurement(spec: RunSpec, method: str) -> Measurement:
        return Measurement(f"{name}-{method}", (spec,), by, {"method": method}, cost)

    def needs(choice: Choice) -> Iterator[Measurement]:
        for spec in of_both_batches(choice):
            for method in METHODS:
                yield measurement(spec, method)

    def show(choice: Choice, found: Findings) -> Iterator[Part]:
        yield from sharpness_tables(choice, found, measurement, paper)

    return Experiment(title, tuple(paper[EPSILONS[0]]), needs, show, {**terms, **METHODS})


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
                seeds, beside = choice.seeds_of(network), partial(choice.beside, network=network)
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
                        Numbers(small, paper=beside(row.small)),
                        Numbers(large, paper=beside(row.large)),
                        Numbers(logs, paper=beside(ratio), differences=True),
                    ]
                rows.append(cells)
            yield Table(
                f"{method}, BatchNorm by {_MODES[mode]}",
                head,
                rows,
                "Percent. The paper's logarithm is of the ratio of its means, ours the mean over seeds. "
                + "The authors' networks normalise by the statistics of a batch, always." * (mode == MODES[0]),
            )


def log_ratio(above: float, below: float) -> float:
    """Decimal logarithm of a ratio; NaN where one of the two is not positive."""
    return math.log10(above / below) if above > 0 and below > 0 else math.nan
