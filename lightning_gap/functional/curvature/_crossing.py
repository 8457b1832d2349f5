"""Where a function that falls from zero comes back to zero: a bracket whose two ends were both tried."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

_GROWTH = 10.0  # most from one trial to the next while an end of the bracket is missing
_FIRST = 1.5  # from the first trial to the second
_STRAIGHT, _STRAIGHT_OVER = 0.25, 50.0  # slopes that differ by less, in trials so far apart, are those of a line
_LOOKS_BELOW = 3  # trials for a fall below a lower end where there is none
_INWARD = 0.4  # how far inside the tolerance, on either side of the expected crossing, a trial is made


@dataclass
class Crossing:
    """The search for the x above 0 at which ``rise(x)`` turns positive, ``rise(0)`` being 0.

    It works with the slope ``rise(x) / x``, which for a parabola is a straight line: two trials tell the crossing, and
    two more, just below and just above, prove it. Where that line misleads, the bracket is halved.

    Args:
        rise: The function; not finite counts as positive.
        noise: A rise no larger than this is rounding.
        tolerance: Width of the bracket to end with, relative to its lower end.
        largest: Largest x to try.
        trials: Most evaluations of ``rise``.

    Attributes:
        lower: Largest x that is known not to rise; 0 if none is.
        upper: Smallest x that is known to rise; infinite if none is.
        fell: Whether some trial fell by more than the noise.
    """

    rise: Callable[[float], float]
    noise: float
    tolerance: float
    largest: float
    trials: int
    lower: float = 0.0
    upper: float = math.inf
    fell: bool = False
    _slopes: dict[float, float] = field(default_factory=dict)  # of the trials that are above the noise
    _slow: int = 0  # trials in a row that did not halve the bracket
    _looked_below: int = 0  # trials below the lower end, whose rise is within the noise

    def find(self, first: float) -> str:
        """Search from the trial ``first`` on; the reason why there is no crossing, or an empty one."""
        x = min(first, self.largest)
        for _ in range(self.trials):
            if not self._try(x) or self._rises_from_the_start():
                return "no descent"
            if self.lower >= self.largest:
                return "no rise"
            if self.fell and self.upper <= self.lower * (1 + self.tolerance):
                return ""
            if self._looked_below == _LOOKS_BELOW and not self.fell:
                return "no descent"
            x = self._next()
        if not self.lower or not self.fell:
            return "no descent"
        return "" if math.isfinite(self.upper) else "no rise"

    @property
    def crossing(self) -> float:
        """Between the two ends, by inverse interpolation of their slopes and that of the trial next to them."""
        low, high = self._slopes.get(self.lower, 0.0), self._slopes[self.upper]
        if not math.isfinite(high):
            return math.sqrt(self.lower * self.upper)

        def line(slope: float) -> float:
            return self.lower + (slope - low) * (self.upper - self.lower) / (high - low)

        straight = line(0.0)
        others = {x: slope for x, slope in self._slopes.items() if slope not in (low, high, math.inf)}
        if not others:
            return straight
        third: float = min(others, key=lambda x: abs(math.log(x / straight)))
        slope = others[third]
        bent = straight + low * high * (third - line(slope)) / ((slope - low) * (slope - high))
        return bent if self.lower <= bent <= self.upper else straight

    def _try(self, x: float) -> bool:
        """Whether the trial tells something: below the smallest x that rises, a rise within the noise does not."""
        rise, before = self.rise(x), self._width()
        if not math.isfinite(rise):
            rise = math.inf
        if abs(rise) > self.noise:
            self._slopes[x] = rise / x
        elif not self.lower and math.isfinite(self.upper):
            return False
        self.fell = self.fell or rise < -self.noise
        if rise > self.noise:
            self.upper = x
        else:
            self.lower = max(x, self.lower)
        self._slow = self._slow + 1 if self._width() > before / 2 else 0
        return True

    def _rises_from_the_start(self) -> bool:
        """Whether the smallest trials rise as a straight line does, over a range in which no parabola would."""
        nearest = sorted(self._slopes.items())[:3]
        if self.lower or len(nearest) < 3:
            return False
        (near, slope), _, (far, other) = nearest
        return far >= _STRAIGHT_OVER * near and abs(other - slope) <= _STRAIGHT * slope

    def _width(self) -> float:
        return math.log(self.upper / self.lower) if self.lower else math.inf

    def _next(self) -> float:
        if not math.isfinite(self.upper):
            expected = self._beyond() or (_FIRST if self.fell else _GROWTH) * self.lower
            return min(max(expected * (1 + _INWARD * self.tolerance), self.lower), _GROWTH * self.lower, self.largest)
        if not self.lower:
            expected = self._beyond() or self.upper / _FIRST
            return max(expected * (1 - _INWARD * self.tolerance), self.upper / _GROWTH)
        if not self.fell:
            self._looked_below += 1
            return self.lower / 2.0**self._looked_below
        if self._slow > 1:
            self._slow = 0
            return math.sqrt(self.lower * self.upper)
        expected = self.crossing
        if self.upper / expected >= expected / self.lower:
            return expected * (1 + _INWARD * self.tolerance)
        return expected * (1 - _INWARD * self.tolerance)

    def _beyond(self) -> float | None:
        """The crossing by the line through the two trials nearest to it, all of which lie on one side of it."""
        rises = math.isfinite(self.upper)
        points = sorted((x, slope) for x, slope in self._slopes.items() if math.isfinite(slope))
        points = points[:2] if rises else points[-2:]
        if len(points) < 2:
            return None
        (near, low), (far, high) = points
        expected = near - low * (far - near) / (high - low) if high > low else math.nan
        if rises:
            return expected if 0 < expected < self.upper else self.upper / _GROWTH
        return expected if expected > self.lower else _GROWTH * self.lower
