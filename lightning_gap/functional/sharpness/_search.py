"""One search for the highest loss near the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .._loss_surface import LossFunction, LossSurface, Params, entered, euclidean_norm, loss_surface
from .._validation import flag, function, instance, one_of, seeded, set_plain, whole_number
from ._climb import Climb, Tally
from ._gradient_ascent import Ascent, signs
from ._lbfgsb import require_scipy
from ._neighbourhood import Neighbourhood, Norm
from .random_subspace import RandomSubspace
from .result import Method, Searched, Sharpness, Start

_SEARCHES: dict[Method, tuple[Searched, ...]] = {
    "corner": ("corner",),
    "lbfgsb": ("lbfgsb",),
    "apgd": ("apgd",),
    "best": ("corner", "lbfgsb", "lbfgsb after corner"),  # of equal ones the first, the cheapest
}


class _Found(NamedTuple):
    """The highest point that one search found, and the loss to report there."""

    ascent: Ascent
    reported: float


@dataclass(frozen=True)
class Search:
    """The arguments of `sharpness` that configure the search, checked.

    Raises:
        ValueError: If one is out of range, or two do not go together.
    """

    method: Method = "corner"
    max_evaluations: int = 7
    max_iterations: int = 10
    subspace: RandomSubspace | None = None
    relative: bool = False
    norm: Norm = "max"
    restarts: int = 0
    generator: torch.Generator | None = None
    report_on: LossFunction | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("method", get_args(Method)), ("norm", get_args(Norm))):
            one_of(name, getattr(self, name), allowed)
        for name, least in (("max_evaluations", 2), ("max_iterations", 1), ("restarts", 0)):
            set_plain(self, **{name: whole_number(name, getattr(self, name), least)})
        set_plain(self, relative=flag("relative", self.relative), generator=seeded("generator", self.generator))
        if self.report_on is not None:
            function("report_on", self.report_on, "no arguments")
        if self.method in ("lbfgsb", "best"):
            require_scipy(f"method={self.method!r}")
        if self.subspace is not None:
            instance("subspace", self.subspace, RandomSubspace, hint="for instance RandomSubspace(100)")
        if self.norm == "l2" and (self.subspace or self.method in ("lbfgsb", "best")):
            raise ValueError(
                "norm='l2' goes with method='corner' or 'apgd' in the full space; a subspace and L-BFGS-B need a box"
            )
        if self.relative and self.subspace:
            raise ValueError(
                "relative=True goes with the full space: in a subspace it does not undo a rescaling; leave out one"
            )

    def profile(
        self, loss_fn: LossFunction, params: Params, epsilons: Sequence[float], group: ProcessGroup | None = None
    ) -> tuple[Sharpness, ...]:
        """One result for each epsilon; they share the loss and the gradient at the weights."""
        with loss_surface(loss_fn, params, process_group=group) as surface, entered(self.report_on):
            start, gradient = Start.at_centre(surface, self.report_on)
            place = Neighbourhood(surface, subspace=self.subspace, norm=self.norm, relative=self.relative)
            slope = self.slope(place, gradient)
            del gradient  # the signs are enough from here on, and a quarter of its weight
            return tuple(self.run(surface, place, start, slope, epsilon) for epsilon in epsilons)

    def slope(self, place: Neighbourhood, gradient: Sequence[Tensor]) -> list[Tensor]:
        """What the search needs of the gradient at the weights: from corner to corner its signs will do."""
        projected = place.project(gradient)
        return [signs(s) for s in projected] if (self.method, self.norm) == ("corner", "max") else projected

    def run(
        self, surface: LossSurface, place: Neighbourhood, start: Start, slope: Sequence[Tensor], epsilon: float
    ) -> Sharpness:
        """Search for the maximum for one epsilon, starting at the weights."""
        began = time.perf_counter()
        flat = not any(bool(s.any()) for s in slope)  # the sign of zero points nowhere: begin close by, at random
        tally = Tally()
        found: dict[Searched, _Found] = {}
        for searched in _SEARCHES[self.method]:
            climb = self._climb(searched, surface, place, epsilon, tally)
            if searched == "lbfgsb after corner":
                ascents = [climb.ascend_from(found["corner"].ascent.point)]
            else:
                ascents = list(self._ascents(climb, start, None if flat else slope))
            found[searched] = self._highest(ascents, climb, start)
            if tally.infinite is not None:  # nothing is higher
                break
        searched = max(found, key=lambda searched: found[searched].reported)
        best, highest = found[searched].ascent, found[searched].reported
        if highest < math.inf and (tally.undefined or tally.infinite is not None):
            highest = math.nan  # the search could not look there, or ended there: what is left is not the maximum
        data = self.report_on or surface.loss_fn
        return Sharpness(
            percent=100 * (highest - start.reported_loss) / (1 + start.reported_loss),
            loss=start.reported_loss,
            highest_loss=highest,
            epsilon=epsilon,
            norm=self.norm,
            relative=self.relative,
            subspace=self.subspace,
            method=self.method,
            found_by=searched,
            evaluations=tally.evaluations,
            gradients=tally.gradients,
            stopped_because=best.stopped_because,
            at_bound=self._at_bound(best.point),
            offset_norm=euclidean_norm(place.offsets(best.point, epsilon)),
            weight_norm=start.weight_norm,
            gradient_norm=start.gradient_norm,
            largest_gradient=start.largest_gradient,
            random_start=flat,
            non_finite=tally.non_finite,
            samples=getattr(data, "samples", None),
            batch_norm=getattr(data, "batch_norm", None),
            dtype=surface.weights[0].dtype,
            seconds=start.seconds + time.perf_counter() - began,
        )

    def _climb(
        self, searched: Searched, surface: LossSurface, place: Neighbourhood, epsilon: float, tally: Tally
    ) -> Climb:
        return Climb(
            surface,
            place,
            epsilon,
            tally,
            by="lbfgsb" if searched == "lbfgsb after corner" else searched,
            ball=self.norm == "l2",
            max_evaluations=self.max_evaluations,
            max_iterations=self.max_iterations,
            may_not_start=self.method == "best",
        )

    def _ascents(self, climb: Climb, start: Start, slope: Sequence[Tensor] | None) -> Iterator[Ascent]:
        """From the weights, or from a random point close by without a slope there; then from random points."""
        assert self.generator is not None
        generator = self.generator.clone_state()
        if slope is None:
            yield climb.ascend_from([0.1 * u for u in climb.place.random(generator)])
        else:
            yield climb.ascend_from_centre(start.loss, slope)
        for _ in range(self.restarts):
            yield climb.ascend_from(climb.place.random(generator))

    def _highest(self, ascents: Sequence[Ascent], climb: Climb, start: Start) -> _Found:
        """The highest of these, no lower than the weights, with the loss to report there."""
        best = max(ascents, key=lambda ascent: ascent.highest)
        if climb.tally.infinite is not None:  # nothing is higher, whatever was found beside it
            best = Ascent(math.inf, climb.tally.infinite, "loss not finite")
        elif not best.highest > start.loss:
            best = Ascent(start.loss, climb.place.blank(), best.stopped_because)
        if self.report_on is None:
            return _Found(best, best.highest)
        return _Found(best, climb.reported(best.point, start.reported_loss, self.report_on))

    def _at_bound(self, point: Sequence[Tensor]) -> float:
        if self.norm == "l2":
            return float(euclidean_norm(point) > 1 - 1e-6)
        return sum(int((u.abs() == 1).sum()) for u in point) / sum(u.numel() for u in point)
