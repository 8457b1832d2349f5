"""Hoffer et al. (2017), Table 1, row C1: each correction of the large batch brings back some of the gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..reports.parts import Numbers, Part, Published, Table
from ..runner.run_store import RunSpec
from .experiment import Experiment, Findings
from .scales import Choice
from .sgd_c1 import sgd_run

_PAPER = {  # validation accuracy, percent, recalled and not read
    "small": 87.80,
    "large": 83.95,
    "sqrt-lr": 86.15,
    "ghost-lr": 86.4,
    "ghost-lr-longer": 88.20,
}
_TITLES = {
    "small": "small batch",
    "large": "large batch",
    "sqrt-lr": "+ root-scaled learning rate, clipping",
    "ghost-lr": "+ ghosts",
    "ghost-lr-longer": "+ as many updates",
}
_FEWER = {"ghost-lr-longer": 2}  # as long as sixteen others


def run(choice: Choice, regime: str, seed: int) -> RunSpec:
    """Ghosts of the small batch, as in the paper."""
    return sgd_run(
        choice, regime, seed, ghost_batch_size=choice.run("c1", "small", 0).hyperparameters["small_batch_size"]
    )


def needs(choice: Choice) -> Iterator[RunSpec]:
    for regime in _PAPER:
        for seed in choice.seeds_or(3)[: _FEWER.get(regime)]:
            yield run(choice, regime, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    accuracy = {
        regime: {
            seed: 100 * found[run(choice, regime, seed)].test_accuracy
            for seed in choice.seeds_or(3)[: _FEWER.get(regime)]
        }
        for regime in _PAPER
    }
    rows = list[Sequence[str | Numbers]]()
    for regime, own in accuracy.items():
        gap = tuple(accuracy["small"][seed] - value for seed, value in own.items())
        paper = choice.beside(Published(round(_PAPER["small"] - _PAPER[regime], 2)), "c1")
        rows.append(
            (
                _TITLES[regime],
                Numbers(tuple(own.values()), paper=choice.beside(Published(_PAPER[regime]), "c1")),
                "-" if regime == "small" else Numbers(gap, paper=paper, differences=True),
            )
        )
    note = "Cumulative. The paper's: batch 128 against 4,096, 200 epochs, augmented images; recalled, not read."
    yield Table("Corrections", ["run", "test accuracy %", "gap to small, points"], rows, note)


EXPERIMENT = Experiment(
    "Hoffer et al. (2017), Table 1: corrections of the large batch",
    ("c1",),
    needs,
    show,
    {"optimizer": "SGD, momentum 0.9, weight decay 5e-4, learning rate 0.01 throughout"},
)
