"""Keskar et al. (2017), Figure 2: accuracies along a run; stopping early does not close the gap."""

from __future__ import annotations

from collections.abc import Iterator

from ..reports.drawing import blank, label, legend_below, line_with_band, look
from ..reports.parts import Chart, Numbers, Part, Table
from ..runner.measurement import Measurement
from .experiment import Experiment, Findings
from .measures import by_epoch
from .scales import Choice

MOST = 25  # epochs that are looked at


def curve(choice: Choice, network: str, regime: str, seed: int) -> Measurement:
    """Accuracies and losses after about 25 epochs of a run, the last among them."""
    epochs = choice.epochs(network)
    kept = sorted({round(epochs * i / min(MOST, epochs)) for i in range(1, min(MOST, epochs) + 1)})
    run = choice.run(network, regime, seed, kept=tuple(kept))
    return Measurement("by-epoch", (run,), by_epoch, {"epochs": kept})


def needs(choice: Choice) -> Iterator[Measurement]:
    for network in choice.networks:
        for seed in choice.seeds_of(network, most=3):
            for regime in ("small", "large"):
                yield curve(choice, network, regime, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    rows = []
    for network in choice.networks:
        curves = {
            regime: [found[curve(choice, network, regime, seed)] for seed in choice.seeds_of(network, most=3)]
            for regime in ("small", "large")
        }
        best, last = (
            {regime: [pick(own) for own in seeds] for regime, seeds in curves.items()} for pick in (_best, _last)
        )
        rows.append(
            (
                network.upper(),
                Numbers(tuple(s - b for s, b in zip(last["small"], last["large"], strict=True)), differences=True),
                Numbers(tuple(s - b for s, b in zip(best["small"], best["large"], strict=True)), differences=True),
            )
        )
        figure, (train, test) = blank(5.2, rows=2)
        for regime, seeds in curves.items():
            epochs = [row["epoch"] for row in seeds[0]]
            for axes, split in ((train, "train"), (test, "test")):
                values = [[row[f"{split}_accuracy"] for row in own] for own in seeds]
                line_with_band(axes, epochs, values, name=regime, like=look(regime))
        label(train, "", "training accuracy (%)")
        label(test, "epoch", "test accuracy (%)")
        legend_below(figure, test)
        yield Chart(
            f"{network.upper()}: accuracy against epochs",
            figure,
            "Training and test accuracy rise and flatten; the distance between the two batches stays at the end.",
            "Band: 95 % interval over the seeds.",
        )
    head = ["network", "gap at the end, points", "gap with each run at its best epoch"]
    yield Table(
        "Does stopping early help?", head, rows, "The best epoch is chosen by test accuracy, which flatters it."
    )


def _best(rows: list[dict[str, float]]) -> float:
    return max(row["test_accuracy"] for row in rows)


def _last(rows: list[dict[str, float]]) -> float:
    return rows[-1]["test_accuracy"]


EXPERIMENT = Experiment("Keskar et al. (2017), Figure 2: accuracy along the runs", ("f2", "c1"), needs, show)
