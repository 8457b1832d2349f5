"""Where an optimizer turns unstable: the curvature that its learning rate, momentum and preconditioner allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from .._loss_surface import Params, checked_params
from .._validation import each, instance, one_of, real_number, refusal
from ..errors import UndefinedCurvatureError

Momentum = Literal["polyak", "nesterov", "averaged"]


def edge_of_stability(learning_rate: float, momentum: float = 0.0, kind: Momentum = "polyak") -> float:
    """Largest curvature at which steps along it do not grow: 2 over the learning rate, and what momentum makes of it.

    Args:
        learning_rate: Of gradient descent on a parabola.
        momentum: m, from 0 to below 1.
        kind: "polyak", whose buffer is ``v = m v + g``: ``(2 + 2 m) / learning_rate``. "nesterov", as in torch's SGD:
            that over ``1 + 2 m``. "averaged", ``v = m v + (1 - m) g`` as in Adam: that over ``1 - m``, which is 38 over
            the learning rate at m = 0.9.

    Returns:
        The curvature; for a preconditioned method an eigenvalue of the preconditioned Hessian.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Cohen et al. (2021), appendix B; Cohen et al. (2022), section 2, for the averaged kind.

    Example:
        >>> [round(edge_of_stability(1.0, 0.9, kind), 4) for kind in ("polyak", "nesterov", "averaged")]
        [3.8, 1.3571, 38.0]
    """
    learning_rate = real_number("learning_rate", learning_rate, above=0)
    m = real_number("momentum", momentum, at_least=0, below=1)
    part = {"polyak": 1.0, "nesterov": 1 + 2 * m, "averaged": 1 - m}[one_of("kind", kind, get_args(Momentum))]
    return (2 + 2 * m) / (part * learning_rate)


@dataclass(frozen=True, eq=False)
class OptimizerEdge:
    """Result of `optimizer_edge`.

    Attributes:
        preconditioner: P, a diagonal: one positive tensor in the shape of each weight; infinite where a weight is not
            moved.
        threshold: Largest eigenvalue of ``P^-1/2 H P^-1/2`` at which steps do not grow.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> optimizer_edge(torch.optim.SGD([weight], lr=0.5, momentum=0.9), [weight]).threshold
        7.6
    """

    preconditioner: tuple[Tensor, ...]
    threshold: float


def optimizer_edge(
    optimizer: Optimizer,
    params: Params,
    *,
    learning_rates: Sequence[float] | None = None,
    hyperparameters: Sequence[Mapping[str, Any]] | None = None,
) -> OptimizerEdge:
    """The preconditioner that an optimizer divides its steps by as it is now, and the curvature that it allows.

    For Adam and AdamW ``P = (1 - beta1^t) (sqrt(v / (1 - beta2^t)) + eps)`` with v of its state, or its maximum with
    ``amsgrad``: both corrections of the bias as torch has them. For RMSprop ``P = sqrt(v) + eps``, centred or not. For
    SGD P is 1. Where parameter groups have learning rates of their own, they are taken into P, and the threshold is
    that of the largest. Weight decay is left out: decoupled or not it adds to the curvature at most its own factor.

    Args:
        optimizer: `torch.optim.SGD`, `Adam`, `AdamW` or `RMSprop`.
        params: Weights that it holds, or a mapping from names to them; a weight without a state is not moved.
        learning_rates: By parameter group, where a step's differ from those that the optimizer holds now.
        hyperparameters: The same of others, by their names in ``optimizer.param_groups``.

    Returns:
        The preconditioner and the threshold.

    Raises:
        ValueError: If the optimizer is another one, maximizes, does not hold a weight, or shards its state, its
            groups differ in momentum, or no learning rate is above 0.
        UndefinedCurvatureError: A ValueError, if it has taken no step yet and so has no state.

    Reference:
        Cohen et al. (2022), section 2.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> optimizer = torch.optim.Adam([weight], lr=0.01, eps=0.0)
        >>> (3 * weight.sum()).backward()
        >>> optimizer.step()
        >>> found = optimizer_edge(optimizer, [weight])
        >>> round(found.threshold), [round(p, 3) for p in found.preconditioner[0].tolist()]  # (1 - 0.9) sqrt(9)
        (3800, [0.3, 0.3])
    """
    name_of = type(instance("optimizer", optimizer, Optimizer)).__name__
    if not isinstance(optimizer, SGD | Adam | AdamW | RMSprop):
        raise ValueError(f"optimizer must be SGD, Adam, AdamW or RMSprop, whose edge is known, got {name_of}")
    groups = optimizer.param_groups
    if hyperparameters is not None:
        others = each("hyperparameters", hyperparameters, _by_name)
        if len(others) != len(groups):
            raise ValueError(f"hyperparameters must hold one for each of {len(groups)} parameter groups, got {others}")
        groups = [{**group, **other} for group, other in zip(groups, others, strict=True)]
    rates = [float(group["lr"]) for group in groups]
    if learning_rates is not None:
        rates = each("learning_rates", learning_rates, lambda name, rate: real_number(name, rate, at_least=0))
        if len(rates) != len(groups):
            raise ValueError(f"learning_rates must hold one for each of {len(groups)} parameter groups, got {rates}")
    place = {id(weight): index for index, group in enumerate(groups) for weight in group["params"]}
    weights = checked_params(params)
    foreign = next((name for name, weight in weights.items() if id(weight) not in place), None)
    if foreign is not None:
        raise ValueError(f"params holds {foreign}, which {name_of} does not; pass the weights that it trains")
    used = [place[id(weight)] for weight in weights.values()]
    largest = max(rates[index] for index in used)
    if not largest > 0:
        raise ValueError(f"learning_rates must not all be 0, got {rates}")
    momenta = {_momentum_of(optimizer, groups[index]) for index in used}
    if len(momenta) > 1:
        raise ValueError(
            f"optimizer has parameter groups that differ in momentum, {sorted(momenta)}; the edge needs one"
        )
    ((momentum, kind, share),) = momenta
    diagonals = [
        _diagonal(optimizer, groups[index], name, weight)
        for index, (name, weight) in zip(used, weights.items(), strict=True)
    ]
    if all(diagonal is None for diagonal in diagonals):
        raise UndefinedCurvatureError(f"{name_of} has taken no step yet, and has no state; take one first")
    scaled = (
        torch.full_like(weight, math.inf, requires_grad=False)
        if diagonal is None or not rates[index]
        else diagonal * (largest / rates[index])
        for diagonal, index, weight in zip(diagonals, used, weights.values(), strict=True)
    )
    return OptimizerEdge(tuple(scaled), edge_of_stability(largest * share, momentum, kind))


def _by_name(name: str, given: object) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(refusal(name, "must be values by name", given, "for instance {'eps': 1e-8}"))
    return given


def _momentum_of(optimizer: Optimizer, group: dict[str, Any]) -> tuple[float, Momentum, float]:
    """Its size and kind, and what it multiplies the learning rate by."""
    if group.get("maximize"):
        raise ValueError("optimizer climbs, with maximize=True, and has no edge of stability; use maximize=False")
    if isinstance(optimizer, SGD):
        momentum = float(group["momentum"])
        share = 1 - float(group["dampening"]) if momentum else 1.0
        return momentum, "nesterov" if group["nesterov"] else "polyak", share
    if isinstance(optimizer, RMSprop):
        return float(group["momentum"]), "polyak", 1.0
    return float(group["betas"][0]), "averaged", 1.0


def _diagonal(optimizer: Optimizer, group: dict[str, Any], name: str, weight: Tensor) -> Tensor | None:
    """What steps of this weight are divided by; None where there was no step."""
    if isinstance(optimizer, SGD):
        return torch.ones_like(weight, requires_grad=False)
    state = optimizer.state.get(weight)
    if not state:
        return None
    needed = "square_avg" if isinstance(optimizer, RMSprop) else "exp_avg_sq"
    squares = state.get("max_exp_avg_sq", state.get(needed))
    if not isinstance(squares, Tensor) or squares.shape != weight.shape or hasattr(squares, "device_mesh"):
        raise ValueError(f"optimizer has no whole {needed} for {name}; measure where its state is not sharded")
    if isinstance(optimizer, RMSprop):
        if group["centered"]:
            squares = squares.addcmul(state["grad_avg"], state["grad_avg"], value=-1)
        return squares.sqrt().add_(group["eps"])
    steps, (beta1, beta2) = float(state["step"]), map(float, group["betas"])
    return (squares.sqrt() / math.sqrt(1 - beta2**steps)).add_(group["eps"]).mul_(1 - beta1**steps)
