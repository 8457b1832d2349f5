"""Samples drawn from a data set with seed 0: to hold out, or to measure on."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor


class Choosable(Protocol):
    """A data set of which some samples can be chosen."""

    def __len__(self) -> int: ...

    def split_off(self, size: int) -> tuple[Tensor, Tensor]:
        """Indices of the samples to keep and of those to hold out."""

    def only(self, indices: Tensor) -> Any:
        """The samples at ``indices``."""


C = TypeVar("C", bound=Choosable)


def drawn(samples: int) -> Tensor:
    """All indices, in an order that a smaller choice begins."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(0))


def split_for_training(samples: Choosable, validation_size: int, batch_size: int) -> tuple[Tensor, Tensor]:
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


def at_most(samples: C, size: int | None) -> C:
    """So many of the samples, in order; all where there are no more, or for none."""
    if size is None or size >= len(samples):
        return samples
    fewer: C = samples.only(drawn(len(samples))[:size].sort().values)
    return fewer
