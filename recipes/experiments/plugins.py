"""The training plugins beside a small and a large batch: does any of them close the gap, and what of sharpness?

F1 and C1; every plugin with its paper's settings, none tuned. Keskar et al. (2017), Table 7, has
the small batch and conservative training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..reports.parts import Numbers, Part, Table
from ..runner.run_result import RunResult
from ..runner.run_store import RunSpec
from . import published
from .experiment import Experiment, Findings
from .gap_table import gap_table
from .scales import Choice

REGIMES = ("small", "large", "conservative", "adversarial", "sam", "sam-late", "penalty")


def needs(choice: Choice) -> Iterator[RunSpec]:
    for network in choice.networks:
        for seed in choice.seeds_of(network):
            for regime in REGIMES:
                yield choice.run(network, regime, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    for network in choice.networks:
        results = {
            regime: {seed: found[choice.run(network, regime, seed)] for seed in choice.seeds_of(network)}
            for regime in REGIMES
        }
        table_7, table_2 = published.CONSERVATIVE[network], published.TEST_ACCURACY[network]
        theirs = {"small": table_7.small, "large": table_2.large, "conservative": table_7.accuracy}
        paper = {regime: choice.beside(number, network) for regime, number in theirs.items()}
        yield gap_table(f"{network.upper()}: accuracy", results, paper)
        yield _sharpness(choice, network, results)


def _sharpness(choice: Choice, network: str, results: dict[str, dict[int, RunResult]]) -> Table:
    row = published.SHARPNESS
    paper = {
        epsilon: {
            "small": choice.beside(row[epsilon][network].small, network),
            "large": choice.beside(row[epsilon][network].large, network),
            "conservative": choice.beside(published.CONSERVATIVE[network].sharpness[epsilon], network),
        }
        for epsilon in row
    }
    rows = list[Sequence[str | Numbers]]()
    for regime, own in results.items():
        runs = list(own.values())
        rows.append(
            (
                regime,
                Numbers(tuple(run.sharpness_batch["1e-3"] for run in runs), 1, paper[1e-3].get(regime)),
                Numbers(tuple(run.sharpness_batch["5e-4"] for run in runs), 1, paper[5e-4].get(regime)),
                Numbers(tuple(run.sharpness["1e-3"] for run in runs), 0),
                Numbers(tuple(run.sharpness["5e-4"] for run in runs), 0),
            )
        )
    head = ["regime", "1e-3, batch BN", "5e-4, batch BN", "1e-3, running BN", "5e-4, running BN"]
    return Table(f"{network.upper()}: sharpness", head, rows, "Metric 2.1, percent, corner ascent of 7 evaluations.")


EXPERIMENT = Experiment(
    "The training plugins beside a small and a large batch (Keskar et al. 2017, Table 7)",
    ("f1", "c1"),
    needs,
    show,
    {
        "settings of the plugins": "their papers' own, none tuned: SAM rho 0.05; late SAM in the last eighth; "
        "conservative lambda 1e-3, 3 steps of ADAM; FGSM 0.25 (F1), 0.03 (C1); gradient penalty 0.1",
    },
)
