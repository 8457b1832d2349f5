"""Curves between two solutions, by their nodes, and means along them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from .._validation import each, instance, one_of, real_number, refusal
from .points import State, WeightPoints, check_same_network, checked_state

CurveKind = Literal["bezier", "chain"]
"""How a curve runs through its nodes; see `WeightCurve`."""


@dataclass(frozen=True)
class WeightCurve:
    """A curve from the first node to the last.

    Attributes:
        nodes: States; the first and the last are the two solutions.
        kind: "bezier" weighs node j of n + 1 by ``C(n, j) * t**j * (1 - t)**(n - j)``, and meets the ends alone;
            "chain" by ``max(0, 1 - abs(t * n - j))``, straight from node to node.

    Raises:
        ValueError: If there are fewer than two nodes, or they differ in names or shapes.

    Reference:
        Garipov et al. (2018), section 3.

    Example:
        >>> nodes = [{"w": torch.tensor([float(x)])} for x in (0, 4, 0)]
        >>> WeightCurve(nodes, "bezier").weights_at(0.5), WeightCurve(nodes, "chain").weights_at(0.5)
        ((0.25, 0.5, 0.25), (0.0, 1.0, 0.0))
    """

    nodes: Sequence[State]
    kind: CurveKind

    def __post_init__(self) -> None:
        nodes = tuple(each("nodes", self.nodes, checked_state))
        if len(nodes) < 2:
            raise ValueError(refusal("nodes", "must be at least two states", len(nodes)))
        check_same_network(**{f"nodes[{i}]": node for i, node in enumerate(nodes)})
        one_of("kind", self.kind, get_args(CurveKind))
        object.__setattr__(self, "nodes", nodes)

    def weights_at(self, t: float) -> tuple[float, ...]:
        """What each node counts for at t, from 0 to 1."""
        t, n = _position("t", t), len(self.nodes) - 1
        if self.kind == "bezier":
            return tuple(math.comb(n, j) * t**j * (1 - t) ** (n - j) for j in range(n + 1))
        return tuple(max(0.0, 1 - abs(t * n - j)) for j in range(n + 1))

    def points(self, ts: Sequence[float]) -> WeightPoints:
        """The points at these t, from 0 to 1, for `evaluate_points`; Garipov et al. use 61.

        Evaluate them with ``batch_norm="recomputed"``: running statistics of nodes say nothing of points in between,
        and show barriers that are none.
        """
        return WeightPoints(self.nodes, [self.weights_at(t) for t in each("ts", ts, _position)])


def length_weighted_mean(module: nn.Module, points: WeightPoints, values: Sequence[float]) -> float:
    """The mean of a quantity along a path, each stretch counted by its length in weight space.

    Between two points it is taken for the mean of theirs.

    Args:
        module: The network; its parameters have the length, buffers have none.
        points: In order along the path, at least two that differ.
        values: The quantity at each.

    Returns:
        The mean, in the units of ``values``.

    Raises:
        ValueError: If points and values do not pair up, or the path has no length.

    Reference:
        Garipov et al. (2018), equation 1.

    Example:
        >>> ends = {"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)}
        >>> path = WeightPoints(ends, [(1.0, 0.0), (0.25, 0.75), (0.0, 1.0)])
        >>> length_weighted_mean(nn.Linear(1, 1, bias=False), path, [0.0, 1.0, 1.0])
        0.625
    """
    points, names = (
        instance("points", points, WeightPoints),
        dict(instance("module", module, nn.Module).named_parameters()),
    )
    numbers = each("values", values, lambda name, value: real_number(name, value, finite=False))
    if len(points) != len(numbers) or len(numbers) < 2:
        raise ValueError(f"values must be one for each of at least two points, got {len(numbers)} for {len(points)}")
    squares = torch.zeros(len(points) - 1, dtype=torch.float64)
    rows = torch.tensor(points.coefficients, dtype=torch.float64)
    for name in names:
        columns = [k for k, state in enumerate(points.basis) if name in state]
        basis = torch.stack([points.basis[k][name].to("cpu", torch.float64).flatten() for k in columns])
        moves = rows.diff(dim=0)[:, columns] @ basis
        squares += moves.square().sum(1)
    lengths = squares.sqrt()
    if not float(lengths.sum()):
        raise ValueError("points are all the same; the path has no length")
    known = torch.tensor(numbers, dtype=torch.float64)
    return float((lengths * (known[:-1] + known[1:]) / 2).sum() / lengths.sum())


def _position(name: str, value: float) -> float:
    return real_number(name, value, at_least=0, at_most=1)
