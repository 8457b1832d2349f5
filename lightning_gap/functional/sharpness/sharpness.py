"""Sharpness of a minimum: how high the loss climbs close to the weights (Keskar et al., 2017, and its relatives)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch.distributed import ProcessGroup

from .._loss_surface import LossFunction, Params
from .._validation import each, real_number, refusal
from ._neighbourhood import Norm
from ._search import Search
from .random_subspace import RandomSubspace
from .result import Method, Sharpness

_HINT = "the paper uses 1e-3 and 5e-4"


def sharpness(
    loss_fn: LossFunction,
    params: Params,
    *,
    epsilon: float = 1e-3,
    method: Method = "corner",
    max_evaluations: int = 7,
    max_iterations: int = 10,
    subspace: RandomSubspace | None = None,
    relative: bool = False,
    norm: Norm = "max",
    restarts: int = 0,
    generator: torch.Generator | None = None,
    report_on: LossFunction | None = None,
    process_group: ProcessGroup | None = None,
) -> Sharpness:
    """Relative rise of the loss in a small neighbourhood of ``params``, in percent: Metric 2.1 and its relatives.

    ``100 * (max f(x + A y) - f(x)) / (1 + f(x))`` over ``|y_i| <= epsilon * (|(A^+ x)_i| + 1)``, A the identity or a
    random subspace. Every value is a lower bound, so compare only values found on equal terms; the result holds them.

    Args:
        loss_fn: Returns the scalar loss at the current values of ``params``, or an iterable of scalars that sum to
            it, of which only one keeps its graph at a time. It must be deterministic, which is checked. `DatasetLoss`
            makes one from a module and samples; "corner" climbs it at first by halves (see below).
        params: Tensors to perturb, float32 or float64, any shapes, each requiring grad; or a mapping from names to
            them. On return, also by an exception, they hold the same values in the same storage; `.grad` is not
            touched. Pass the parameters of one layer for the sharpness of that layer.
        epsilon: Size of the neighbourhood. The paper uses 1e-3 and 5e-4 for its box.
        method: "corner" goes from corner to corner along the sign of the gradient, halving the step when the loss
            falls. If ``loss_fn`` has a method ``halves``, as `DatasetLoss` has, which gives two losses that each look
            like the whole, up to three evaluations, and no more than half, go to these in turn, with a step after
            each: two steps for the price of one, and often a higher hill. "lbfgsb" is the paper's L-BFGS-B (needs
            SciPy), with tolerances 0, best value seen: slower, and in the full space it stops far below the maximum
            near flat minima, so that it inflates contrasts. In a subspace, few-dimensional and with many maxima, it
            is the better one. "best", for a number to publish, makes three searches and takes the highest: "corner",
            "lbfgsb", and L-BFGS-B from where "corner" ended. So it is never below the other two; the result says in
            ``found_by`` which it was. It takes 4 to 7 times the evaluations. "apgd" is Auto-PGD (Croce and Hein 2020),
            with which Andriushchenko et al. (2023) measure, in the box and in the ball; give it 21 evaluations, a
            start and 20 steps.
        max_evaluations: Most evaluations of the loss by "corner" or "apgd", the one at ``params`` included; two halves
            are one. Compare values of one number: with halves a larger one takes another way, and may end lower.
        max_iterations: Iterations of "lbfgsb", in "best" of either one. The paper uses 10.
        subspace: Seek the maximum in a random subspace only. The paper's has dimension 100.
        relative: Make the box (the ball) relative to ``|x_i|`` alone: the value then stays the same when weights are
            rescaled without changing the function (Kwon et al. 2021).
        norm: "max" for a box, "l2" for the ball ``||y||_2 <= epsilon`` of sharpness-aware minimization (Foret et al.
            2021; they use 0.05), with ``relative`` for ``||y / |x| ||_2 <= epsilon`` of its adaptive form.
        restarts: Further ascents, from random points of the neighbourhood; the highest value of all is taken.
        generator: Source of random starts, on the CPU; seed 0 by default. An exactly zero gradient needs one too.
        report_on: Another loss of the same weights, for instance over all samples: the ascent is on ``loss_fn``, and
            loss, highest loss and percent are those of ``report_on`` at the weights and at the point found. "best"
            asks for it at the points of all three and takes the highest.
        process_group: Processes that call alike and hold one share of ``loss_fn`` each, the loss being their sum.

    Returns:
        The percentage with the terms it was found under.

    Raises:
        ValueError: If an argument is out of range, a tensor cannot be perturbed, the loss is not a scalar, is random,
            or does not depend on ``params``.
        UndefinedSharpnessError: A ValueError, if the loss or its gradient at ``params`` is not finite, or the loss is
            -1 or below. What is not finite around them gives an infinite or NaN result.
        ImportError: If "lbfgsb" or "best" is asked for and SciPy is not installed.

    Reference:
        Keskar, Mudigere, Nocedal, Smelyanskiy and Tang (2017), Metric 2.1, Tables 3 and 4.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> round(sharpness(lambda: (weight**2).sum(), [weight], epsilon=0.5).percent, 3)  # 100 * (2**2 - 1) / 2
        150.0
    """
    search = Search(method, max_evaluations, max_iterations, subspace, relative, norm, restarts, generator, report_on)
    return search.profile(loss_fn, params, [checked_epsilon(epsilon)], process_group)[0]


def sharpness_profile(
    loss_fn: LossFunction,
    params: Params,
    epsilons: Sequence[float] = (1e-3, 5e-4),
    *,
    method: Method = "corner",
    max_evaluations: int = 7,
    max_iterations: int = 10,
    subspace: RandomSubspace | None = None,
    relative: bool = False,
    norm: Norm = "max",
    restarts: int = 0,
    generator: torch.Generator | None = None,
    report_on: LossFunction | None = None,
    process_group: ProcessGroup | None = None,
) -> tuple[Sharpness, ...]:
    """`sharpness` for several epsilon, which share the loss and the gradient at the weights.

    Args:
        loss_fn: As in `sharpness`, like all arguments but the next.
        params: Tensors to perturb.
        epsilons: Sizes of the neighbourhood, positive and different. Each is sought from the weights anew, so that its
            value does not depend on the others.
        method: "corner", "lbfgsb", "best" or "apgd".
        max_evaluations: Most evaluations by "corner" or "apgd" for one epsilon.
        max_iterations: Iterations of "lbfgsb".
        subspace: Random subspace to seek in.
        relative: Relative to ``|x_i|`` alone.
        norm: "max" or "l2".
        restarts: Further ascents from random points.
        generator: Source of random starts.
        report_on: Loss to report.
        process_group: Processes that share the loss.

    Returns:
        One result for each epsilon, in their order.

    Raises:
        ValueError: As in `sharpness`, or if an epsilon is there twice.

    Reference:
        Keskar et al. (2017), Table 3, which gives both.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> [round(s.percent, 2) for s in sharpness_profile(lambda: (weight**2).sum(), [weight], (0.5, 0.25))]
        [150.0, 62.5]
    """
    search = Search(method, max_evaluations, max_iterations, subspace, relative, norm, restarts, generator, report_on)
    return search.profile(loss_fn, params, checked_epsilons(epsilons, "epsilons"), process_group)


def checked_epsilon(epsilon: float, name: str = "epsilon") -> float:
    """The size as a plain float; raise if it is not a positive number."""
    return real_number(name, epsilon, above=0, hint=_HINT)


def checked_epsilons(epsilons: Sequence[float], name: str = "epsilon") -> tuple[float, ...]:
    """The sizes as plain floats; raise if there is none, one is not a positive number, or one is there twice."""
    with suppress(ValueError):
        numbers = tuple(each(name, epsilons, lambda name, epsilon: checked_epsilon(epsilon, name)))
        if 0 < len(numbers) == len(set(numbers)):
            return numbers
    raise ValueError(refusal(name, "must be a positive number, or several different ones", epsilons, _HINT))


def epsilon_name(epsilon: float) -> str:
    """``epsilon`` as it is written in keys and tables.

    Args:
        epsilon: Size of the neighbourhood, positive.

    Returns:
        The number in scientific notation, without padding.

    Raises:
        ValueError: If ``epsilon`` is not a positive number.

    Example:
        >>> epsilon_name(0.001), epsilon_name(0.00025)
        ('1e-3', '2.5e-4')
    """
    epsilon = real_number("epsilon", epsilon, above=0)
    mantissa, exponent = f"{epsilon:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
