"""Random directions of weight space in which every filter is moved as far as it is long."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.parameter import is_lazy

from .._validation import instance, one_of, seed_number

Vectors = Literal["zero", "copy"]
"""What becomes of biases and normalisation; see `filter_normalized_direction`."""


@torch.no_grad()
def filter_normalized_direction(module: nn.Module, *, seed: int = 0, vectors: Vectors = "zero") -> dict[str, Tensor]:
    """A random direction of which every filter has the norm of the network's own filter.

    ``d_ij * ||w_ij|| / (||d_ij|| + 1e-10)`` with d from a standard normal distribution, for filter j of layer i: a row
    of a linear layer, an output channel of a convolution, transposed ones included, whose output channels are on axis
    1. A step of the same length then means the same in networks whose weights are scaled differently, as weight decay
    and batch size do.

    Args:
        module: At the weights around which the landscape is drawn. Frozen weights are not moved; tied ones count once.
        seed: Seed of the direction, drawn on the CPU: the same on every device.
        vectors: "zero" leaves biases and the weights of normalisation, tensors of at most one axis, where they are, as
            the paper's figures do; "copy" moves them along themselves, as its code does by default.

    Returns:
        The direction by the names of the parameters that it moves; for `surface_points`.

    Raises:
        ValueError: If nothing would move, or ``vectors`` is unknown.

    Reference:
        Li et al. (2018), section 4.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> direction = filter_normalized_direction(layer, seed=1)
        >>> list(direction), torch.allclose(direction["weight"].norm(dim=1), layer.weight.norm(dim=1))
        (['weight'], True)
    """
    module, seed = instance("module", module, nn.Module), seed_number("seed", seed)
    copied = one_of("vectors", vectors, get_args(Vectors)) == "copy"
    transposed = {id(part.weight): part.groups for part in module.modules() if isinstance(part, _ConvTransposeNd)}
    generator = torch.Generator().manual_seed(seed)
    direction: dict[str, Tensor] = {}
    for name, weight in module.named_parameters():
        if is_lazy(weight):
            raise ValueError(f"{name} of module is lazy and has no value yet; run one batch through the model first")
        if not weight.requires_grad:
            continue
        if weight.ndim <= 1:
            if copied:
                direction[name] = weight.detach().clone()
            continue
        drawn = torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device)
        groups = transposed.get(id(weight))
        if groups is None:
            direction[name] = drawn * _scale(weight, drawn, tuple(range(1, weight.ndim)))
            continue
        # (in, out / groups, ...): an output channel is a slice of axis 1 within its group of axis 0
        apart = (groups, weight.shape[0] // groups, *weight.shape[1:])
        own, new = weight.reshape(apart), drawn.reshape(apart)
        direction[name] = (new * _scale(own, new, (1, *range(3, own.ndim)))).reshape(weight.shape)
    if not direction:
        raise ValueError(
            "module has no weights of two or more axes that are trained, so that no direction moves it; train some"
        )
    return direction


def _scale(weight: Tensor, drawn: Tensor, axes: tuple[int, ...]) -> Tensor:
    own, norm = (torch.linalg.vector_norm(t, dim=axes, keepdim=True) for t in (weight, drawn))
    return torch.div(own, norm + 1e-10)  # the floor of the paper's code
