"""How far the weights have travelled, and whether they travel like a random walk on a rough landscape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._validation import each, instance, real_number, whole_number


def weight_distance(weights: Iterable[Tensor], reference: Iterable[Tensor]) -> float:
    """Euclidean distance between two sets of weights; differences in float32 at least, squares summed in float64.

    Args:
        weights: Tensors of any shapes.
        reference: As many tensors of the same shapes, on any device.

    Returns:
        ``||w - w_reference||_2`` over all entries together, in units of the weights.

    Raises:
        ValueError: If the two sets differ in number or shapes.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 3; Keskar et al. (2017), section 4 compare runs by it.

    Example:
        >>> weight_distance([torch.tensor([3.0, 0.0])], [torch.tensor([0.0, 4.0])])
        5.0
    """
    weights, reference = each("weights", weights, _tensor), each("reference", reference, _tensor)
    if [w.shape for w in weights] != [r.shape for r in reference]:
        raise ValueError(
            f"weights and reference must pair up: got {len(weights)} and {len(reference)} tensors of shapes "
            f"{[tuple(w.shape) for w in weights]} and {[tuple(r.shape) for r in reference]}"
        )
    return math.hypot(*(_norm_of_difference(w, r) for w, r in zip(weights, reference, strict=True)))


def layer_distances(weights: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
    """How far each layer has moved; the squares add up to that of `weight_distance`.

    Args:
        weights: Tensors by name, for instance ``dict(model.named_parameters())``. A layer is what shares the name up
            to the last dot; tensors without a dot are the layer ``""``.
        reference: Tensors of the same names and shapes, on any device.

    Returns:
        Euclidean distance by layer, in units of the weights, in the order of ``weights``.

    Raises:
        ValueError: If the two differ in names or shapes.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 3, here for one layer at a time.

    Example:
        >>> start = {"first.weight": torch.zeros(2), "first.bias": torch.zeros(1), "last.weight": torch.zeros(1)}
        >>> now = start | {"first.weight": torch.tensor([3.0, 0.0]), "first.bias": torch.tensor([4.0])}
        >>> layer_distances(now, start)
        {'first': 5.0, 'last': 0.0}
    """
    for name, tensors in (("weights", weights), ("reference", reference)):
        instance(name, tensors, Mapping, hint="dict(model.named_parameters())")  # type: ignore[type-abstract]
    if weights.keys() != reference.keys():
        raise ValueError(
            "weights and reference must have the same names; only one of them has "
            + ", ".join(sorted(weights.keys() ^ reference.keys()))
        )
    layers: dict[str, list[str]] = {}
    for name in weights:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    return {
        layer: weight_distance([weights[name] for name in names], [reference[name] for name in names])
        for layer, names in layers.items()
    }


def _measured(name: str, value: object) -> float:
    return real_number(name, value, finite=False)  # a run that diverged fits nothing


def _tensor(name: str, value: object) -> Tensor:
    return instance(name, value, Tensor)


def _norm_of_difference(current: Tensor, start: Tensor) -> float:
    device = torch.device("cpu") if current.device.type == "mps" else current.device  # mps has no float64
    wide = torch.promote_types(torch.promote_types(current.dtype, start.dtype), torch.float32)
    difference = start.detach().to(device, wide, copy=True).sub_(current.detach().to(device, wide))
    return float(torch.linalg.vector_norm(difference, dtype=torch.promote_types(wide, torch.float64)))


@dataclass(frozen=True)
class LogFit:
    """Least-squares line ``distance = slope * log(step) + intercept``.

    Attributes:
        slope: Distance gained per e-fold of steps.
        intercept: Distance at step 1.
        r_squared: Share of the variance explained, at most 1.

    Example:
        >>> LogFit(slope=0.5, intercept=2.0, r_squared=1.0).intercept
        2.0
    """

    slope: float
    intercept: float
    r_squared: float


def log_fit(steps: Sequence[int], distances: Sequence[float]) -> LogFit:
    """Fit distance against the logarithm of the step, the law of an ultra-slow diffusion.

    Args:
        steps: Optimizer steps, each at least 1, with at least two different values.
        distances: Distance from the initial weights at each of them.

    Returns:
        Slope, intercept and R squared of the line.

    Raises:
        ValueError: If the lengths differ, a step is below 1, or all steps are the same.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 3: ``||w_t - w_0||`` grows like ``log t`` at high learning rates.

    Example:
        >>> fit = log_fit([1, 10, 100], [2.0, 4.0, 6.0])
        >>> round(fit.slope, 4), round(fit.intercept, 4), round(fit.r_squared, 4)
        (0.8686, 2.0, 1.0)
    """
    steps, distances = each("steps", steps, whole_number), each("distances", distances, _measured)
    if len(steps) != len(distances):
        raise ValueError(f"steps and distances must have one length, got {len(steps)} and {len(distances)}")
    if len(set(steps)) < 2:
        raise ValueError(f"steps must hold at least two different values, each at least 1, got {steps}")
    x = torch.tensor(steps, dtype=torch.float64).log()
    y = torch.tensor(distances, dtype=torch.float64)
    slope = float((x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum())
    intercept = float(y.mean()) - slope * float(x.mean())
    residual = float((y - slope * x - intercept).square().sum())
    total = float((y - y.mean()).square().sum())
    return LogFit(slope, intercept, 1.0 if total == 0 else 1.0 - residual / total)
