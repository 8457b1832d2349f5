"""Keskar et al. (2017), Figure 6: sharpness against the loss, along a small-batch and a large-batch run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from ..reports.drawing import blank, label, legend_below, look
from ..reports.parts import Chart, Numbers, Part, Table
from ..runner.measurement import Measurement
from .experiment import Experiment, Findings
from .measures import sharpness_by_epoch
from .scales import Choice


def trace(choice: Choice, network: str, regime: str, seed: int) -> Measurement:
    """Loss and sharpness before the first step, and after about 12 epochs."""
    epochs = choice.epochs(network)
    kept = sorted({0, *(round(epochs ** (i / 11)) for i in range(12))})
    run = choice.run(network, regime, seed, kept=tuple(kept))
    return Measurement("sharpness-trace", (run,), sharpness_by_epoch, {"epochs": kept, "batch_norm": "batch"}, cost=2)


def needs(choice: Choice) -> Iterator[Measurement]:
    for network in choice.networks:
        for seed in choice.seeds_of(network, most=3):
            for regime in ("small", "large"):
                yield trace(choice, network, regime, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    rows = []
    for network in choice.networks:
        seeds = choice.seeds_of(network, most=3)
        traces = {
            regime: [found[trace(choice, network, regime, seed)] for seed in seeds] for regime in ("small", "large")
        }
        figure, (axes,) = blank(4.4)
        for regime, runs in traces.items():
            for i, run in enumerate(runs):
                like = look(regime)
                points = [(row["loss"], row["1e-3"]) for row in run if row["loss"] > 0 and row["1e-3"] > 0]
                axes.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    color=like.color,
                    marker=like.marker,
                    linestyle=like.line,
                    linewidth=1,
                    markersize=4,
                    label=regime if i == 0 else None,
                )
        axes.invert_xaxis()
        label(axes, "cross-entropy on the measured samples", "sharpness 1e-3 (%)", log="xy")
        legend_below(figure, axes)
        yield Chart(
            f"{network.upper()}: sharpness against loss",
            figure,
            "Sharpness against the loss along each run, training from left to right.",
            "A line for each seed. Corner ascent, BatchNorm by the statistics of each chunk.",
        )
        for at in (2.0, 1.0, 0.5, 0.2, 0.1):
            small, large = (tuple(_sharpness_at(run, at) for run in traces[regime]) for regime in ("small", "large"))
            if all(map(math.isfinite, (*small, *large))):
                ratio = tuple(math.log10(b / s) for s, b in zip(small, large, strict=True))
                rows.append(
                    (f"{network.upper()}, {at}", Numbers(small, 1), Numbers(large, 1), Numbers(ratio, differences=True))
                )
    head = ["network, loss", "sharpness %, small", "sharpness %, large", "log10 large / small"]
    yield Table("At the same loss", head, rows, "Linear between epochs in the logarithms; losses that all runs passed.")


def _sharpness_at(run: Sequence[dict[str, float]], loss: float) -> float:
    """Where the run first passes this loss."""
    for before, here in itertools.pairwise(run):
        if before["loss"] >= loss > here["loss"] > 0 and before["1e-3"] > 0 and here["1e-3"] > 0:
            share = math.log(before["loss"] / loss) / math.log(before["loss"] / here["loss"])
            return math.exp((1 - share) * math.log(before["1e-3"]) + share * math.log(here["1e-3"]))
    return math.nan


EXPERIMENT = Experiment("Keskar et al. (2017), Figure 6: sharpness along the runs", ("f2", "c1"), needs, show)
