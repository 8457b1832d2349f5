"""How much of its data a run has consumed, and what its schedule has said on the way: what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..functional.batch_size.schedule import EpochBatch
from ..functional.batch_size.units import Unit

_MOST_STAGES = 1000


class Consumed:
    """Steps, samples or tokens, counted at the end of each optimizer step.

    Attributes:
        amount: Units consumed before the present step.
        began_at: Units consumed before the present epoch.
        epoch: The present epoch, or the one that comes next.
        waiting: Units of this process in the step under way.
        micro_batches: Micro-batches of the step under way that are done.
    """

    def __init__(self) -> None:
        self.amount, self.began_at, self.epoch = 0, 0, -1
        self.waiting, self.micro_batches = 0.0, 0
        self._said: list[list[Any]] = []  # first and last amount, size and factor, of steps in a row treated alike

    def begin_epoch(self, epoch: int) -> None:
        """This epoch comes; asked again, nothing changes."""
        if epoch != self.epoch:
            self.epoch, self.began_at = epoch, self.amount
            self.waiting, self.micro_batches = 0.0, 0

    def add(self, amount: float) -> None:
        """A micro-batch is done."""
        self.waiting += amount
        self.micro_batches += 1

    def finish_step(self, amount: int, batch: EpochBatch) -> None:
        """A step is done that consumed so much over all processes."""
        said = [batch.batch_size, batch.learning_rate_factor]
        if self._said and self._said[-1][2:] == said:
            self._said[-1][1] = self.amount
        else:
            self._said.append([self.amount, self.amount, *said])
            if len(self._said) > _MOST_STAGES:  # a schedule of a new size in each step: every other is enough
                self._said[1:-1] = self._said[1:-1:2]
        self.amount += amount
        self.waiting, self.micro_batches = 0.0, 0

    def state_dict(self, unit: Unit) -> dict[str, Any]:
        """Plain values."""
        return {
            "unit": unit,
            "amount": self.amount,
            "began_at": self.began_at,
            "epoch": self.epoch,
            "waiting": self.waiting,
            "micro_batches": self.micro_batches,
            "said": [list(stage) for stage in self._said],
        }

    def load_state_dict(self, state: Mapping[str, Any], at: Callable[[int], EpochBatch], unit: Unit) -> None:
        """Continue from there.

        Raises:
            ValueError: If the schedule says something else of what was consumed than the one of the checkpoint.
        """
        self._said = [list(stage) for stage in state["said"]]
        for first, last, size, factor in self._said:
            for amount in (first, last):
                batch = at(amount)
                if (batch.batch_size, batch.learning_rate_factor) != (size, factor):
                    raise ValueError(
                        f"the checkpoint was trained with batches of {size} and a learning-rate factor of {factor} at "
                        f"{amount} {unit}, this run's schedule has {batch.batch_size} and "
                        f"{batch.learning_rate_factor}; resume with the same schedule, or begin a new run from the "
                        "weights alone"
                    )
        self.amount, self.began_at, self.epoch = state["amount"], state["began_at"], state["epoch"]
        self.waiting, self.micro_batches = state["waiting"], state["micro_batches"]
