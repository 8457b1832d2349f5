"""Tables of a remedy under the large batch beside the small batch, as in Tables 6 and 7 of Keskar et al. (2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from lightning_gap.functional import epsilon_name

from ..reports.parts import Numbers, Part, Published, Table
from ..runner.run_store import RunSpec
from .experiment import Experiment, Findings
from .measures import EPSILONS
from .published import Remedy
from .scales import Choice

Runs = Callable[[Choice, str, int], tuple[RunSpec, RunSpec]]


def remedy_experiment(
    title: str, head: str, runs: Runs, paper: Mapping[str, Remedy], terms: Mapping[str, str]
) -> Experiment:
    """The experiment of a table of a remedy.

    Args:
        title: As `Experiment` has it.
        head: Of the table.
        runs: The small batch and the remedy, of a choice, a network and a seed.
        paper: Values by network.
        terms: As `Experiment` has them.
    """

    def needs(choice: Choice) -> Iterator[RunSpec]:
        for network in choice.networks:
            for seed in choice.seeds_of(network):
                yield from runs(choice, network, seed)

    def show(choice: Choice, found: Findings) -> Iterator[Part]:
        yield remedy_table(choice, found, runs, paper, head)

    return Experiment(title, tuple(paper), needs, show, terms)


def remedy_table(
    choice: Choice,
    found: Findings,
    runs: Runs,
    paper: Mapping[str, Remedy],
    title: str,
) -> Table:
    """A row for each network.

    Args:
        choice: What was made.
        found: Of it.
        runs: As `remedy_experiment` takes them.
        paper: Values by network.
        title: Heading.
    """
    names = [epsilon_name(epsilon) for epsilon in EPSILONS]
    head = ["network", "test accuracy %, small", "test accuracy %, remedy", "gap to small, points"]
    head += [f"sharpness of the remedy, {name}" for name in names]
    rows = list[Sequence[str | Numbers]]()
    for network in choice.networks:
        pairs = [runs(choice, network, seed) for seed in choice.seeds_of(network)]
        small, remedy = ([found[pair[which]] for pair in pairs] for which in (0, 1))
        theirs, beside = paper[network], partial(choice.beside, network=network)
        their_gap = Published(round(theirs.small.mean - theirs.accuracy.mean, 3))
        gap = tuple(100 * (s.test_accuracy - r.test_accuracy) for s, r in zip(small, remedy, strict=True))
        rows.append(
            (
                network.upper(),
                Numbers(tuple(100 * run.test_accuracy for run in small), paper=beside(theirs.small)),
                Numbers(tuple(100 * run.test_accuracy for run in remedy), paper=beside(theirs.accuracy)),
                Numbers(gap, paper=beside(their_gap), differences=True),
                *(
                    Numbers(tuple(run.sharpness_batch[name] for run in remedy), 1, beside(theirs.sharpness[epsilon]))
                    for name, epsilon in zip(names, EPSILONS, strict=True)
                ),
            )
        )
    return Table(title, head, rows, "Sharpness in percent, corner ascent, BatchNorm by the statistics of each chunk.")
