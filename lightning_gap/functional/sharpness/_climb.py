"""The ascents of one search in one neighbourhood, and what they cost together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from .._loss_surface import LossFunction, LossSurface
from ._auto_pgd import auto_pgd_ascent
from ._gradient_ascent import Ascent, incremental_ascent, normalized_gradient_ascent, sign_gradient_ascent, signs
from ._lbfgsb import DidNotStartError, lbfgsb_ascent
from ._neighbourhood import Neighbourhood


@dataclass
class Tally:
    """What the ascents for one epsilon cost together; the evaluation at the weights is counted.

    Attributes:
        evaluations: Of the loss.
        gradients: Those of them with gradient.
        non_finite: Those of them whose loss or gradient was not finite, and those of the loss to report.
        infinite: The first point at which the loss was infinite; None if there was none.
        undefined: Whether a loss was NaN or minus infinity, or a gradient was not finite.
    """

    evaluations: int = 1
    gradients: int = 1
    non_finite: int = 0
    infinite: list[Tensor] | None = None
    undefined: bool = False

    def note(self, point: Sequence[Tensor], loss: float, gradient: Sequence[Tensor], *, reported: bool) -> None:
        """Remember what was not finite."""
        if loss == math.inf:
            if self.infinite is None and not reported:
                self.infinite = [u.clone() for u in point]
        elif not (math.isfinite(loss) and all(map(_is_finite, gradient))):
            self.undefined = True
        else:
            return
        self.non_finite += 1


@dataclass
class Climb:
    """The ascents from several points.

    Args:
        surface: The loss around the weights.
        place: The neighbourhood.
        epsilon: Its size.
        tally: Where evaluations are counted.
        by: How to climb.
        ball: Whether the neighbourhood is a ball.
        max_evaluations: Most evaluations of one ascent, the one at the weights included; L-BFGS-B does not ask.
        max_iterations: Iterations of L-BFGS-B.
        may_not_start: Whether an L-BFGS-B that did not leave its start is no error: another search stands beside it.
    """

    surface: LossSurface
    place: Neighbourhood
    epsilon: float
    tally: Tally
    by: Literal["corner", "lbfgsb", "apgd"]
    ball: bool
    max_evaluations: int
    max_iterations: int
    may_not_start: bool = False

    def __post_init__(self) -> None:
        self._of_halves = 0  # evaluations

    @property
    def from_corner_to_corner(self) -> bool:
        """Whether the signs of a gradient are all that the ascent needs."""
        return self.by == "corner" and not self.ball

    def evaluate(self, point: Sequence[Tensor], with_gradient: bool) -> tuple[float, Sequence[Tensor]]:
        """Loss, and its gradient if asked for, at this point."""
        self.tally.evaluations += 1
        self.tally.gradients += with_gradient
        return self._evaluate(point, with_gradient)

    def ascend(self, point: list[Tensor], highest: float, slope: Sequence[Tensor], evaluations: int) -> Ascent:
        """Climb from a point whose loss and gradient are known."""
        if self.by == "apgd":
            return auto_pgd_ascent(self.evaluate, point, highest, slope, evaluations, ball=self.ball)
        if self.by == "lbfgsb":
            half_widths = self.place.half_widths(self.epsilon)
            try:
                return lbfgsb_ascent(self.evaluate, half_widths, point, highest, slope, self.max_iterations)
            except DidNotStartError:
                if not self.may_not_start:
                    raise
                return Ascent(highest, point, "converged")
        climb = normalized_gradient_ascent if self.ball else sign_gradient_ascent
        return climb(self.evaluate, point, highest, slope, evaluations)

    def ascend_from(self, point: list[Tensor]) -> Ascent:
        """Climb from a point of which nothing is known."""
        loss, slope = self._find_out(point)
        if self.tally.infinite is not None:
            return Ascent(math.inf, self.tally.infinite, "loss not finite")
        return self.ascend(point, loss, slope, self.max_evaluations - 2)

    def ascend_from_centre(self, loss: float, slope: Sequence[Tensor]) -> Ascent:
        """Climb from the weights; if the loss has halves, from the point that they lead to, where that is higher."""
        left = self.max_evaluations - 1
        halves = self._halves() if left > 2 else []
        if halves:
            evaluate = [partial(self._evaluate_half, half) for half in halves]
            point = incremental_ascent(evaluate, slope, passes=min(3, left // 2))
            used = math.ceil(self._of_halves / 2)
            self.tally.evaluations += used
            self.tally.gradients += used
            left -= used
            if point is not None:
                highest, slope_there = self._find_out(point)
                left -= 1
                if highest > loss and self.tally.infinite is None:
                    return self.ascend(point, highest, slope_there, left)
            if self.tally.infinite is not None:
                return Ascent(math.inf, self.tally.infinite, "loss not finite")
        return self.ascend(self.place.blank(), loss, [s.clone() for s in slope], left)

    def kept(self, slope: Sequence[Tensor]) -> list[Tensor]:
        """A gradient in the coordinates for as long as a search needs it: from corner to corner its signs will do."""
        return [signs(s) for s in slope] if self.from_corner_to_corner else list(slope)

    def reported(self, point: Sequence[Tensor], least: float, report_on: LossFunction) -> float:
        """The loss to report at this point; that at the weights, if it is lower."""
        loss, _ = self._evaluate(point, False, report_on, reported=True)
        return max(least, loss)  # for NaN, `undefined` tells

    def _find_out(self, point: Sequence[Tensor]) -> tuple[float, Sequence[Tensor]]:
        """Loss at a point, as low as can be if it is not finite, and what the search keeps of the gradient there."""
        loss, gradient = self.evaluate(point, True)
        return loss if math.isfinite(loss) else -math.inf, self.kept(gradient)

    def _halves(self) -> list[LossFunction]:
        if not self.from_corner_to_corner:
            return []
        halves: list[LossFunction] = []

        def ask() -> tuple[float, list[Tensor]]:
            halves.extend(getattr(self.surface.loss_fn, "halves", tuple)())
            return float(not halves), []

        lacking, _ = self.surface.summed(ask)  # processes with losses of different kinds stay together
        return [] if lacking else halves

    def _evaluate_half(
        self, half: LossFunction, point: Sequence[Tensor], with_gradient: bool
    ) -> tuple[float, Sequence[Tensor]]:
        self._of_halves += 1
        return self._evaluate(point, with_gradient, half)

    def _evaluate(
        self,
        point: Sequence[Tensor],
        with_gradient: bool,
        loss_fn: LossFunction | None = None,
        *,
        reported: bool = False,
    ) -> tuple[float, Sequence[Tensor]]:
        self.place.move(point, self.epsilon)
        if with_gradient:
            loss, gradient = self.surface.loss_and_gradient(loss_fn)
        else:
            loss, gradient = self.surface.loss(loss_fn), []
        self.tally.note(point, loss, gradient, reported=reported)
        return loss, self.place.project(gradient) if with_gradient else []


def _is_finite(gradient: Tensor) -> bool:
    return not gradient.numel() or math.isfinite(float(torch.linalg.vector_norm(gradient, ord=math.inf)))
