"""Subsets of a data set that are the same whatever the seed of a run: to hold out, or to measure on."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor


class Subsettable(Protocol):
    """A data set that subsets can be taken of."""

    def __len__(self) -> int: ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    def split_off(self, size: int) -> tuple[Tensor, Tensor]:
        """Indices of the samples to keep and of those to hold out."""

    def subset(self: S, indices: Tensor) -> S:
        """The samples at ``indices``."""


S = TypeVar("S", bound=Subsettable)


def seeded_permutation(samples: int) -> Tensor:
    """All indices, shuffled with seed 0."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(0))


def split_for_training(samples: Subsettable, validation_size: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Indices of the samples to train on and of those held out.

    Raises:
        ValueError: If nothing is left to train on, or less than a batch.
    """
    if not 0 <= validation_size < len(samples):
        raise ValueError(f"validation_size must be from 0 to {len(samples) - 1}, got {validation_size}")
    kept, held_out = samples.split_off(validation_size)
    if not 1 <= batch_size <= len(kept):
        raise ValueError(f"batch_size must be from 1 to the {len(kept)} training samples, got {batch_size}")
    return kept, held_out


def at_most(samples: S, size: int | None) -> S:
    """A seeded subset of ``size`` samples, in order; all of them if there are no more or ``size`` is None."""
    if size is None or size >= len(samples):
        return samples
    return samples.subset(seeded_permutation(len(samples))[:size].sort().values)
