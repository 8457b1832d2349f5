"""What every loader over a batch plan does: count, resume where it stopped, share out, seed."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..functional._validation import flag
from ._seeding import seed_all
from .batch_plan import BatchPlan


class EpochClock:
    """The epoch that a loader serves next; Lightning calls `set_epoch` on the `sampler` of every loader."""

    def __init__(self) -> None:
        self.epoch = 0
        self.times_set = 0  # tells a choice from an epoch that came by itself

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to serve next."""
        self.epoch = epoch
        self.times_set += 1


@dataclass(frozen=True)
class _HandedOut:
    """The last batch that was handed out: of which batches, which one, and what `set_epoch` had said by then."""

    plan: BatchPlan
    epoch: int
    position: int
    times_set: int


class PlannedLoader:
    """Serve the batches of a `BatchPlan`, from where a checkpoint stopped, to each process its share.

    A pass that has handed out its last batch leads on to the next epoch; one that was broken off begins again, unless
    `set_epoch` chooses another, as Lightning does before every pass. ``batch_size`` may be set between epochs.
    `state_dict` counts the batches that were handed out, not those that workers have prepared.
    """

    batch_sampler = None  # Lightning reads it wherever there is a sampler
    augment: Any = None  # of loaders that vary their batches

    def __init__(
        self, dataset: Any, *, batch_size: int, shuffle: bool, seed: int, drop_last: bool, reseed: bool
    ) -> None:
        if len(dataset) == 0:
            raise ValueError("dataset is empty; there is nothing to load")
        plan = BatchPlan(len(dataset), batch_size, shuffle, seed, drop_last)  # refuses what cannot be planned
        self.dataset = dataset
        self.shuffle, self.seed, self.drop_last = plan.shuffle, plan.seed, plan.drop_last
        self.reseed = flag("reseed", reseed)
        self.sampler = EpochClock()
        self._batch_size = plan.batch_size
        self._later_sizes: Sequence[tuple[int, int]] = ()
        self._last: _HandedOut | None = None
        self._resume: tuple[int, int] | None = None  # epoch and position to resume from

    @property
    def batch_size(self) -> int:
        """Samples per batch and process."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int) -> None:
        self.plan_sizes(batch_size)

    def plan_sizes(self, batch_size: int, later_sizes: Sequence[tuple[int, int]] = ()) -> None:
        """Set the size of the batches of an epoch, and of those that come later in it; see `BatchPlan`."""
        plan = BatchPlan(len(self.dataset), batch_size, drop_last=self.drop_last, later_sizes=later_sizes)
        self._batch_size, self._later_sizes = plan.batch_size, plan.later_sizes

    @property
    def plan(self) -> BatchPlan:
        """The batches as this process sees them now."""
        processes, rank = _processes()
        samples, shares = len(self.dataset), (processes, rank)
        return BatchPlan(
            samples, self._batch_size, self.shuffle, self.seed, self.drop_last, *shares, later_sizes=self._later_sizes
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to serve next; Lightning does it by itself."""
        self.sampler.set_epoch(epoch)

    def seek(self, epoch: int, position: int) -> None:
        """Begin the next pass with this batch of this epoch, unless `set_epoch` chooses another epoch by then."""
        self.sampler.epoch = epoch
        self._resume, self._last = (epoch, position), None

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing happens before the first batch is asked for, because Lightning makes iterators that it
        # never uses, and sets the position only after it has made the one that it does use.
        plan, epoch = self.plan, self.sampler.epoch
        position, self._resume = self._start(plan), None
        if position == len(plan):  # resumed after the last batch: what is left of this epoch is nothing
            self.sampler.epoch += 1
            return
        handed_out = None
        for batch in self._fetch(plan, epoch, position):
            if self.reseed:
                seed_all(plan.random_seed(epoch, position, "model"))
            position += 1
            if position == len(plan) and self.sampler.epoch == epoch:
                self.sampler.epoch += 1
            self._last = handed_out = _HandedOut(plan, epoch, position, self.sampler.times_set)
            yield batch
        if self._last is handed_out:  # and no other pass has begun since
            self._last = None

    def _start(self, plan: BatchPlan) -> int:
        """Where a pass that begins now begins."""
        if self._resume is None or self._resume[0] != self.sampler.epoch:
            return 0
        return min(self._resume[1], len(plan))

    def state_dict(self) -> dict[str, Any]:
        """Plain values: the epoch, batches of it that were handed out, and of which batches, as they were then."""
        last = self._last
        if last is not None and last.times_set == self.sampler.times_set:
            return self._state(last.plan, last.epoch, last.position)
        plan = self.plan  # of the pass that comes next
        return self._state(plan, self.sampler.epoch, self._start(plan))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the last batch that was handed out, with the rest of its epoch.

        Raises:
            ValueError: If this loader would cut the rest of the epoch into other batches, or the state is of another.
        """
        own = self._state(self.plan, 0, 0)
        found = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        if not isinstance(state, Mapping) or not own.keys() - _SINCE <= state.keys() <= own.keys():
            raise ValueError(
                f"the checkpoint holds the state of another loader than {type(self).__name__}: {found} where "
                f"{sorted(own)} were expected; train with that one, or from a checkpoint of this"
            )
        position = state["position"]
        differing = [
            name
            for name in own
            if name not in _MAY_DIFFER and state.get(name, [] if name == "later_sizes" else own[name]) != own[name]
        ]
        if differing == ["later_sizes"] and position < len(self.plan):  # those to come may be others
            served = self.plan.samples_before(position)
            begun = [[pair for pair in sizes["later_sizes"] if pair[0] < served] for sizes in (state, own)]
            differing = [] if begun[0] == begun[1] else differing
        if position >= state["batches"]:
            position = sys.maxsize  # the end of the epoch, whatever its length is here
        elif position and differing:
            there, here = (
                ", ".join(f"{n}={state.get(n)}" for n in differing),
                ", ".join(f"{n}={own[n]}" for n in differing),
            )
            raise ValueError(
                f"the checkpoint was saved inside an epoch with {there}, this loader has {here}, so that the rest of "
                "the epoch would be another; use the same, or a checkpoint from the end of an epoch"
            )
        self.seek(state["epoch"], position)

    @abstractmethod
    def first_samples(self, samples: int) -> Any:
        """A batch of the first samples, not augmented; no random number is drawn from the training's."""

    @abstractmethod
    def _fetch(self, plan: BatchPlan, epoch: int, start: int) -> Iterator[Any]:
        """The batches from ``start`` on."""

    def _state(self, plan: BatchPlan, epoch: int, position: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "position": position,
            "batches": len(plan),
            "samples": plan.samples,
            "samples_per_batch": plan.samples_per_batch,
            "seed": plan.seed,
            "shuffle": plan.shuffle,
            "drop_last": plan.drop_last,
            "reseed": self.reseed,
            "augment": self.augment is not None,
            "later_sizes": [list(pair) for pair in plan.later_sizes],
        }


_SINCE = {"shuffle", "drop_last", "reseed", "augment", "later_sizes"}  # not in the states of version 0.1
_MAY_DIFFER = {"epoch", "position", "batches"}


def _processes() -> tuple[int, int]:
    """How many processes train together, and which one this is."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0
