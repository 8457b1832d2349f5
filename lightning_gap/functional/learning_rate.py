"""How the learning rate follows the batch size, and how a run warms up to it."""

from __future__ import annotations

import math
from typing import Literal, get_args

Rule = Literal["linear", "sqrt"]


def learning_rate_scale(batch_size: int, base_batch_size: int, *, rule: Rule = "linear") -> float:
    """Factor on the learning rate when the batch grows from ``base_batch_size`` to ``batch_size``.

    ``linear`` is ``k = batch_size / base_batch_size`` (Goyal et al., 2017), ``sqrt`` is ``sqrt(k)``, which keeps the
    covariance of the update (Hoffer et al., 2017).

    Args:
        batch_size: Samples per optimizer step.
        base_batch_size: Samples per step for which the unscaled rate was chosen.
        rule: ``"linear"`` or ``"sqrt"``.

    Returns:
        The factor, dimensionless; 1 where the two sizes agree.

    Raises:
        ValueError: If a size is not a positive whole number or the rule is unknown.

    Reference:
        Goyal et al. (2017), section 2.1; Hoffer, Hubara and Soudry (2017), section 3.

    Example:
        >>> learning_rate_scale(8192, 256)
        32.0
        >>> learning_rate_scale(4096, 256, rule="sqrt")
        4.0
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {', '.join(map(repr, get_args(Rule)))}, got {rule!r}")
    for name, size in (("batch_size", batch_size), ("base_batch_size", base_batch_size)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number of samples, at least 1, got {size!r}")
    ratio = batch_size / base_batch_size
    return ratio if rule == "linear" else math.sqrt(ratio)


def gradual_warmup(step: int, warmup_steps: int, scale: float) -> float:
    """Factor on the learning rate at an optimizer step while it ramps from 1 to ``scale``.

    ``1 + (scale - 1) * step / warmup_steps``: the first step uses the unscaled base rate, every step adds the same
    amount, and ``scale`` is reached at ``step == warmup_steps`` and kept.

    Args:
        step: Optimizer steps taken so far, from 0.
        warmup_steps: Length of the ramp in optimizer steps; 0 means no ramp.
        scale: Factor at the end of the ramp.

    Returns:
        The factor, dimensionless.

    Raises:
        ValueError: If ``step`` or ``warmup_steps`` is negative.

    Reference:
        Goyal et al. (2017), section 2.2, "gradual warmup".

    Example:
        >>> [gradual_warmup(step, 4, 9.0) for step in range(6)]
        [1.0, 3.0, 5.0, 7.0, 9.0, 9.0]
    """
    for name, value in (("step", step), ("warmup_steps", warmup_steps)):
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value!r}")
    if step >= warmup_steps:
        return scale
    return 1.0 + (scale - 1.0) * step / warmup_steps
