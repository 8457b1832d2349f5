"""Planes of weight space with coordinates: through three solutions, or along a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._validation import each, instance, whole_number
from .points import State, WeightPoints, check_same_network, checked_state, surface_points

Direction = dict[str, Tensor]


@dataclass(frozen=True)
class WeightPlane:
    """A centre, orthogonal directions of norm 1, and where given states lie.

    Attributes:
        centre: A whole `state_dict`, at coordinates 0.
        directions: By parameter name; at most as many as were asked for.
        coordinates: For each given state its coordinate along each direction, in units of the weights.
        explained: Share of the states' variance along each direction; empty where they are three solutions.

    Example:
        >>> states = [{"weight": torch.tensor([[float(k)]])} for k in range(3)]
        >>> plane = trajectory_plane(nn.Linear(1, 1, bias=False), states)
        >>> plane.points([[0.0, 1.0]]).shape
        (2,)
    """

    centre: State
    directions: tuple[State, ...]
    coordinates: tuple[tuple[float, ...], ...]
    explained: tuple[float, ...] = ()

    def points(self, steps: Sequence[Sequence[float]]) -> WeightPoints:
        """The points of a grid, by coordinates; see `surface_points`. One list of steps draws along the first alone."""
        steps = list(each("steps", steps, lambda _, axis: axis))
        if len(steps) > len(self.directions):
            raise ValueError(
                f"steps must be for at most the {len(self.directions)} directions in which the states differ, got "
                f"{len(steps)}"
            )
        return surface_points(self.centre, self.directions[: len(steps)], steps)


def plane_through(module: nn.Module, first: State, second: State, third: State) -> WeightPlane:
    """The plane through three solutions, the first at its origin and the second on its first axis.

    Args:
        module: Their network; its parameters span the plane. Buffers are those of ``first``: evaluate with
            ``batch_norm="batch"`` or "recomputed".
        first: `state_dict` of one solution.
        second: Of another.
        third: Of a third, not on the line through the two.

    Returns:
        The plane, with the coordinates of the three.

    Raises:
        ValueError: If they lie on one line, or differ in names or shapes.

    Reference:
        Garipov et al. (2018), appendix A.1.

    Example:
        >>> corners = [{"weight": torch.tensor([[x, y]])} for x, y in ((0.0, 0.0), (4.0, 0.0), (1.0, 3.0))]
        >>> plane_through(nn.Linear(2, 1, bias=False), *corners).coordinates
        ((0.0, 0.0), (4.0, 0.0), (1.0, 3.0))
    """
    names = _weights_of(module, first=first, second=second, third=third)
    along, to_third = (_difference(state, first, names) for state in (second, third))
    length = math.sqrt(_dot(along, along))
    if not length:
        raise ValueError("first and second are the same weights; pass three different solutions")
    along = {name: d / length for name, d in along.items()}
    shadow = _dot(along, to_third)
    across = {name: d - shadow * along[name] for name, d in to_third.items()}
    height = math.sqrt(_dot(across, across))
    if height <= 1e-6 * math.sqrt(_dot(to_third, to_third)):
        raise ValueError("third lies on the line through first and second; use line_points")
    across = {name: d / height for name, d in across.items()}
    return WeightPlane(checked_state("first", first), (along, across), ((0.0, 0.0), (length, 0.0), (shadow, height)))


def trajectory_plane(module: nn.Module, states: Sequence[State], *, components: int = 2) -> WeightPlane:
    """The plane that a run moved in most: principal components of its weights, with the last ones at the origin.

    Args:
        module: The network; its parameters are compared, buffers are not.
        states: `state_dict` after each epoch, say, in order; at least two that differ.
        components: Most directions. There are fewer where the run did not move in more: on a straight path, one.

    Returns:
        The plane, coordinates relative to the last state, and the share of the variance that each direction explains.
        Of a direction and its opposite it is the one on whose positive side the farthest state lies.

    Raises:
        ValueError: If the states are all the same, not finite, or differ in names or shapes.

    Reference:
        Li et al. (2018), section 7. A random walk shows most of its variance in two components, too.

    Example:
        >>> states = [{"weight": torch.tensor([[3.0 - k, 0.0]])} for k in range(4)]
        >>> plane = trajectory_plane(nn.Linear(2, 1, bias=False), states)
        >>> [round(x, 6) for x, in plane.coordinates], [round(share, 6) for share in plane.explained]
        ([3.0, 2.0, 1.0, 0.0], [1.0])
    """
    states = each("states", states, checked_state)
    components = whole_number("components", components)
    if len(states) < 2:
        raise ValueError(f"states must be at least two along a run, got {len(states)}")
    names = _weights_of(module, **{f"states[{i}]": state for i, state in enumerate(states)})
    gram = torch.zeros(len(states), len(states), dtype=torch.float64)  # of the differences; nothing is weights squared
    for name in names:
        rows = _rows(states, name)
        gram += rows @ rows.T
    centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    if not bool(torch.isfinite(gram).all()):
        raise ValueError("states must be finite; leave out those after the run diverged")
    variances, vectors = torch.linalg.eigh(centred)
    variances, vectors = variances.flip(0), vectors.flip(1)
    total = float(variances.clamp(min=0).sum())
    if total <= 0:
        raise ValueError("states are all the same; there is no direction in which the run moved")
    # Rounding in float64 leaves about 1e-16 of the largest; weights in float32 are known to 1e-7, squared 1e-14.
    kept = [k for k in range(min(components, len(states) - 1)) if float(variances[k]) > 1e-12 * float(variances[0])]
    # v_k = sum_t u_tk (d_t - mean d) / sqrt(variance_k), and each u_k sums to 0
    mixes = (vectors[:, kept] - vectors[:, kept].mean(0)) / variances[kept].sqrt()
    coordinates = gram @ mixes
    for column in range(len(kept)):
        farthest = int(coordinates[:, column].abs().argmax())
        if coordinates[farthest, column] < 0:
            coordinates[:, column], mixes[:, column] = -coordinates[:, column], -mixes[:, column]
    directions: list[Direction] = [{} for _ in kept]
    for name in names:
        mixed = mixes.T @ _rows(states, name)
        for direction, row in zip(directions, mixed, strict=True):
            direction[name] = row.reshape(states[-1][name].shape)
    return WeightPlane(
        states[-1],
        tuple(directions),
        tuple(tuple(row) for row in (coordinates + 0.0).tolist()),  # no -0.0
        tuple(float(variances[k]) / total for k in kept),
    )


def _weights_of(module: nn.Module, **states: State) -> list[str]:
    """The names of a network's parameters, each tied one once, after a check that all states have them."""
    names = [name for name, _ in instance("module", module, nn.Module).named_parameters()]
    check_same_network(**states)
    one, state = next(iter(states.items()))
    missing = [name for name in names if name not in state]
    if missing or not names:
        raise ValueError(f"{one} must be a state of module, which has parameters that it has not: {missing[:5]}")
    return names


def _rows(states: Sequence[State], name: str) -> Tensor:
    """(states, entries): what a parameter lacks of its last value, in float64 on the CPU."""
    last = states[-1][name].to("cpu", torch.float64).flatten()
    return torch.stack([state[name].to("cpu", torch.float64).flatten() - last for state in states])


def _difference(state: State, other: State, names: Sequence[str]) -> Direction:
    return {n: state[n].to("cpu", torch.float64) - other[n].to("cpu", torch.float64) for n in names}


def _dot(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return math.fsum(float((one[name] * other[name]).sum()) for name in one)
