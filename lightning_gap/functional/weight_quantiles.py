"""How large the weights are: what every measure of sharpness depends on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ._validation import each, instance, real_number


def weight_quantiles(weights: Iterable[Tensor], levels: Sequence[float] = (0.05, 0.5, 0.95)) -> list[float]:
    """Quantiles of ``|x_i|`` over all weights together.

    Log them beside sharpness: its box is nearly absolute, so that larger weights alone make a solution look flatter.

    Args:
        weights: Tensors of any shapes.
        levels: Between 0 and 1. The quantile at q is the smallest entry that at least a share q does not exceed.

    Returns:
        One quantile for each level, in their order, in units of the weights.

    Raises:
        ValueError: If there are no weights, or a level is out of range.

    Reference:
        Dinh, Pascanu, Bengio and Bengio (2017), section 4.

    Example:
        >>> weight_quantiles([torch.tensor([-3.0, 1.0]), torch.tensor([2.0])], [0.0, 0.5, 1.0])
        [1.0, 2.0, 3.0]
    """
    levels = each("levels", levels, lambda name, level: real_number(name, level, at_least=0, at_most=1))
    tensors = each("weights", weights, lambda name, weight: instance(name, weight, Tensor))
    flat = torch.cat([weight.detach().abs().flatten().cpu() for weight in tensors] or [torch.empty(0)])
    if not flat.numel():
        raise ValueError("weights is empty; pass for instance the model's parameters")
    ranks = [max(1, math.ceil(level * flat.numel() - 1e-9)) for level in levels]  # 0.07 * 100 is more than 7
    return [float(flat.kthvalue(rank).values) for rank in ranks]
