"""Garipov et al. (2018): are a small and a large batch's solutions in one valley? Lines and curves between them.

Two solutions are connected by a straight line, by a quadratic Bezier curve and by a chain of two pieces; the curves are
trained so that the training loss on them is low. Ours: the paper connects solutions of one batch size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning_gap.functional import connect, line_points, loss_barrier

from ..evaluation import at_points, mean_loss
from ..reports.drawing import SERIES, blank, label, legend_below, line_with_band
from ..reports.parts import Chart, Numbers, Part, Table
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec, TrainedRun
from .experiment import Experiment, Findings
from .scales import Choice

PATHS = ("line", "bezier", "chain")
POSITIONS = [round(i / 20, 3) for i in range(21)]
LEARNING_RATE = 0.03


def between(one: TrainedRun, other: TrainedRun, *, path: Any, epochs: int) -> dict[str, dict[str, list[float]]]:
    """Loss and accuracy of both splits along a path, BatchNorm by the statistics of each chunk.

    Args:
        one: At 0.
        other: At 1.
        path: "line", "bezier" or "chain".
        epochs: That a curve is trained for, on batches of the first run's size.
    """
    recipe, ends = one.recipe(), (one.state(), other.state())
    if path == "line":
        return at_points(recipe, one.data(recipe), line_points(*ends, POSITIONS))
    curve = connect(
        recipe.network,
        *ends,
        mean_loss,
        one.data(recipe).train_dataloader(),
        kind=path,
        epochs=epochs,
        learning_rate=LEARNING_RATE,
        seed=one.spec.seed,
    )
    return at_points(recipe, one.data(recipe), curve.points(POSITIONS))


def pairs(choice: Choice, network: str) -> dict[str, list[tuple[RunSpec, RunSpec]]]:
    """Small and large from the same initial weights, and two small ones from others."""
    small, large = (
        [choice.run(network, regime, seed) for seed in choice.seeds_of(network, most=3)]
        for regime in ("small", "large")
    )
    twice = [*itertools.pairwise(small), *([(small[-1], small[0])] if len(small) > 2 else [])]
    return {"small and large": list(zip(small, large, strict=True)), **({"small twice": twice} if twice else {})}


def along(pair: tuple[RunSpec, RunSpec], path: str, epochs: int) -> Measurement:
    """Of one pair."""
    cost = 1.0 if path == "line" else 1.5 * epochs
    return Measurement(f"mode-connectivity-{path}", pair, between, {"path": path, "epochs": epochs}, cost)


def needs(choice: Choice) -> Iterator[Measurement]:
    for network in choice.networks:
        for pair in itertools.chain(*pairs(choice, network).values()):
            for path in PATHS:
                yield along(pair, path, choice.epochs(network))


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    rows = list[Sequence[str | Numbers]]()
    for network in choice.networks:
        for name, connected in pairs(choice, network).items():
            measured = {
                path: [found[along(pair, path, choice.epochs(network))] for pair in connected] for path in PATHS
            }
            rows += [(f"{network.upper()}, {name}, {path}", *_cells(own)) for path, own in measured.items()]
            yield _chart(f"{network.upper()}: {name}", measured)
    head = ["network, solutions, path", "barrier of the training loss", "highest training loss", "at the ends"]
    head += ["lowest test accuracy %", "at the worse end %"]
    note = "Barrier: training loss above the straight line between those of the two ends (Entezari et al. 2022)."
    yield Table("Between two solutions", head, rows, note)


def _cells(own: Sequence[Mapping[str, Any]]) -> tuple[Numbers, ...]:
    losses, accuracies = [each["train"]["loss"] for each in own], [each["test"]["accuracy"] for each in own]
    return (
        Numbers(tuple(loss_barrier(POSITIONS, loss).height for loss in losses), 3),
        Numbers(tuple(map(max, losses)), 3),
        Numbers(tuple(max(loss[0], loss[-1]) for loss in losses), 3),
        Numbers(tuple(100 * min(accuracy) for accuracy in accuracies)),
        Numbers(tuple(100 * min(accuracy[0], accuracy[-1]) for accuracy in accuracies)),
    )


def _chart(title: str, measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> Chart:
    figure, (loss, accuracy) = blank(5.2, rows=2)
    for (path, own), like in zip(measured.items(), SERIES, strict=False):
        line_with_band(loss, POSITIONS, [each["train"]["loss"] for each in own], name=path, like=like)
        percent = [[100 * value for value in each["test"]["accuracy"]] for each in own]
        line_with_band(accuracy, POSITIONS, percent, name=path, like=like)
    label(loss, "", "training loss", log="y")
    label(accuracy, "position on the path", "test accuracy (%)")
    legend_below(figure, loss)
    return Chart(
        title,
        figure,
        "Training loss and test accuracy from one solution, at 0, to the other: on the line there may be a barrier.",
        "Band: 95 % interval over the pairs.",
    )


EXPERIMENT = Experiment(
    "Garipov et al. (2018): lines and curves between two solutions",
    ("f1", "c1"),
    needs,
    show,
    {
        "curves": f"one bend, as many epochs as the runs, SGD with momentum 0.9 at {LEARNING_RATE}, the small batch; "
        "the paper trains curves for two to three times as long",
        "BatchNorm": "the statistics of each chunk",
    },
)
