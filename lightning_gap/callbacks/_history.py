"""What a monitor has measured so far: kept by step, part of its checkpoint, drawn by `plot`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..functional._validation import shown
from ..logging.curves import plot_curves
from ._callback import GapCallback

if TYPE_CHECKING:
    from ..logging.curves import Axes, Figure

History = list[dict[str, float]]  # of each measurement its step and its values by name

MOST = 4096  # measurements that are held


def note(history: History, step: int, values: Mapping[str, float]) -> None:
    """Add a measurement; where there are too many, every second one is let go, so that a long run is held too."""
    if values:
        history.append({"step": float(step), **values})
    if len(history) > MOST:
        del history[1:-1:2]


class PlottedCallback(GapCallback):
    """A monitor whose measurements can be drawn."""

    plots_log_steps = False
    _history: History

    @property
    def history(self) -> History:
        """What was measured in the last fit: of each measurement its ``step`` and its values by name."""
        return [dict(point) for point in self._history]

    @property
    @abstractmethod
    def plotted(self) -> Sequence[str]:
        """What `plot` draws by default, of one unit."""

    def plot(self, names: str | Sequence[str] | None = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw what was measured against the optimizer step.

        Args:
            names: What to draw, without area and suffix, for instance ``"loss"``; by default what the monitor is for.
            ax: Axes of matplotlib's to draw on; by default those of a new figure.

        Returns:
            The figure and its axes.

        Raises:
            RuntimeError: If nothing was measured yet.
            ValueError: If a name is none of those that were measured.
            ImportError: If matplotlib is not installed.

        Example:
            fig, ax = monitor.plot()
        """
        kind, history = type(self).__name__, self.history
        if not history:
            raise RuntimeError(
                f"{kind}.plot has nothing to draw: nothing was measured yet; fit first, with the monitor in "
                f"Trainer(callbacks=[...]), or load a checkpoint of such a run"
            )
        known = list(dict.fromkeys(name for point in history for name in point if name != "step"))
        asked = self.plotted if names is None else [names] if isinstance(names, str) else list(names)
        wrong = [name for name in asked if name not in known]
        if wrong or not asked:
            raise ValueError(f"names must be of {known}, got {shown(names if names is not None else wrong)}")
        curves = {}
        for name in asked:
            points = [(point["step"], point[name]) for point in history if name in point]
            curves[name] = [step for step, _ in points], [value for _, value in points]
        return plot_curves(curves, ax, title=kind, log_x=self.plots_log_steps)
