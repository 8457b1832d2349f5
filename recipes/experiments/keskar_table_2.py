"""Keskar et al. (2017), Table 2: training and test accuracy of a small and a large batch, and the gap."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..reports.parts import Numbers, Part, Published, Table
from . import published
from .experiment import Experiment, Findings
from .scales import Choice
from .sharpness_tables import of_both_batches


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    head = ["network", *(f"{split} accuracy %, {batch}" for split in ("train", "test") for batch in ("small", "large"))]
    rows = []
    for network in choice.networks:
        small, large = (
            [found[choice.run(network, regime, seed)] for seed in choice.seeds_of(network)]
            for regime in ("small", "large")
        )
        train, test = published.TRAIN_ACCURACY[network], published.TEST_ACCURACY[network]
        beside = partial(choice.beside, network=network)
        gap = tuple(100 * (s.test_accuracy - b.test_accuracy) for s, b in zip(small, large, strict=True))
        rows.append(
            (
                network.upper(),
                Numbers(tuple(100 * run.train_accuracy for run in small), paper=beside(train.small)),
                Numbers(tuple(100 * run.train_accuracy for run in large), paper=beside(train.large)),
                Numbers(tuple(100 * run.test_accuracy for run in small), paper=beside(test.small)),
                Numbers(tuple(100 * run.test_accuracy for run in large), paper=beside(test.large)),
                Numbers(gap, paper=beside(Published(round(test.small.mean - test.large.mean, 2))), differences=True),
            )
        )
    yield Table("Accuracy and gap", [*head, "gap, points"], rows, "The gap is test accuracy small minus large.")


EXPERIMENT = Experiment(
    "Keskar et al. (2017), Table 2: accuracy of a small and a large batch",
    tuple(published.TEST_ACCURACY),
    of_both_batches,
    show,
)
