"""Goyal et al. (2017), Tables 1 and 2a in miniature: kinds of warmup, and rules for the learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..reports.parts import Numbers, Part, Published, Table
from ..runner.run_store import RunSpec
from .experiment import Experiment, Findings
from .scales import Choice
from .sgd_c1 import sgd_run

_PAPER = {  # validation error, percent: ResNet-50 on ImageNet, batch 256, then 8,192
    "small": (23.60, 0.12),
    "linear-lr": (23.74, 0.09),
    "linear-no-warmup": (24.84, 0.37),
    "linear-constant-warmup": (25.88, 0.56),
    "sqrt-warmup": (26.22, 0.03),
    "large": (41.67, 0.10),
}
_TITLES = {
    "small": "small batch",
    "linear-lr": "linear rule, gradual warmup",
    "linear-no-warmup": "linear rule, no warmup",
    "linear-constant-warmup": "linear rule, constant warmup",
    "sqrt-warmup": "root rule, gradual warmup",
    "large": "unscaled",
}


def run(choice: Choice, regime: str, seed: int) -> RunSpec:
    """Warmup over a twentieth of the epochs, as in the paper's 5 of 90."""
    return sgd_run(choice, regime, seed, warmup_epochs=max(1.0, round(choice.epochs("c1") / 18)))


def needs(choice: Choice) -> Iterator[RunSpec]:
    for seed in choice.seeds_or(3):
        for regime in _PAPER:
            yield run(choice, regime, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    error = {
        regime: [100 - 100 * found[run(choice, regime, seed)].test_accuracy for seed in choice.seeds_or(3)]
        for regime in _PAPER
    }
    rows = list[Sequence[str | Numbers]]()
    for regime, own in error.items():
        more = tuple(value - small for value, small in zip(own, error["small"], strict=True))
        paper = choice.beside(Published(round(_PAPER[regime][0] - _PAPER["small"][0], 2)), "c1")
        rows.append(
            (
                _TITLES[regime],
                Numbers(tuple(own), paper=choice.beside(Published(*_PAPER[regime]), "c1")),
                "-" if regime == "small" else Numbers(more, paper=paper, differences=True),
            )
        )
    note = "The paper's: ResNet-50 on ImageNet, batch 256 against 8,192. Here the direction can be compared alone."
    yield Table("Warmup and rules", ["large batch", "test error %", "above the small batch, points"], rows, note)


EXPERIMENT = Experiment(
    "Goyal et al. (2017), Tables 1 and 2a, in miniature",
    ("c1",),
    needs,
    show,
    {"optimizer": "SGD, momentum 0.9, weight decay 5e-4, learning rate 0.01 for the small batch"},
)
