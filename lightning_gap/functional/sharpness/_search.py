"""One search for the highest loss near the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .._loss_surface import LossFunction, LossSurface, Params, entered, euclidean_norm, loss_surface
from .._validation import flag, function, instance, one_of, seeded, set_plain, whole_number
from ._gradient_ascent import Ascent, incremental_ascent, normalized_gradient_ascent, sign_gradient_ascent, signs
from ._lbfgsb import lbfgsb_ascent, require_scipy
from ._neighbourhood import Neighbourhood, Norm
from .random_subspace import RandomSubspace
from .result import Method, Sharpness, Start


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
        if self.method == "lbfgsb":
            require_scipy()
        if self.subspace is not None:
            instance("subspace", self.subspace, RandomSubspace, hint="for instance RandomSubspace(100)")
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
        return self.kept(place.project(gradient))

    def kept(self, slope: Sequence[Tensor]) -> list[Tensor]:
        """A gradient in the coordinates for as long as a search needs it: from corner to corner its signs will do."""
        return [signs(s) for s in slope] if (self.method, self.norm) == ("corner", "max") else list(slope)

    def run(
        self, surface: LossSurface, place: Neighbourhood, start: Start, slope: Sequence[Tensor], epsilon: float
    ) -> Sharpness:
        """Search for the maximum for one epsilon, starting at the weights."""
        began = time.perf_counter()
        climb = _Climb(self, surface, place, epsilon)
        assert self.generator is not None
        generator = self.generator.clone_state()
        flat = not any(bool(s.any()) for s in slope)  # the sign of zero points nowhere: begin close by, at random
        if flat:
            ascents = [climb.ascend_from([0.1 * u for u in place.random(generator)])]
        else:
            ascents = [climb.ascend_from_centre(start.loss, slope)]
        for _ in range(self.restarts):
            ascents.append(climb.ascend_from(place.random(generator)))
        best = max(ascents, key=lambda ascent: ascent.highest)
        if climb.infinite is not None:  # nothing is higher, whatever was found beside it
            best = Ascent(math.inf, climb.infinite, "loss not finite")
        elif not best.highest > start.loss:
            best = Ascent(start.loss, place.blank(), best.stopped_because)
        highest = best.highest if self.report_on is None else climb.reported(best.point, start, self.report_on)
        if highest < math.inf and (climb.undefined or climb.infinite is not None):
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
            evaluations=climb.evaluations,
            gradients=climb.gradients,
            stopped_because=best.stopped_because,
            at_bound=self._at_bound(best.point),
            offset_norm=euclidean_norm(place.offsets(best.point, epsilon)),
            weight_norm=start.weight_norm,
            gradient_norm=start.gradient_norm,
            largest_gradient=start.largest_gradient,
            random_start=flat,
            non_finite=climb.non_finite,
            samples=getattr(data, "samples", None),
            batch_norm=getattr(data, "batch_norm", None),
            dtype=surface.weights[0].dtype,
            seconds=start.seconds + time.perf_counter() - began,
        )

    def _at_bound(self, point: Sequence[Tensor]) -> float:
        if self.norm == "l2":
            return float(euclidean_norm(point) > 1 - 1e-6)
        return sum(int((u.abs() == 1).sum()) for u in point) / sum(u.numel() for u in point)


class _Climb:
    """The ascents for one epsilon, and what they cost together; the evaluation at the weights is counted.

    Attributes:
        evaluations: Of the loss.
        gradients: Those of them with gradient.
        non_finite: Those of them whose loss or gradient was not finite, and those of the loss to report.
        infinite: The first point at which the loss was infinite; None if there was none.
        undefined: Whether a loss was NaN or minus infinity, or a gradient was not finite.
    """

    def __init__(self, search: Search, surface: LossSurface, place: Neighbourhood, epsilon: float) -> None:
        self.evaluations = self.gradients = 1
        self.non_finite = 0
        self.infinite: list[Tensor] | None = None
        self.undefined = False
        self._of_halves = 0  # evaluations
        self._search = search
        self._surface = surface
        self._place = place
        self._epsilon = epsilon

    def evaluate(self, point: Sequence[Tensor], with_gradient: bool) -> tuple[float, Sequence[Tensor]]:
        """Loss, and its gradient if asked for, at this point."""
        self.evaluations += 1
        self.gradients += with_gradient
        return self._evaluate(point, with_gradient)

    def ascend(self, point: list[Tensor], highest: float, slope: Sequence[Tensor], evaluations: int) -> Ascent:
        """Climb from a point whose loss and gradient are known."""
        search = self._search
        if search.method == "lbfgsb":
            half_widths = self._place.half_widths(self._epsilon)
            return lbfgsb_ascent(self.evaluate, half_widths, point, highest, slope, search.max_iterations)
        climb = sign_gradient_ascent if search.norm == "max" else normalized_gradient_ascent
        return climb(self.evaluate, point, highest, slope, evaluations)

    def ascend_from(self, point: list[Tensor]) -> Ascent:
        """Climb from a point of which nothing is known."""
        loss, slope = self._find_out(point)
        if self.infinite is not None:
            return Ascent(math.inf, self.infinite, "loss not finite")
        return self.ascend(point, loss, slope, self._search.max_evaluations - 2)

    def ascend_from_centre(self, loss: float, slope: Sequence[Tensor]) -> Ascent:
        """Climb from the weights; if the loss has halves, from the point that they lead to, where that is higher."""
        left = self._search.max_evaluations - 1
        halves = self._halves() if left > 2 else []
        if halves:
            evaluate = [partial(self._evaluate_half, half) for half in halves]
            point = incremental_ascent(evaluate, slope, passes=min(3, left // 2))
            used = math.ceil(self._of_halves / 2)
            self.evaluations += used
            self.gradients += used
            left -= used
            if point is not None:
                highest, slope_there = self._find_out(point)
                left -= 1
                if highest > loss and self.infinite is None:
                    return self.ascend(point, highest, slope_there, left)
            if self.infinite is not None:
                return Ascent(math.inf, self.infinite, "loss not finite")
        return self.ascend(self._place.blank(), loss, [s.clone() for s in slope], left)

    def _find_out(self, point: Sequence[Tensor]) -> tuple[float, Sequence[Tensor]]:
        """Loss at a point, as low as can be if it is not finite, and what the search keeps of the gradient there."""
        loss, gradient = self.evaluate(point, True)
        return loss if math.isfinite(loss) else -math.inf, self._search.kept(gradient)

    def _halves(self) -> list[LossFunction]:
        if (self._search.method, self._search.norm) != ("corner", "max"):
            return []
        halves: list[LossFunction] = []

        def ask() -> tuple[float, list[Tensor]]:
            halves.extend(getattr(self._surface.loss_fn, "halves", tuple)())
            return float(not halves), []

        lacking, _ = self._surface.summed(ask)  # processes with losses of different kinds stay together
        return [] if lacking else halves

    def _evaluate_half(
        self, half: LossFunction, point: Sequence[Tensor], with_gradient: bool
    ) -> tuple[float, Sequence[Tensor]]:
        self._of_halves += 1
        return self._evaluate(point, with_gradient, half)

    def reported(self, point: Sequence[Tensor], start: Start, report_on: LossFunction) -> float:
        """The loss to report at this point; that at the weights, if it is lower."""
        loss, _ = self._evaluate(point, False, report_on)
        return max(start.reported_loss, loss)  # for NaN, `undefined` tells

    def _evaluate(
        self, point: Sequence[Tensor], with_gradient: bool, loss_fn: LossFunction | None = None
    ) -> tuple[float, Sequence[Tensor]]:
        self._place.move(point, self._epsilon)
        if with_gradient:
            loss, gradient = self._surface.loss_and_gradient(loss_fn)
        else:
            loss, gradient = self._surface.loss(loss_fn), []
        self._note(point, loss, gradient, reported=loss_fn is self._search.report_on and loss_fn is not None)
        return loss, self._place.project(gradient) if with_gradient else []

    def _note(self, point: Sequence[Tensor], loss: float, gradient: Sequence[Tensor], *, reported: bool) -> None:
        """Remember what was not finite."""
        if loss == math.inf:
            if self.infinite is None and not reported:
                self.infinite = [u.clone() for u in point]
        elif not (math.isfinite(loss) and all(map(_is_finite, gradient))):
            self.undefined = True
        else:
            return
        self.non_finite += 1


def _is_finite(gradient: Tensor) -> bool:
    return not gradient.numel() or math.isfinite(float(torch.linalg.vector_norm(gradient, ord=math.inf)))
