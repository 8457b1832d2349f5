"""How the learning rate follows the batch size, and how a run warms up to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from difflib import get_close_matches
from typing import Literal, get_args

from ._validation import check_counts, real_number, shown

RuleName = Literal["linear", "sqrt", "none"]
Rule = RuleName | Callable[[int, int], float]
Warmup = Literal["gradual", "constant"]


def checked_rule(rule: Rule) -> Rule:
    """Give the rule back if it is known or a function.

    Raises:
        ValueError: If it is not; offers the nearest name.
    """
    if not callable(rule) and not (isinstance(rule, str) and rule in get_args(RuleName)):
        near = get_close_matches(shown(rule).strip("'"), get_args(RuleName), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"rule must be one of {', '.join(map(repr, get_args(RuleName)))} or a function of (batch_size, "
            f"base_batch_size), got {shown(rule)}{hint}"
        )
    return rule


def learning_rate_scale(batch_size: int, base_batch_size: int, *, rule: Rule = "linear") -> float:
    """Factor on the learning rate when the batch grows from ``base_batch_size`` to ``batch_size``.

    ``linear`` is ``k = batch_size / base_batch_size`` (Goyal et al., 2017), ``sqrt`` is ``sqrt(k)``, which keeps the
    covariance of the update (Hoffer et al., 2017), ``none`` is 1.

    Args:
        batch_size: Samples per optimizer step.
        base_batch_size: Samples per optimizer step for which the unscaled learning rate was chosen.
        rule: ``"linear"``, ``"sqrt"``, ``"none"``, or a function of both sizes that returns the factor.

    Returns:
        The factor, dimensionless; 1 where the two sizes agree, unless a function of your own says otherwise.

    Raises:
        ValueError: If a size is not a positive whole number, the rule is unknown, or your function returns anything
            but a positive finite number.

    Reference:
        Goyal et al. (2017), section 2.1; Hoffer, Hubara and Soudry (2017), section 3.

    Example:
        >>> learning_rate_scale(8192, 256)
        32.0
        >>> learning_rate_scale(4096, 256, rule="sqrt")
        4.0
    """
    checked_rule(rule)
    batch_size, base_batch_size = check_counts(unit="samples", batch_size=batch_size, base_batch_size=base_batch_size)
    if callable(rule):
        asked = f"what rule returns for batch_size={batch_size} and base_batch_size={base_batch_size}"
        return real_number(asked, rule(batch_size, base_batch_size), above=0, hint="it multiplies the learning rate")
    ratio = batch_size / base_batch_size
    return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule]


def gradual_warmup(step: float, warmup_steps: float, scale: float, *, start: float = 1.0) -> float:
    """Factor on the learning rate at an optimizer step while it ramps from ``start`` to ``scale``.

    ``start + (scale - start) * step / warmup_steps``: every step adds the same amount, and ``scale`` is reached at
    ``step == warmup_steps`` and kept.

    Args:
        step: Optimizer steps taken so far, from 0.
        warmup_steps: Length of the ramp in optimizer steps; 0 means no ramp.
        scale: Factor at the end of the ramp.
        start: Factor at its beginning. 1, the unscaled base rate, is Goyal et al.'s.

    Returns:
        The factor, dimensionless.

    Raises:
        ValueError: If a number is negative, infinite or NaN.

    Reference:
        Goyal et al. (2017), section 2.2, "gradual warmup".

    Example:
        >>> [gradual_warmup(step, 4, 9.0) for step in range(6)]
        [1.0, 3.0, 5.0, 7.0, 9.0, 9.0]
    """
    return ramp("gradual", *_checked_warmup(step, warmup_steps, scale, start))


def constant_warmup(step: float, warmup_steps: float, scale: float, *, start: float = 1.0) -> float:
    """Factor on the learning rate at an optimizer step: ``start`` for ``warmup_steps`` steps, then ``scale``.

    Args:
        step: Optimizer steps taken so far, from 0.
        warmup_steps: Steps with the first factor.
        scale: Factor after them.
        start: Factor during them. 1, the unscaled base rate, is Goyal et al.'s.

    Returns:
        The factor, dimensionless.

    Raises:
        ValueError: If a number is negative, infinite or NaN.

    Reference:
        Goyal et al. (2017), section 2.2, "constant warmup", which fails for ImageNet at 8,192 samples.

    Example:
        >>> [constant_warmup(step, 2, 9.0) for step in range(4)]
        [1.0, 1.0, 9.0, 9.0]
    """
    return ramp("constant", *_checked_warmup(step, warmup_steps, scale, start))


def ramp(warmup: Warmup, step: float, warmup_steps: float, scale: float, start: float) -> float:
    """`gradual_warmup` or `constant_warmup` of numbers that are known to be in range, at each step of a run."""
    if step >= warmup_steps:
        return scale
    return start if warmup == "constant" else start + (scale - start) * step / warmup_steps


def _checked_warmup(step: float, warmup_steps: float, scale: float, start: float) -> tuple[float, ...]:
    given = {"step": step, "warmup_steps": warmup_steps, "scale": scale, "start": start}
    return tuple(real_number(name, value, at_least=0) for name, value in given.items())
