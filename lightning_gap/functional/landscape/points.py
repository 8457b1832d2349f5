"""Points of weight space: on a path between two solutions, or on a grid around one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from .._validation import each, instance, one_of, real_number, refusal, set_plain, whole_number

State = Mapping[str, Tensor]
"""Tensors by name, as `state_dict` gives them; a direction may leave names out, which it does not move."""

Path = Literal["linear", "curved"]
"""A path between two solutions; see `line_points`."""


@dataclass(frozen=True)
class WeightPoints:
    """Points of weight space, each a linear combination of the same few states; nothing is computed until needed.

    Attributes:
        basis: The states: first a whole `state_dict`, then others or directions. Entries that are not floating-point
            are those of the first.
        coefficients: For each point one number for each state.
        shape: How the points lie: (n,) along a path, (n, m) on a grid, whose first axis changes slowest. By default
            (number of points,).

    Raises:
        ValueError: If there is no state or no point, or the numbers do not pair up.

    Example:
        >>> import torch
        >>> WeightPoints([{"w": torch.ones(1)}, {"w": torch.zeros(1)}], [[1.0, 0.0], [0.5, 0.5]]).shape
        (2,)
    """

    basis: Sequence[State]
    coefficients: Sequence[Sequence[float]]
    shape: Sequence[int] = ()

    def __post_init__(self) -> None:
        basis = tuple(each("basis", self.basis, checked_state))
        rows = each("coefficients", self.coefficients, lambda name, row: tuple(each(name, row, real_number)))
        if not basis or not rows:
            raise ValueError(refusal("coefficients" if basis else "basis", "must not be empty", []))
        if any(len(row) != len(basis) for row in rows):
            raise ValueError(
                f"coefficients must hold one number for each of the {len(basis)} states of basis in every row, got "
                f"rows of {sorted({len(row) for row in rows})}"
            )
        shape = tuple(each("shape", self.shape, whole_number)) or (len(rows),)
        if math.prod(shape) != len(rows):
            raise ValueError(refusal("shape", f"must be that of {len(rows)} points", self.shape))
        set_plain(self, basis=basis, coefficients=tuple(rows), shape=shape)

    def __len__(self) -> int:
        return len(self.coefficients)


def line_points(start: State, end: State, alphas: Sequence[float], *, path: Path = "linear") -> WeightPoints:
    """The points of a path from one solution to another.

    Args:
        start: `state_dict` at alpha 0. Entries that are not floating-point are taken from here.
        end: `state_dict` at alpha 1, of the same names and shapes.
        alphas: Positions; the paper uses 25 from -1 to 2.
        path: "linear" is ``alpha * end + (1 - alpha) * start``; "curved" is
            ``sin(alpha * pi / 2) * end + cos(alpha * pi / 2) * start``. Running statistics are combined alike, and the
            curve makes them up to 1.41 times too large: evaluate it with ``batch_norm="batch"`` or "recomputed".

    Returns:
        One point for each alpha.

    Raises:
        ValueError: If ``alphas`` is empty, ``path`` unknown, or the two ends differ in names or shapes.

    Reference:
        Keskar et al. (2017), Figures 3 and 7.

    Example:
        >>> import torch
        >>> ends = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
        >>> line_points(*ends, [0.0, 0.25, 1.0]).coefficients
        ((1.0, 0.0), (0.75, 0.25), (0.0, 1.0))
        >>> [round(c, 2) for c in line_points(*ends, [0.5], path="curved").coefficients[0]]
        [0.71, 0.71]
    """
    check_same_network(start=start, end=end)
    alphas = each("alphas", alphas, real_number)
    if not alphas:
        raise ValueError("alphas is empty; pass for instance 25 positions from -1 to 2")
    if one_of("path", path, get_args(Path)) == "linear":
        return WeightPoints((start, end), [(1 - alpha, alpha) for alpha in alphas])
    # To the ends themselves, where a cosine would leave 6e-17 of the other one.
    turns = [(round(math.cos(a * math.pi / 2), 15), round(math.sin(a * math.pi / 2), 15)) for a in alphas]
    return WeightPoints((start, end), turns)


def surface_points(centre: State, directions: Sequence[State], steps: Sequence[Sequence[float]]) -> WeightPoints:
    """The points ``centre + a * first + b * second + ...`` for all steps a, b, ...: a line, a surface, or a grid.

    Args:
        centre: `state_dict` of the solution in the middle.
        directions: For each axis how far one step goes, by the names of ``centre``; what it leaves out stays.
        steps: For each direction the positions along it; Li et al. use 51 from -1 to 1.

    Returns:
        The points, with ``shape`` the number of steps along each axis.

    Raises:
        ValueError: If there is no step, directions and steps do not pair up, or a direction does not fit the centre.

    Reference:
        Li et al. (2018), section 3 and equation 1.

    Example:
        >>> import torch
        >>> points = surface_points({"w": torch.ones(2)}, [{"w": torch.ones(2)}] * 2, [[-1.0, 0.0, 1.0], [0.0, 1.0]])
        >>> points.shape, points.coefficients[0]
        ((3, 2), (1.0, -1.0, 0.0))
    """
    centre = checked_state("centre", centre)
    directions = each("directions", directions, checked_state)
    axes = each("steps", steps, lambda name, axis: each(name, axis, real_number))
    if len(axes) != len(directions) or not axes or not all(axes):
        raise ValueError(
            f"steps and directions must pair up, at least one position for each direction, got {len(axes)} and "
            f"{len(directions)}"
        )
    for direction in directions:
        wrong = [name for name, d in direction.items() if name not in centre or centre[name].shape != d.shape]
        if wrong:
            raise ValueError(f"directions must have names and shapes of centre; {', '.join(sorted(wrong))} differ")
    rows = [(1.0, *position) for position in itertools.product(*axes)]
    return WeightPoints((centre, *directions), rows, tuple(map(len, axes)))


def checked_state(name: str, state: Any) -> State:
    """Give the tensors of a `state_dict` back; what else a module may store in one is left out."""
    instance(name, state, Mapping, hint="as state_dict() gives it")  # type: ignore[type-abstract]
    for key, value in state.items():
        if not isinstance(value, Tensor) and not str(key).endswith("_extra_state"):
            raise ValueError(refusal(f"{name}[{key!r}]", "must be a Tensor", value))
    return {key: value.detach() for key, value in state.items() if isinstance(value, Tensor)}


def check_same_network(**states: State) -> None:
    """Refuse states that differ in names or shapes, saying in which."""
    (first, one), *others = [(name, checked_state(name, state)) for name, state in states.items()]
    for name, other in others:
        missing = sorted(one.keys() ^ other.keys())
        shapes = sorted(key for key in one.keys() & other.keys() if one[key].shape != other[key].shape)
        told = [f"{key} is in one alone" for key in missing]
        told += [f"{key} is {tuple(one[key].shape)} and {tuple(other[key].shape)}" for key in shapes]
        if told:
            more = f" and {len(told) - 5} more" if len(told) > 5 else ""
            raise ValueError(
                f"{first} and {name} must be states of one network; they differ: {'; '.join(told[:5])}{more}"
            )
