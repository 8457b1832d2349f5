"""The figures of a comparison: test accuracy by regime, and sharpness against the gap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..gap import Gap
from ..intervals import Interval, mean_interval
from ..runner.run_result import RunResult
from .drawing import blank, label, legend_below, look
from .pictures import DOTS_PER_INCH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Results = Mapping[str, Mapping[int, RunResult]]


def accuracy_figure(results: Results) -> tuple[Figure, str]:
    """A line for each regime: test accuracy of each seed, mean and interval; and what is to be seen on it, in words."""
    accuracy = {name: [100 * one.test_accuracy for one in seeds.values()] for name, seeds in results.items()}
    means = {name: mean_interval(values) for name, values in accuracy.items()}
    figure, (axes,) = blank(0.9 + 0.42 * len(results))
    for line, (regime, values) in enumerate(accuracy.items()):
        like = look(regime)
        axes.plot(values, [line + 0.24] * len(values), like.marker, color=like.color, markersize=4, alpha=0.55, mew=0)
        _bar(axes, regime, means[regime], float(line), None)
    if "small" in means and len(means) > 1:
        axes.axvline(means["small"].mean, color=look("small").color, linewidth=0.8, linestyle=":", zorder=0)
    axes.set_yticks(range(len(results)), list(results))
    axes.set_ylim(len(results) - 0.5, -0.5)  # the first at the top
    axes.grid(visible=False, axis="y")
    label(axes, "test accuracy (%)", "")
    best, worst = (pick(means, key=lambda name: means[name].mean) for pick in (max, min))
    told = f"Test accuracy of each seed in a line for each of {len(results)} regimes, with mean and interval."
    if len(results) > 1:
        told += f" The highest mean is that of {best}, {means[best].mean:.2f} %, the lowest that of {worst}, "
        told += f"{means[worst].mean:.2f} %."
    return figure, told


def sharpness_figure(results: Results, gaps: Mapping[str, Gap], epsilon: str) -> tuple[Figure, str]:
    """Sharpness against the gap to ``small``, a sign for each regime; and what is to be seen on it, in words.

    Args:
        results: By regime and seed.
        gaps: By regime.
        epsilon: Name of the half-width of the box.
    """
    figure, panels = blank(5.2, rows=2)
    kinds = {"sharpness": "running statistics", "sharpness_batch": "statistics of each chunk"}
    told = []
    for axes, (kind, words) in zip(panels, kinds.items(), strict=True):
        found = {name: mean_interval([getattr(one, kind)[epsilon] for one in results[name].values()]) for name in gaps}
        found = {name: sharpness for name, sharpness in found.items() if 0 < sharpness.mean < math.inf}
        for regime, sharpness in found.items():
            _bar(axes, regime, gaps[regime].found, sharpness.mean, sharpness)
        label(axes, "", f"sharpness, {epsilon} (%)", log="y" if found else "")
        axes.set_title(f"BatchNorm by {words}", fontsize="medium", loc="left")
        if found:
            sharpest = max(found, key=lambda name: found[name].mean)
            told.append(f"with {words} the sharpest is {sharpest}")
    panels[-1].set_xlabel("gap to small (points)")
    legend_below(figure, panels[0])
    return figure, f"Sharpness against the gap to small for {len(gaps)} regimes: {'; '.join(told) or 'none is finite'}."


def picture(path: Path) -> Figure:
    """A picture that was drawn before, as it is.

    Raises:
        ValueError: If the file is damaged.
    """
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    try:
        pixels = imread(path)
    except Exception as error:  # of whatever type the bytes lead to
        raise ValueError(
            f"{str(path)!r} cannot be read as a picture ({type(error).__name__}); delete it, and --resume draws it "
            "again"
        ) from error
    height, width = pixels.shape[:2]
    figure = Figure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(pixels, interpolation="none", aspect="auto")
    axes.set_axis_off()
    return figure


def _bar(axes: Axes, regime: str, x: Interval, y: float, y_interval: Interval | None) -> None:
    """A regime's sign at its mean, with the interval of one or both."""
    like = look(regime)
    axes.plot([x.mean], [y], like.marker, color=like.color, markersize=8, label=regime, zorder=3)
    if not math.isnan(x.low):
        axes.plot([x.low, x.high], [y, y], color=like.color, linewidth=1.6)
    if y_interval is not None and y_interval.low > 0:  # on a logarithmic axis
        axes.plot([x.mean] * 2, [y_interval.low, y_interval.high], color=like.color, linewidth=1.6)
