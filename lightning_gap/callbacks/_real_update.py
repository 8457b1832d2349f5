"""The update that a step of the run makes, and the batches that it is made for."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..functional._uninterrupted import uninterrupted_exit
from ._step_loss import KeptBatch


class RealUpdate:
    """One optimizer step from its first micro-batch on: what the weights were before it, and copies of its batches.

    Copies, since a `training_step` may write to its batch, and a loader may use its memory again.

    Args:
        weights: Those that the step will change.
        most: Most micro-batches to keep, the first ones; ``None`` for all.
    """

    def __init__(self, weights: Mapping[str, Tensor], most: int | None) -> None:
        self.batches: list[KeptBatch] = []
        self._weights, self._most = weights, most
        self._before = [weight.detach().clone() for weight in weights.values()]

    def see(self, batch: Any, index: int) -> None:
        """A micro-batch of the step comes."""
        if self._most is None or len(self.batches) < self._most:
            self.batches.append(KeptBatch(copy.deepcopy(batch), index))

    @uninterrupted_exit
    def undone(self) -> Iterator[tuple[Mapping[str, Tensor], list[Tensor]]]:
        """Put the weights back to before the step inside the block, once; give them and what the step subtracted."""
        weights, before = list(self._weights.values()), self._before
        after = [weight.detach().clone() for weight in weights]
        try:
            with torch.no_grad():
                for weight, old in zip(weights, before, strict=True):
                    weight.copy_(old)
                for old, new in zip(before, after, strict=True):  # in place: weights may be all the memory there is
                    old.sub_(new)
            yield self._weights, before
        finally:
            with torch.no_grad():
                for weight, new in zip(weights, after, strict=True):
                    weight.copy_(new)
