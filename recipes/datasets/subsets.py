"""Subsets of a data set that are the same whatever the seed of a run: to hold out, or to measure on."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

S = TypeVar("S", bound="Subsettable")


class Subsettable(Dataset[Any]):
    """Samples by index, and subsets of them that share what is held.

    Args:
        targets: Class of each sample that is held, shape (N,) int64.
    """

    def __init__(self, targets: Tensor) -> None:
        self._targets = targets
        self._indices: Tensor | None = None  # of the samples that are held, those that this data set has

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @property
    def targets(self) -> Tensor:
        """Class of each sample, shape (N,)."""
        return self._targets if self._indices is None else self._targets[self._indices]

    def __len__(self) -> int:
        return len(self._targets) if self._indices is None else len(self._indices)

    def split_off(self, size: int) -> tuple[Tensor, Tensor]:
        """Indices of the samples that are kept, in order, and of ``size`` that are held out, drawn with seed 0."""
        order = seeded_permutation(len(self))
        return order[size:].sort().values, order[:size]

    def subset(self: S, indices: Tensor) -> S:
        """The samples at ``indices``."""
        fewer = copy.copy(self)
        fewer._indices = self._held(indices.to(self._targets.device))
        return fewer

    def _held(self, indices: Tensor) -> Tensor:
        """Where the samples at ``indices`` are in what is held."""
        return indices if self._indices is None else self._indices[indices]


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
