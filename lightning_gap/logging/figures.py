"""Figures, drawn without touching matplotlib's global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .log_axes import set_logarithmic

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
        accuracy: The same, as fractions; a split may be left out.
        ends: Names of the solutions at alpha 0 and 1.
        title: Heading, with the terms of the evaluation.

    Returns:
        The figure; save it, or hand it to `SummaryWriter.add_figure`.

    Raises:
        ImportError: If matplotlib is not installed.

    Reference:
        Keskar et al. (2017), Figure 3.
    """
    figure = blank_figure(7, 4.5)
    left = figure.subplots()
    right = left.twinx()
    for style, split in zip(("-", "--"), loss, strict=False):
        left.plot(alphas, loss[split], style, color="tab:blue", label=f"{split} loss")
        if split in accuracy:
            right.plot(alphas, [100 * a for a in accuracy[split]], style, color="tab:red", label=f"{split} accuracy")
    for position, name in zip((0, 1), ends, strict=True):
        left.axvline(position, color="0.6", linewidth=0.8, zorder=0)
        left.annotate(
            name, (position, 0), xycoords=("data", "axes fraction"), xytext=(3, 5), textcoords="offset points"
        )
    if any(0 < value < math.inf for curve in loss.values() for value in curve):  # not if both solutions diverged
        set_logarithmic(left, "y")
    left.set_xlabel(f"alpha ({ends[0]} at 0, {ends[1]} at 1)")
    left.set_ylabel("cross-entropy", color="tab:blue")
    right.set_ylabel("accuracy (%)", color="tab:red")
    right.set_ylim(0, 105)
    right.yaxis.set_visible(bool(accuracy))
    left.set_title(title, fontsize="medium")
    lines = [*left.get_lines()[: len(loss)], *right.get_lines()]
    figure.legend(handles=lines, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    return figure


def surface_figure(
    steps: tuple[Sequence[float], Sequence[float]],
    losses: Sequence[Sequence[float]],
    *,
    labels: tuple[str, str],
    title: str,
    path: Sequence[Sequence[float]] = (),
) -> Figure:
    """The loss on a plane of weight space as contour lines, whose levels are logarithmic, and a run in that plane.

    Colours are matplotlib's cividis, which reads the same with and without red-green blindness and in grey.

    Args:
        steps: Positions along the first axis, n, and along the second, m.
        losses: (n, m) losses; those that are not finite stay grey.
        labels: Of the two axes.
        title: Heading, with the terms of the evaluation.
        path: Coordinates of a run, (epochs, 2), in order; those of `WeightPlane`. The last is marked by a star.

    Returns:
        The figure; save it, or hand it to `SummaryWriter.add_figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If no loss is finite, or the grid is not that of ``steps``.

    Reference:
        Li et al. (2018), Figures 1 and 9.
    """
    grid = [[value if math.isfinite(value) else math.nan for value in map(float, row)] for row in losses]
    known = [value for row in grid for value in row if value == value]
    if len(grid) != len(steps[0]) or any(len(row) != len(steps[1]) for row in grid) or min(map(len, steps)) < 2:
        raise ValueError(
            f"losses must be a grid of len(steps[0]) times len(steps[1]) numbers, at least 2 times 2, got {len(grid)} "
            f"rows for {len(steps[0])} times {len(steps[1])}"
        )
    if not known:
        raise ValueError("losses must not be infinite or NaN everywhere; draw a smaller piece around the solution")
    figure = blank_figure(6, 5)
    axes = figure.subplots()
    axes.set_facecolor("0.8")
    columns = [list(column) for column in zip(*grid, strict=True)]  # matplotlib has the first axis across
    levels, low, high = 12, min(known), max(known)
    drawn: Any
    if low > 0 and high > 2 * low:
        from matplotlib.colors import LogNorm

        chosen = [low * (high / low) ** (k / levels) for k in range(levels + 1)]
        drawn = axes.contourf(*steps, columns, levels=chosen, norm=LogNorm(low, high), cmap="cividis_r")
    elif high > low:
        chosen = [low + (high - low) * k / levels for k in range(levels + 1)]
        drawn = axes.contourf(*steps, columns, levels=chosen, cmap="cividis_r")
    else:
        drawn = axes.pcolormesh(*steps, columns, cmap="cividis_r", shading="nearest")
    bar = figure.colorbar(drawn, label="loss")
    if high > low:
        axes.contour(drawn, colors="0.2", linewidths=0.4)
        bar.set_ticks(chosen[::3], labels=[f"{level:.3g}" for level in chosen[::3]])
    if path:
        xs, ys = ([point[k] for point in path] for k in range(2))
        axes.plot(xs, ys, marker="o", markersize=3, color="black", markerfacecolor="white", linewidth=1)
        axes.plot(xs[-1:], ys[-1:], marker="*", markersize=12, color="black", markerfacecolor="white")
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.set_title(title, fontsize="medium")
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
    figure = blank_figure(6, 4.5)
    axes = figure.subplots()
    for name, values in sharpness.items():
        points = [(x, y, step) for x, y, step in zip(losses, values, steps, strict=True) if x > 0 and 0 < y < math.inf]
        if points:
            axes.plot([x for x, _, _ in points], [y for _, y, _ in points], marker="o", markersize=3, label=name)
            for (x, y, step), side in ((points[0], "left"), (points[-1], "right")):
                axes.annotate(f"step {step}", (x, y), (0, 5), textcoords="offset points", ha=side, fontsize="small")
    if axes.lines:
        set_logarithmic(axes, "xy")
        axes.invert_xaxis()  # training goes from left to right
        axes.legend(fontsize="small", frameon=False)
    axes.set(xlabel="loss on the measured samples", ylabel="sharpness (%)", title="Sharpness against loss")
    return figure


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib; install lightning-gap[recipes]") from error
    return Figure(figsize=(width, height), layout="constrained")
