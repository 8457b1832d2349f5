"""What every loader over a batch plan does: count, go on where it stopped, share out, seed."""

from __future__ import annotations

import random
import sys
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch

from .batch_plan import BatchPlan


class EpochClock:
    """The epoch that a loader serves; Lightning calls `set_epoch` on the `sampler` of every loader."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to serve next."""
        self.epoch = epoch


class PlannedLoader:
    """Serve the batches of a `BatchPlan`, from where a checkpoint stopped, to each process its share.

    ``batch_size`` may be set between epochs. `state_dict` counts the batches that were handed out, not those that
    workers have prepared.
    """

    batch_sampler = None  # Lightning reads it wherever there is a sampler

    def __init__(
        self, dataset: Any, *, batch_size: int, shuffle: bool, seed: int, drop_last: bool, reseed: bool
    ) -> None:
        self.dataset = dataset
        self.shuffle, self.seed, self.drop_last, self.reseed = shuffle, seed, drop_last, reseed
        self.sampler = EpochClock()
        self._batch_size = batch_size
        self._served = 0  # batches of this epoch handed out so far
        self._pass = BatchPlan(len(dataset), batch_size, shuffle, seed, drop_last)  # that is or was served
        self._resume: tuple[int, int] | None = None  # epoch and position to go on from

    @property
    def batch_size(self) -> int:
        """Samples per batch and process."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int) -> None:
        BatchPlan(len(self.dataset), batch_size, drop_last=self.drop_last)
        self._batch_size = batch_size

    @property
    def plan(self) -> BatchPlan:
        """The batches as this process sees them now."""
        processes, rank = _processes()
        return BatchPlan(len(self.dataset), self._batch_size, self.shuffle, self.seed, self.drop_last, processes, rank)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to serve next; Lightning does it by itself."""
        self.sampler.set_epoch(epoch)

    def seek(self, epoch: int, position: int) -> None:
        """Begin the next pass, if it is over this epoch, at this batch."""
        self._resume = epoch, position
        self._served = position

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing happens before the first batch is asked for, because Lightning makes iterators that it
        # never uses, and sets the position only after it has made the one that it does use.
        plan, epoch = self.plan, self.sampler.epoch
        resume, self._resume = self._resume, None
        start = resume[1] if resume is not None and resume[0] == epoch else 0
        self._served, self._pass = start, plan
        for batch in self._fetch(plan, epoch, start):
            if self.reseed:
                _seed_all(plan.random_seed(epoch, self._served, "model"))
            self._served += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Plain numbers: where this pass is, and of which batches, whatever the batch size has become since."""
        return _state(self._pass, self.sampler.epoch, self._served)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the last batch that was handed out.

        Raises:
            ValueError: If this loader would cut the rest of the epoch into other batches, or the state is of another.
        """
        own = _state(self.plan, 0, 0)
        if state.keys() != own.keys():
            raise ValueError(
                f"the checkpoint holds the state of another loader than {type(self).__name__}: {sorted(state)} where "
                f"{sorted(own)} were expected; train with that one, or from a checkpoint of this"
            )
        if not 0 < state["position"] < state["batches"]:
            return  # between two epochs
        for name in ("samples", "samples_per_batch", "seed"):
            if state[name] != own[name]:
                raise ValueError(
                    f"the checkpoint was saved inside an epoch with {name}={state[name]}, this loader has "
                    f"{name}={own[name]}, so that its batches are others; use the same, or a checkpoint from the end "
                    "of an epoch"
                )
        self.seek(state["epoch"], state["position"])

    @abstractmethod
    def _fetch(self, plan: BatchPlan, epoch: int, start: int) -> Iterator[Any]:
        """The batches from ``start`` on."""


def _state(plan: BatchPlan, epoch: int, position: int) -> dict[str, int]:
    return {
        "epoch": epoch,
        "position": position,
        "batches": len(plan),
        "samples": plan.samples,
        "samples_per_batch": plan.samples_per_batch,
        "seed": plan.seed,
    }


def seed_cpu(seed: int) -> None:
    """Seed torch's generator of the CPU, Python's and, where it is in use, NumPy's."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)


def _seed_all(seed: int) -> None:
    """Seed the CPU's generators and those of the devices that are in use.

    `torch.manual_seed` would note the call down, with a stack trace, for each kind of device that is not.
    """
    seed_cpu(seed)
    for kind in (torch.cuda, torch.xpu):
        if kind.is_initialized():
            kind.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def _processes() -> tuple[int, int]:
    """How many processes train together, and which one this is."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0
