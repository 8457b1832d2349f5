"""Drawing so that all figures look alike: a colour and a sign for each regime, bands over seeds, labels with units."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_gap.logging.log_axes import set_logarithmic

from ..intervals import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.8  # inches: on a phone of 360 pixels, letters of 10 points are still 9 to 10 pixels high


class Look(NamedTuple):
    """How a regime is drawn, in every figure."""

    color: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]


# Okabe and Ito's colours and Tol's muted ones, those that are too light on white darkened to a contrast of 3 at least.
# Regimes of one kind share a hue; no two share colour and marker, so that neither has to be told by colour alone.
_LOOKS = {
    "small": Look("#0072B2", "o", "-"),
    "large": Look("#D55E00", "s", "--"),
    "linear-lr": Look("#009E73", "^", "-"),
    "sqrt-lr": Look("#009E73", "v", "--"),
    "goyal": Look("#117733", "^", "-."),
    "ghost": Look("#AA4499", "D", "--"),
    "ghost-lr": Look("#882255", "D", "-"),
    "longer": Look("#3A8FC7", "P", "-"),
    "growing": Look("#332288", "<", "-"),
    "piggyback": Look("#332288", ">", "--"),
    "augmented": Look("#7F7F1F", "p", "-"),
    "sam": Look("#CC79A7", "*", "-"),
    "sam-late": Look("#CC79A7", "h", "--"),
    "conservative": Look("#661100", "d", "-"),
    "adversarial": Look("#000000", "X", "-"),
    "penalty": Look("#777777", "s", "-"),
    "noise": Look("#777777", "o", ":"),
}
SERIES = (  # what is no regime, in this order
    Look("#1F4E5F", "o", "-"),
    Look("#B35900", "s", "--"),
    Look("#6A4C93", "^", "-."),
    Look("#4F7A28", "D", ":"),
    Look("#8C1C3E", "v", (0, (5, 1, 1, 1, 1, 1))),
)
_OTHERS = ("#56616B", "#8B5A2B", "#4B3F72", "#2A8C82")  # of a user's own regimes


def look(regime: str) -> Look:
    """The colour, marker and line of a regime; the same ones each time, for a regime of the user's own too."""
    own = _OTHERS[zlib.crc32(regime.encode()) % len(_OTHERS)]
    return _LOOKS.get(regime, Look(own, "8", "-"))


def blank(height: float = 3.8, *, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of one column, as wide as all others, and its axes from top to bottom.

    Args:
        height: In inches.
        rows: Axes below each other, which share the horizontal one.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib; install lightning-gap[recipes]") from error
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = [panel for (panel,) in figure.subplots(rows, sharex=True, squeeze=False)]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
    return figure, axes


def label(axes: Axes, x: str, y: str, *, log: str = "") -> None:
    """Name both axes with their units.

    Args:
        axes: Of a figure.
        x: Quantity and unit, for instance ``"epoch"``.
        y: The same, for instance ``"test accuracy (%)"``.
        log: ``"x"``, ``"y"`` or ``"xy"``: axes that are logarithmic.
    """
    axes.set(xlabel=x, ylabel=y)
    set_logarithmic(axes, log)


def line_with_band(
    axes: Axes, x: Sequence[float], by_seed: Sequence[Sequence[float]], *, name: str, like: Look
) -> None:
    """The mean over seeds as a line, its 95 % interval as a band; points with a value that is not finite are left out.

    Args:
        axes: Where to draw.
        x: Horizontal positions.
        by_seed: A curve for each seed, as long as ``x``.
        name: For the legend.
        like: Colour, marker and line.

    Raises:
        ValueError: If a curve has another length.
    """
    for curve in by_seed:
        if len(curve) != len(x):
            raise ValueError(f"by_seed of {name!r} has a curve of {len(curve)} values for {len(x)} positions")
    found = [(at, mean_interval(values)) for at, *values in zip(x, *by_seed, strict=True)]
    shown = [(at, interval) for at, interval in found if math.isfinite(interval.mean)]
    at = [position for position, _ in shown]
    marks: dict[str, Any] = {"marker": like.marker, "markersize": 4} if len(shown) <= 15 else {}
    axes.plot(at, [i.mean for _, i in shown], color=like.color, linestyle=like.line, label=name, **marks)
    if len(by_seed) > 1:
        low, high = ([getattr(i, end) for _, i in shown] for end in ("low", "high"))
        axes.fill_between(at, low, high, color=like.color, alpha=0.18, linewidth=0)


def legend_below(figure: Figure, *axes: Axes, columns: int = 3) -> None:
    """Name what is drawn in these axes, outside of them, each name once."""
    found = (zip(*panel.get_legend_handles_labels(), strict=True) for panel in axes)
    handles: Mapping[str, Any] = {text: handle for pairs in found for handle, text in pairs}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize="small", frameon=False
    )
