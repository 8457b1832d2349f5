"""How far each regime tests below the small batch, how sure that is, and how much of it a remedy brings back."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gap:
    """Test accuracy of ``small`` minus that of a regime, in points, trial by trial.

    Attributes:
        points: One difference for each trial, positive where ``small`` is better.
    """

    points: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the trials."""
        return statistics.fmean(self.points)

    @property
    def half_width(self) -> float:
        """Half of the 95 % t interval of the mean; NaN of one trial."""
        n = len(self.points)
        if n < 2:
            return math.nan
        from scipy.special import stdtrit

        return float(stdtrit(n - 1, 0.975)) * statistics.stdev(self.points) / math.sqrt(n)

    @property
    def is_there(self) -> bool:
        """Whether the interval lies above zero."""
        return self.mean - self.half_width > 0

    @property
    def interval(self) -> str:
        """Its ends in words; a dash of one trial."""
        if math.isnan(self.half_width):
            return "-"
        return f"{self.mean - self.half_width:.2f} to {self.mean + self.half_width:.2f}"


def gaps(test_accuracy: Mapping[str, Sequence[float]]) -> dict[str, Gap]:
    """The gap of each regime to ``small``; of none where ``small`` was not trained.

    Args:
        test_accuracy: Fractions, one for each trial, by regime; trials of the same place share a seed.

    Example:
        >>> found = gaps({"small": [0.98, 0.97], "large": [0.96, 0.96]})
        >>> [round(points, 6) for points in found["large"].points], found["large"].is_there
        ([2.0, 1.0], False)
    """
    small = test_accuracy.get("small")
    if small is None:
        return {}
    return {
        name: Gap(tuple(100 * (s - o) for s, o in zip(small, found, strict=True)))
        for name, found in test_accuracy.items()
    }


def recovered(found: Mapping[str, Gap], regime: str) -> str:
    """The share of the large batch's gap that another regime brings back, in percent, where there is a gap."""
    large = found.get("large")
    if large is None or regime in ("small", "large") or math.isnan(large.half_width):
        return "-"
    if not large.is_there:
        return "no gap"
    return f"{100 * (large.mean - found[regime].mean) / large.mean:.0f}"


def what_to_look_at(found: Mapping[str, Gap]) -> str:
    """One sentence on a comparison; an empty one where there is nothing to compare with."""
    large = found.get("large")
    if large is None:
        return ""
    n = len(large.points)
    if n < 2:
        return (
            f"Look at the gap to small: {large.mean:.2f} points for large in one trial, which shows no interval; "
            "--trials 3 or more does."
        )
    size = f"{large.mean:.2f} points, 95 % interval {large.interval}, {n} trials"
    if not large.is_there:
        return (
            f"Look at the gap to small: that of large may be none ({size}); nothing is shown that a remedy could mend."
        )
    others = {name: recovered(found, name) for name in found if name not in ("small", "large")}
    if not others:
        return f"Look at the gap to small: the large batch tests worse ({size})."
    best = max(others, key=lambda name: float(others[name]))
    return (
        f"Look at the gap to small: the large batch tests worse ({size}), and {best} brings back "
        f"{others[best]} % of it."
    )
