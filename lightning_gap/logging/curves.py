"""Draw curves over the steps of a run, on axes of the caller's or new ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .figures import blank_figure
from .log_axes import set_logarithmic

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure

_WIDE = 100.0  # a ratio of values beyond which an axis is logarithmic


def plot_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ax: Axes | None = None,
    *,
    title: str,
    log_x: bool = False,
) -> tuple[Figure, Axes]:
    """Draw curves against the optimizer step; logarithmic where values are positive and spread over a factor of 100.

    Args:
        curves: Steps and values by name; values that are not finite are left out.
        ax: Axes to draw on; by default those of a new figure.
        title: Heading.
        log_x: Whether the axis of the steps is logarithmic.

    Returns:
        The figure and its axes.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    if ax is None:
        ax = blank_figure(6, 4).subplots()
    drawn: list[float] = []
    for name, (steps, values) in curves.items():
        points = [(x, y) for x, y in zip(steps, values, strict=True) if math.isfinite(y)]
        ax.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=name)
        drawn += [y for _, y in points]
    if drawn and min(drawn) > 0 and max(drawn) > _WIDE * min(drawn):
        set_logarithmic(ax, "y")
    if log_x:
        set_logarithmic(ax, "x")
    ax.set(xlabel="optimizer step", title=title)
    if len(curves) > 1:
        ax.legend(fontsize="small", frameon=False)
    else:
        ax.set_ylabel(next(iter(curves)))
    figure: Any = ax.figure
    return figure, ax
