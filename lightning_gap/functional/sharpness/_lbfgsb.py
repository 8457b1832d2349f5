"""The paper's maximiser, SciPy's L-BFGS-B, without the defaults that make a sharp minimum look flat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UndefinedSharpnessError
from ._gradient_ascent import Ascent, Evaluate

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray


def lbfgsb_ascent(
    evaluate: Evaluate,
    half_widths: Sequence[Tensor],
    point: Sequence[Tensor],
    highest: float,
    gradient: Sequence[Tensor],
    iterations: int,
) -> Ascent:
    """Climb in the box ``|y_i| <= half_widths_i`` by ``iterations`` iterations of L-BFGS-B; the best point it saw.

    Both tolerances are 0: with SciPy's own, a gradient with no entry above 1e-5 ends the search at its start. A loss
    that is not finite ends it too, before SciPy sees the value; an infinite one is the highest.

    Args:
        evaluate: The loss and its gradient in y at ``u = y / half_widths``.
        half_widths: One tensor for each tensor of a point.
        point: Where to start, as ``u``.
        highest: Loss there.
        gradient: Its gradient in y there.
        iterations: The paper: 10. SciPy evaluates the loss once or more in each.

    Raises:
        ImportError: If SciPy is not installed.
        DidNotStartError: If L-BFGS-B did not leave its start though the corner that the gradient names is
            higher; its value would say "flat" and mean nothing.
    """
    require_scipy()
    from scipy.optimize import Bounds, minimize

    if not math.isfinite(highest):
        return Ascent(highest, list(point), "loss not finite")
    widths = _flat(half_widths)
    sizes = [width.numel() for width in half_widths]
    at_start = [(-highest, -_flat(gradient))]  # SciPy asks for it first, and it is known
    start, best, non_finite = highest, list(point), 0

    def negative(y: NDArray[float64]) -> tuple[float, NDArray[float64]]:
        nonlocal best, highest, non_finite
        if at_start:
            return at_start.pop()
        flat = (torch.from_numpy(y) / torch.from_numpy(widths)).nan_to_num_(nan=0.0)  # no width somewhere: 0 / 0
        flat.clamp_(-1, 1)
        trial = [u.view_as(w).to(w) for u, w in zip(flat.split_with_sizes(sizes), half_widths, strict=True)]
        value, slope = evaluate(trial, True)
        if value > highest:
            best, highest = trial, value
        downhill = -_flat(slope)
        if not math.isfinite(value + downhill.sum()):
            non_finite += 1
            raise _NotFinite
        return -value, downhill

    try:
        found = minimize(
            negative,
            _flat(point) * widths,
            jac=True,
            method="L-BFGS-B",
            bounds=Bounds(-widths, widths),
            options={"maxiter": iterations, "maxfun": 100 * iterations, "ftol": 0.0, "gtol": 0.0},
        )
    except _NotFinite:
        return Ascent(highest, best, "loss not finite", non_finite)
    if highest == start:  # flat to the last digit, or a first step so short that it saw nothing of the box
        place = [(u + 2 * g.sign()).clamp_(-1, 1) for u, g in zip(point, gradient, strict=True)]
        corner, _ = evaluate(place, False)
        if corner == math.inf:
            return Ascent(corner, place, "loss not finite", 1)
        if corner > start:
            raise DidNotStartError(f"L-BFGS-B did not leave its start ({found.message}); use method='corner'")
    return Ascent(highest, best, "iterations used up" if found.nit >= iterations else "converged")


class DidNotStartError(UndefinedSharpnessError):
    """L-BFGS-B stopped where it began, though there is a higher point."""


def require_scipy(argument: str = "method='lbfgsb'", otherwise: str = "use method='corner'") -> None:
    """Raise the one error that says what to do if SciPy is not installed."""
    try:
        import scipy.optimize  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{argument} needs SciPy; install scipy, or {otherwise}") from error


class _NotFinite(Exception):
    """Ends SciPy's search from inside the objective."""


def _flat(tensors: Sequence[Tensor]) -> NDArray[float64]:
    flat: NDArray[float64] = torch.cat([t.detach().flatten().double().cpu() for t in tensors]).numpy()
    return flat
