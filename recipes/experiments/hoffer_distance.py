"""Hoffer et al. (2017), Figure 2: distance from the initial weights grows with the logarithm of the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_gap.functional import log_fit

from ..reports.drawing import SERIES, blank, label, legend_below, line_with_band
from ..reports.parts import Chart, Numbers, Part, Table
from ..runner.measurement import Measurement
from .experiment import Experiment, Findings
from .measures import distance_by_epoch
from .scales import Choice
from .sgd_c1 import sgd_run


def traces(choice: Choice, seed: int) -> dict[str, Measurement]:
    """Distance after every epoch, by batch and correction."""
    base = choice.run("c1", "small", seed).hyperparameters
    smallest, largest, epochs = base["small_batch_size"], base["large_batch_size"], base["epochs"]
    sizes = (smallest, round((smallest * largest) ** 0.5), largest)
    kept = tuple(range(epochs + 1)) if epochs <= 25 else tuple(range(0, epochs + 1, max(1, epochs // 25)))
    found = {}
    for size in sizes:
        plain = sgd_run(choice, "small", seed, kept=kept, small_batch_size=size)
        found[f"batch {size}"] = plain
        if size > smallest:
            changed = {"large_batch_size": size, "ghost_batch_size": smallest}
            found[f"batch {size}, corrected"] = sgd_run(choice, "ghost-lr", seed, kept=kept, **changed)
    options = {"epochs": list(kept[1:])}
    return {name: Measurement("distance", (run,), distance_by_epoch, options) for name, run in found.items()}


def needs(choice: Choice) -> Iterator[Measurement]:
    for seed in choice.seeds_or(3):
        yield from traces(choice, seed).values()


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    seeds = choice.seeds_or(3)
    by_seed = [{name: found[asked] for name, asked in traces(choice, seed).items()} for seed in seeds]
    figure, (axes,) = blank(4.6)
    rows = list[Sequence[str | Numbers]]()
    for name, like in zip(by_seed[0], SERIES, strict=False):
        runs = [own[name] for own in by_seed]
        steps = [row["step"] for row in runs[0]]
        line_with_band(axes, steps, [[row["distance"] for row in run] for run in runs], name=name, like=like)
        fits = [log_fit([row["step"] for row in run], [row["distance"] for row in run]) for run in runs]
        rows.append(
            (
                name,
                Numbers(tuple(fit.slope for fit in fits), 3),
                Numbers(tuple(fit.r_squared for fit in fits), 4),
                Numbers(tuple(run[-1]["distance"] for run in runs)),
            )
        )
    label(axes, "optimizer step", "distance from the initial weights", log="x")
    legend_below(figure, axes, columns=2)
    yield Chart(
        "Distance against the step",
        figure,
        "Distance from the initial weights against the step, by batch size, before and after the corrections.",
        "One point for each epoch, the first one after one epoch. Band: 95 % interval over the seeds.",
    )
    note = (
        "Least squares of distance against log(step), from the first epoch on. Corrected: root rule, clipping, ghosts."
    )
    yield Table("Fits", ["run", "slope per e-fold of steps", "R squared", "distance at the end"], rows, note)


EXPERIMENT = Experiment(
    "Hoffer et al. (2017), Figure 2: distance grows with the logarithm of the step",
    ("c1",),
    needs,
    show,
    {"optimizer": "SGD, momentum 0.9, weight decay 5e-4, learning rate 0.01; the paper's network is ResNet-44"},
)
