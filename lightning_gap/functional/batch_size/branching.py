"""The critical batch size by branching: how much the batch can grow before the loss is worse."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .._validation import real_number, refusal, whole_number


def largest_harmless_factor(losses: Mapping[int, float], *, tolerance: float = 0.01) -> int:
    """The largest factor on the batch size whose loss is within a tolerance of those of all smaller factors.

    From one state of a run, branches train on equally many samples with batches larger by each factor, their learning
    rates scaled to match. The batch times this factor is the critical batch size there: a larger one saves steps, and
    costs loss.

    Args:
        losses: By factor, 1 among them. A branch that diverged has NaN or infinity.
        tolerance: In the units of the loss; the paper's 0.01 nats a token.

    Returns:
        The factor.

    Raises:
        ValueError: If factor 1 is missing or its loss is not finite, a factor is no whole number of at least 1, or the
            tolerance is negative.

    Reference:
        Merrill et al. (2025), arXiv 2505.23971: ``k* = max k with L(k) <= L(j) + tolerance for all j < k``.

    Example:
        >>> largest_harmless_factor({1: 2.00, 2: 1.99, 4: 1.995, 8: 2.01, 16: 2.05})
        4
    """
    if not isinstance(losses, Mapping):
        raise ValueError(refusal("losses", "must be losses by factor", losses, "for instance {1: 2.0, 2: 2.01}"))
    tolerance = real_number("tolerance", tolerance, at_least=0)
    found = {whole_number("a factor of losses", k): real_number("a loss", v, finite=False) for k, v in losses.items()}
    if not math.isfinite(found.get(1, math.nan)):
        raise ValueError(refusal("losses", "must have a finite loss of factor 1, the batch as it is", dict(losses)))
    harmless, best = 1, math.inf
    for factor in sorted(found):
        if found[factor] <= best + tolerance:  # never of NaN
            harmless = factor
            best = min(best, found[factor])
    return harmless
