"""Logarithmic axes with plain numbers beside them: 200 where matplotlib writes 2 × 10 with a small 2 above it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def set_logarithmic(axes: Axes, which: str) -> None:
    """Make axes logarithmic.

    Args:
        axes: Of a figure.
        which: ``"x"``, ``"y"`` or ``"xy"``.
    """
    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_formatter(_plain_numbers())
        axis.set_minor_formatter(_plain_numbers(minor_thresholds=(1.5, 0.5)))  # between powers of ten on short axes


def _plain_numbers(**options: Any) -> Any:
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    return Plain(**options)
