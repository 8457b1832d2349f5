"""Figures, drawn without touching matplotlib's global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def parametric_figure(
    alphas: Sequence[float],
    loss: Mapping[str, Sequence[float]],
    accuracy: Mapping[str, Sequence[float]],
    *,
    ends: tuple[str, str],
    title: str,
) -> Figure:
    """Loss (left axis, logarithmic) and accuracy (right axis, %) along the line through two solutions.

    Args:
        alphas: Positions on the line; 0 and 1 are the two solutions.
        loss: One curve for each split, first solid, second dashed.
        accuracy: The same, as fractions.
        ends: Names of the solutions at alpha 0 and 1.
        title: Heading, with the terms of the evaluation.

    Returns:
        The figure; save it, or hand it to `SummaryWriter.add_figure`.

    Raises:
        ImportError: If matplotlib is not installed.

    Reference:
        Keskar et al. (2017), Figure 3.
    """
    figure = _blank(7, 4.5)
    left = figure.subplots()
    right = left.twinx()
    for style, split in zip(("-", "--"), loss, strict=False):
        left.plot(alphas, loss[split], style, color="tab:blue", label=f"{split} loss")
        right.plot(alphas, [100 * a for a in accuracy[split]], style, color="tab:red", label=f"{split} accuracy")
    for position, name in zip((0, 1), ends, strict=True):
        left.axvline(position, color="0.6", linewidth=0.8, zorder=0)
        left.annotate(
            name, (position, 0), xycoords=("data", "axes fraction"), xytext=(3, 5), textcoords="offset points"
        )
    if any(0 < value < math.inf for curve in loss.values() for value in curve):  # not if both solutions diverged
        left.set_yscale("log")
    left.set_xlabel(f"alpha ({ends[0]} at 0, {ends[1]} at 1)")
    left.set_ylabel("cross-entropy", color="tab:blue")
    right.set_ylabel("accuracy (%)", color="tab:red")
    right.set_ylim(0, 105)
    left.set_title(title, fontsize="medium")
    lines = [*left.get_lines()[:2], *right.get_lines()]
    figure.legend(handles=lines, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    return figure


def sharpness_figure(
    losses: Sequence[float], sharpness: Mapping[str, Sequence[float]], *, steps: Sequence[int]
) -> Figure:
    """Sharpness against loss along a run, one curve for each epsilon, both axes logarithmic.

    Args:
        losses: Loss at each measurement.
        sharpness: By name, in percent, as many values as losses; those that are not positive are left out.
        steps: Optimizer steps before each measurement; the first and the last are named.

    Raises:
        ImportError: If matplotlib is not installed.

    Reference:
        Keskar et al. (2017), Figure 6.
    """
    figure = _blank(6, 4.5)
    axes = figure.subplots()
    for name, values in sharpness.items():
        points = [(x, y, step) for x, y, step in zip(losses, values, steps, strict=True) if x > 0 and 0 < y < math.inf]
        if points:
            axes.plot([x for x, _, _ in points], [y for _, y, _ in points], marker="o", markersize=3, label=name)
            for (x, y, step), side in ((points[0], "left"), (points[-1], "right")):
                axes.annotate(f"step {step}", (x, y), (0, 5), textcoords="offset points", ha=side, fontsize="small")
    if axes.lines:
        axes.set(xscale="log", yscale="log")
        axes.invert_xaxis()  # training goes from left to right
        axes.legend(fontsize="small", frameon=False)
    axes.set(xlabel="loss on the measured samples", ylabel="sharpness (%)", title="Sharpness against loss")
    return figure


def _blank(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib; install lightning-gap[recipes]") from error
    return Figure(figsize=(width, height), layout="constrained")
