"""Let a window of accumulated micro-batches begin at any batch of an epoch."""

from __future__ import annotations

from typing import Any, SupportsInt

from lightning.pytorch import Trainer


class _Windows(int):
    """A number of micro-batches per step whose windows are counted from a batch inside the epoch.

    Lightning clears the gradients where ``batch_idx % accumulate_grad_batches`` is 0 and steps where the batches done
    are divisible by it: from another batch on than a multiple of the new number, a change would throw gradients away
    or step too soon. Both are remainders, which are taken here from the first batch with this number on.
    """

    first: int

    def __new__(cls, accumulate: int, first: int) -> _Windows:
        windows = super().__new__(cls, accumulate)
        windows.first = first
        return windows

    def __rmod__(self, batches: SupportsInt) -> int:
        return (int(batches) - self.first) % int(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Windows, (int(self), self.first)


def accumulate_from(trainer: Trainer, batch: int, accumulate: int) -> None:
    """Let each step have so many micro-batches, the first of which is the batch of this number in the epoch."""
    trainer.accumulate_grad_batches = accumulate if batch % accumulate == 0 else _Windows(accumulate, batch)
