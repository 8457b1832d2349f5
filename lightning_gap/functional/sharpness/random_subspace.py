"""A random subspace of the weights whose basis is never written out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._validation import real_number, seed_number, set_plain, whole_number

_ROWS_AT_A_TIME = 2**16


@dataclass(frozen=True)
class RandomSubspace:
    """Directions ``A`` of a random subspace, as plain numbers.

    ``A`` has one row for each weight and ``dimension`` columns. Each row holds a single entry of random sign, in a
    random column, the columns shared out equally; so the columns are orthogonal, and ``A y``, ``A^T g`` and ``A^+ x``
    cost one pass over the weights. Values of Metric 2.1 agree with those of a dense Gaussian matrix within the spread
    between draws.

    Args:
        dimension: Number of columns, p. The paper uses 100.
        seed: Seed of the draw.
        scale: Root mean square of the entries. The paper names no distribution; with 1 the values lie in the range of
            its Table 4, and with orthonormal columns, ``n ** -0.5``, the measure is numerically nothing.

    Raises:
        ValueError: If ``dimension`` is below 1 or ``scale`` is not positive.

    Reference:
        Keskar et al. (2017), Metric 2.1 and Table 4.

    Example:
        >>> from lightning_gap.functional import sharpness
        >>> weight = torch.ones(200, requires_grad=True)
        >>> found = sharpness(lambda: weight.square().mean(), [weight], subspace=RandomSubspace(10), method="corner")
        >>> found.subspace.dimension
        10
    """

    dimension: int = 100
    seed: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        set_plain(
            self,
            dimension=whole_number("dimension", self.dimension, hint="the paper: 100"),
            seed=seed_number("seed", self.seed),
            scale=real_number("scale", self.scale, above=0, hint="1 gives entries of unit variance"),
        )

    def check(self, weights: int) -> None:
        """Raise if the subspace is not smaller than the space of this many weights."""
        if self.dimension >= weights:
            raise ValueError(
                f"dimension={self.dimension} is not below the {weights} weights; use the full space, subspace=None"
            )


class SubspaceBasis:
    """`RandomSubspace` for given weights: one or two bytes a weight.

    Example:
        >>> basis = SubspaceBasis(RandomSubspace(2), [torch.zeros(3), torch.zeros(1)])
        >>> y = torch.tensor([1.0, 10.0])
        >>> offset = list(basis.expand(y))  # A y, in the weights' shapes
        >>> [round(float(c), 3) for c in basis.project(offset) / 4]  # A^T A = n for entries of unit variance
        [1.0, 10.0]
    """

    def __init__(self, subspace: RandomSubspace, weights: Sequence[Tensor]) -> None:
        p, n = subspace.dimension, sum(weight.numel() for weight in weights)
        subspace.check(n)
        generator = torch.Generator().manual_seed(subspace.seed)
        # Entry j + 1 or -(j + 1): column j with that sign. Each run of p rows holds every column once.
        kind = torch.int8 if p < 2**7 else torch.int16 if p < 2**15 else torch.int32
        codes = torch.empty(math.ceil(n / p), p, dtype=kind)
        for rows in torch.split(codes, max(1, _ROWS_AT_A_TIME // p)):
            order = torch.rand(rows.shape, generator=generator).argsort(dim=1) + 1
            rows.copy_(order * (2 * torch.randint(2, rows.shape, generator=generator) - 1))
        flat: Tensor = codes.flatten()[:n]
        self.dimension = p
        incomplete = flat[n // p * p :].abs().long() - 1  # in the last run; the others hold every column
        self._counts = n // p + torch.bincount(incomplete, minlength=p).double()
        self._entry = subspace.scale * math.sqrt(p)
        self._weights = list(weights)
        sizes = [weight.numel() for weight in weights]
        self._codes = [part.to(w.device) for part, w in zip(flat.split_with_sizes(sizes), weights, strict=True)]

    def expand(self, y: Tensor) -> Iterator[Tensor]:
        """``A y``, one tensor in the shape of each weight, for ``y`` of shape (p,)."""
        table = self._entry * torch.cat([-y.flip(0), y.new_zeros(1), y])
        for weight, codes in zip(self._weights, self._codes, strict=True):
            yield table.to(weight)[codes.int() + self.dimension].view_as(weight)

    def project(self, tensors: Sequence[Tensor]) -> Tensor:
        """``A^T g``, shape (p,), float64 on the CPU, for one tensor in the shape of each weight."""
        p = self.dimension
        sums = torch.zeros(2 * p + 1, dtype=torch.float64)
        for tensor, codes in zip(tensors, self._codes, strict=True):
            here = torch.zeros_like(sums, device=tensor.device)
            sums += here.index_add_(0, codes.int() + p, tensor.detach().flatten().double()).cpu()
        return self._entry * (sums[p + 1 :] - sums[:p].flip(0))

    def coordinates(self, tensors: Sequence[Tensor]) -> Tensor:
        """``A^+ x``, shape (p,), float64 on the CPU."""
        return self.project(tensors) / (self._counts * self._entry**2)
