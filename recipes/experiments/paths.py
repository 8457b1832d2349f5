"""Loss and accuracy on a path through two solutions, drawn, and its shape beside the paper's."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import fields

from lightning_gap.logging import parametric_figure

from ..reports.parts import Chart, Numbers, Part, Published, Table
from ..runner.measurement import Measurement
from .basin_shape import BasinShape, basin_shape
from .experiment import Findings
from .measures import along_a_path
from .published_curves import CURVES
from .scales import Choice

_NAMES = {"linear": "line", "curved": "arc"}
ALPHAS = [round(-1 + i / 8, 3) for i in range(25)]  # the authors' code


def points(choice: Choice, network: str, seed: int, path: str) -> Measurement:
    """Both splits at the 25 positions."""
    pair = choice.run(network, "small", seed), choice.run(network, "large", seed)
    return Measurement(_NAMES[path], pair, along_a_path, {"path": path, "alphas": ALPHAS}, cost=3)


def needs(choice: Choice, path: str) -> Iterator[Measurement]:
    for network in choice.networks:
        for seed in choice.seeds_of(network):
            yield points(choice, network, seed, path)


def show(choice: Choice, found: Findings, path: str) -> Iterator[Part]:
    """A figure for each network, of its first seed, and the shape of all seeds."""
    rows = list[Sequence[str | Numbers]]()
    for network in choice.networks:
        curves = [found[points(choice, network, seed, path)] for seed in choice.seeds_of(network)]
        loss, accuracy = ({split: own[name] for split, own in curves[0].items()} for name in ("loss", "accuracy"))
        yield Chart(
            f"{network.upper()}: {_NAMES[path]} through two solutions",
            parametric_figure(
                ALPHAS, loss, accuracy, ends=("small", "large"), title=f"{network.upper()}, {_NAMES[path]}"
            ),
            "Cross-entropy and accuracy of both splits against alpha, the small batch at 0 and the large one at 1.",
            f"Seed {choice.seeds_of(network)[0]}. {_widths(curves)}",
            {"alpha": ALPHAS} | {f"{split} loss": loss[split] for split in loss},
        )
        shapes = [basin_shape(ALPHAS, [100 * accuracy for accuracy in own["train"]["accuracy"]]) for own in curves]
        theirs = (
            basin_shape(ALPHAS, CURVES[network]["train_accuracy"]) if network in CURVES and path == "linear" else None
        )
        rows.append(
            (network.upper(), *(_cell(choice, network, shapes, theirs, field.name) for field in fields(BasinShape)))
        )
    head = [
        "network",
        "outward from small, alpha",
        "outward from large, alpha",
        "inward from small",
        "inward from large",
        "lowest between, %",
        "at alpha",
        "at alpha 1.25, %",
    ]
    note = (
        "Training accuracy: how far from each solution, in alpha, it stays above nine tenths of its value there, to "
        "the grid's end at most; the lowest between the two; and a quarter beyond the large batch."
    )
    yield Table(f"Shape on the {_NAMES[path]}", head, rows, note)


def _cell(choice: Choice, network: str, shapes: list[BasinShape], theirs: BasinShape | None, name: str) -> Numbers:
    paper = None if theirs is None else choice.beside(Published(getattr(theirs, name)), network)
    return Numbers(tuple(getattr(shape, name) for shape in shapes), paper=paper)


def _widths(curves: list[dict[str, dict[str, list[float]]]]) -> str:
    """How wide the basin of the small batch is beside that of the large one, over the seeds."""
    shapes = [basin_shape(ALPHAS, [100 * accuracy for accuracy in own["train"]["accuracy"]]) for own in curves]
    outward = [(shape.outward_small, shape.outward_large) for shape in shapes]
    wider = sum(small > large for small, large in outward)
    small, large = (statistics.fmean(pair[which] for pair in outward) for which in (0, 1))
    return (
        f"Outward, training accuracy stays above nine tenths for {small:.2f} on the small batch's side and {large:.2f} "
        f"on the large batch's; the small batch's side is the wider in {wider} of {len(shapes)} seeds."
    )
