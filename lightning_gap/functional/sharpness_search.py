"""One search for the highest loss near the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .corner_ascent import Ascent, corner_ascent, pole_ascent, signs
from .lbfgsb import lbfgsb_ascent, require_scipy
from .loss_surface import LossFunction, LossSurface, Params, entered, euclidean_norm, loss_surface
from .neighbourhood import Neighbourhood, Norm
from .random_subspace import RandomSubspace
from .sharpness_result import Method, Sharpness, Start


@dataclass(frozen=True)
class Search:
    """The arguments of `sharpness` that say how the maximum is sought, checked.

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
    scout: LossFunction | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("method", get_args(Method)), ("norm", get_args(Norm))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name, least in (("max_evaluations", 2), ("max_iterations", 1), ("restarts", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}")
        if self.method == "lbfgsb":
            require_scipy()
        if self.subspace is not None and not isinstance(self.subspace, RandomSubspace):
            raise ValueError(
                f"subspace must be a RandomSubspace, for instance RandomSubspace(100), got {self.subspace!r}"
            )
        if self.scout is not None and (self.method, self.norm) != ("corner", "max"):
            raise ValueError("scout goes with method='corner' and norm='max'; leave it out")
        if self.norm == "l2" and (self.subspace or self.method == "lbfgsb"):
            raise ValueError(
                "norm='l2' goes with method='corner' in the full space; a subspace and L-BFGS-B need a box"
            )
        if self.relative and self.subspace:
            raise ValueError("relative=True goes with the full space: in a subspace it does not undo a rescaling")

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
        """What the search needs of the gradient at the weights."""
        return self._kept(place.project(gradient))

    def _kept(self, slope: Sequence[Tensor]) -> list[Tensor]:
        """A gradient in the coordinates for as long as a search needs it: from corner to corner its signs will do."""
        return [signs(s) for s in slope] if (self.method, self.norm) == ("corner", "max") else list(slope)

    def _at_bound(self, point: Sequence[Tensor]) -> float:
        if self.norm == "l2":
            return float(euclidean_norm(point) > 1 - 1e-6)
        return sum(int((u.abs() == 1).sum()) for u in point) / sum(u.numel() for u in point)

    def _scouted(
        self, surface: LossSurface, place: Neighbourhood, slope: Sequence[Tensor], epsilon: float
    ) -> list[Tensor]:
        """Where to begin: both corners that the gradient names are climbed from on the scout's loss; the higher end.

        At a well-fitted minimum the gradient is that of a few hard samples. It does not tell which of several hills,
        for a classifier one for each class that everything may be taken for, is the highest.
        """

        def evaluate(point: Sequence[Tensor], with_gradient: bool) -> tuple[float, Sequence[Tensor]]:
            place.move(point, epsilon)
            if not with_gradient:
                return surface.loss(self.scout), []
            loss, gradient = surface.loss_and_gradient(self.scout)
            return loss, place.project(gradient)

        ends: list[Ascent] = []
        for sign in (1, -1):
            corner = [sign * s.half() for s in slope]
            loss, gradient = evaluate(corner, True)
            slope_there = self._kept(gradient)
            del gradient
            ends.append(corner_ascent(evaluate, corner, loss if math.isfinite(loss) else -math.inf, slope_there, 2))
        return max(ends, key=lambda end: end.highest).point

    def run(
        self, surface: LossSurface, place: Neighbourhood, start: Start, slope: Sequence[Tensor], epsilon: float
    ) -> Sharpness:
        """Seek the maximum for one epsilon, from the weights."""
        began, evaluations, gradients = time.perf_counter(), 1, 1
        generator = (self.generator or torch.Generator().manual_seed(0)).clone_state()
        non_finite = 0

        def evaluate(point: Sequence[Tensor], with_gradient: bool) -> tuple[float, Sequence[Tensor]]:
            nonlocal evaluations, gradients
            place.move(point, epsilon)
            evaluations += 1
            if not with_gradient:
                return surface.loss(), []
            gradients += 1
            loss, gradient = surface.loss_and_gradient()
            return loss, place.project(gradient)

        def ascend(point: list[Tensor], highest: float, slope: Sequence[Tensor], left: int) -> Ascent:
            if self.method == "lbfgsb":
                return lbfgsb_ascent(evaluate, place.half_widths(epsilon), point, highest, slope, self.max_iterations)
            climb = corner_ascent if self.norm == "max" else pole_ascent
            return climb(evaluate, point, highest, slope, left)

        def ascend_from(point: list[Tensor]) -> Ascent:
            nonlocal non_finite
            loss, gradient = evaluate(point, True)
            slope = self._kept(gradient)
            del gradient
            non_finite += not math.isfinite(loss)
            return ascend(point, loss if math.isfinite(loss) else -math.inf, slope, self.max_evaluations - 2)

        flat = not any(bool(s.any()) for s in slope)  # the sign of zero points nowhere: begin close by, at random
        if flat:
            ascents = [ascend_from([0.1 * u for u in place.random(generator)])]
        elif self.scout is not None and self.max_evaluations > 2:
            ascents = [ascend_from(self._scouted(surface, place, slope, epsilon))]
        else:
            ascents = [ascend(place.blank(), start.loss, slope, self.max_evaluations - 1)]
        ascents += [ascend_from(place.random(generator)) for _ in range(self.restarts)]
        best = max(ascents, key=lambda ascent: ascent.highest)
        if not best.highest > start.loss:
            best = Ascent(start.loss, place.blank(), best.stopped_because)
        highest = best.highest
        if self.report_on is not None:
            place.move(best.point, epsilon)
            reported = surface.loss(self.report_on)
            non_finite += not math.isfinite(reported)
            highest = max(start.reported_loss, reported) if math.isfinite(reported) else start.reported_loss
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
            evaluations=evaluations,
            gradients=gradients,
            stopped_because=best.stopped_because,
            at_bound=self._at_bound(best.point),
            offset_norm=euclidean_norm(place.offsets(best.point, epsilon)),
            weight_norm=start.weight_norm,
            gradient_norm=start.gradient_norm,
            largest_gradient=start.largest_gradient,
            random_start=flat,
            non_finite=non_finite + sum(ascent.non_finite for ascent in ascents),
            samples=getattr(data, "samples", None),
            batch_norm=getattr(data, "batch_norm", None),
            dtype=surface.weights[0].dtype,
            seconds=start.seconds + time.perf_counter() - began,
        )
