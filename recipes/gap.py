"""How far each regime tests below the small batch, how sure that is, and how much of it a remedy brings back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .intervals import Interval, mean_interval, ratio_interval


@dataclass(frozen=True)
class Gap:
    """Test accuracy of ``small`` minus that of a regime, in points, seed by seed.

    Attributes:
        by_seed: A difference for each seed that both have, positive where ``small`` is better.
    """

    by_seed: Mapping[int, float]

    @property
    def points(self) -> tuple[float, ...]:
        """The differences alone."""
        return tuple(self.by_seed.values())

    @property
    def found(self) -> Interval:
        """Mean over the seeds, and its 95 % interval by Student's t."""
        return mean_interval(self.points)

    @property
    def is_there(self) -> bool:
        """Whether the interval lies above zero."""
        return self.found.sign > 0

    @property
    def interval(self) -> str:
        """Its ends in words; a dash of one seed."""
        _, low, high = self.found
        return "-" if math.isnan(low) else f"{low:.2f} to {high:.2f}"

    def of(self, seeds: Iterable[int]) -> Gap:
        """The same of fewer seeds."""
        return Gap({seed: self.by_seed[seed] for seed in seeds})


def gaps(test_accuracy: Mapping[str, Mapping[int, float]]) -> dict[str, Gap]:
    """The gap of each regime to ``small`` over the seeds that both have; of none where ``small`` was not trained.

    Args:
        test_accuracy: Fractions by regime and seed.

    Example:
        >>> found = gaps({"small": {0: 0.98, 1: 0.97}, "large": {0: 0.96, 1: 0.96}})
        >>> [round(points, 6) for points in found["large"].points], found["large"].is_there
        ([2.0, 1.0], False)
    """
    small = test_accuracy.get("small", {})
    pairs = {
        name: {seed: 100 * (small[seed] - accuracy) for seed, accuracy in found.items() if seed in small}
        for name, found in test_accuracy.items()
    }
    return {name: Gap(points) for name, points in pairs.items() if points}


def share_recovered(found: Mapping[str, Gap], regime: str) -> Interval | None:
    """The share of the large batch's gap that another regime brings back, in percent, over the seeds that both have.

    Returns:
        The share with its 95 % interval by Fieller's theorem, seed by seed paired; None where there is no gap to share,
        or one seed, which does not tell.
    """
    large, other = found.get("large"), found.get(regime)
    if large is None or other is None or regime in ("small", "large"):
        return None
    seeds = [seed for seed in large.by_seed if seed in other.by_seed]
    denominators = large.of(seeds)
    if not denominators.is_there:
        return None
    back = [100 * (large.by_seed[seed] - other.by_seed[seed]) for seed in seeds]
    return ratio_interval(back, denominators.points)


def recovered(found: Mapping[str, Gap], regime: str) -> str:
    """`share_recovered` as a table has it: ``no gap`` where there is none, a dash where that cannot be told."""
    share = share_recovered(found, regime)
    if share is not None:
        return f"{share.mean:.0f}"
    large, other = found.get("large"), found.get(regime)
    if large is None or other is None or regime in ("small", "large"):
        return "-"
    shared = large.of(seed for seed in large.by_seed if seed in other.by_seed)
    return "-" if math.isnan(shared.found.low) else "no gap"


def what_to_look_at(found: Mapping[str, Gap]) -> str:
    """One sentence on a comparison; an empty one where there is nothing to compare with."""
    large = found.get("large")
    if large is None:
        return ""
    n = len(large.points)
    if n < 2:
        return (
            f"Look at the gap to small: {large.found.mean:.2f} points for large in one trial, which shows no interval; "
            "--trials 3 or more does."
        )
    size = f"{large.found.mean:.2f} points, 95 % interval {large.interval}, {n} trials"
    if not large.is_there:
        return (
            f"Look at the gap to small: that of large may be none ({size}); nothing is shown that a remedy could mend."
        )
    others = {name: share.mean for name in found if (share := share_recovered(found, name)) is not None}
    if not others:
        return f"Look at the gap to small: the large batch tests worse ({size})."
    best = max(others, key=lambda name: others[name])
    some = (
        f"{best} brings back {others[best]:.0f} % of it"
        if others[best] > 0
        else "no other regime brings any of it back"
    )
    return f"Look at the gap to small: the large batch tests worse ({size}), and {some}."
