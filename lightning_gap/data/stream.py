"""Serve a stream without length in batches of any size, and resume with the batch that would come next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch.utils.data import default_collate

from ..functional._validation import flag, function, refusal, seed_number, whole_number
from . import _planned_loader
from ._planned_loader import EpochClock
from ._seeding import seed_all, seed_cpu
from ._shards import Dealer, Place, ShardedSource
from ._stream_processes import agree
from .batch_plan import derived_seed
from .resumable import _same_random_numbers

Sizes = Callable[[int], int]
"""Samples per batch and process after so many samples of the epoch, over all processes."""
_KEPT = 3  # batches whose place is known: Lightning fetches one ahead of the one that trains


@dataclass
class _Mark:
    """The place after some batches of an epoch."""

    position: int
    samples: int  # of the epoch so far, over all processes
    size: int  # of the last of these batches, on this process
    turn: int
    places: list[Place]
    ends: bool = False


class ResumableStream:
    """Batches from an iterable or sharded source whose length nobody knows, resumable from every batch.

    Stands in for a `DataLoader` in `Trainer.fit`, and in a plain loop. Each sample comes once per epoch, over all
    processes and workers; batches have the size that is asked for, which may change with every batch, and only the
    last of an epoch is smaller. Samples are read in workers and put together in the main process. What a sample looks
    like is a function of seed, epoch and its place in the source: the global generators are seeded for each.

    A run that is resumed inside an epoch continues by the state of the source, where that has `state_dict` and
    `load_state_dict`; else the samples that were served are read again and skipped. It needs as many processes and
    workers as before. In a Trainer, which fetches one batch ahead, one of the callbacks of this package must be there:
    `ResumeExactly`, or one that sets or scales by the batch size.

    All processes have equally many batches: an epoch ends for all with the last batch of the first process that has no
    more samples. One sample that another still has joins that batch; more than one are left out, with a warning.

    Args:
        source: A function of (epoch, shard, shards) that returns an iterable of that shard's samples; there is one
            shard for each worker of each process. Or an iterable, an `IterableDataset` for instance, that gives all
            samples each time: every process and worker reads it and keeps its turn. One that shares itself out by
            worker sees none here, and is read whole; by process it must not share itself out.
        batch_size: Samples per batch and process. May be set between epochs.
        seed: Seed of random transforms, and with ``reseed`` of dropout.
        drop_last: Leave out a last batch that is not full on every process.
        reseed: Seed torch's, NumPy's and Python's global generators before each batch, as `ResumableLoader` does.
        num_workers: Worker processes that read.
        collate_fn: As in `DataLoader`; called in the main process.

    Raises:
        ValueError: If the source is neither, or an iterator that can be read once only, or a count is out of range.

    Example:
        >>> stream = ResumableStream(range(7), batch_size=2)
        >>> stream.plan_sizes(2, ((2, 3),))
        >>> [batch.tolist() for batch in stream]
        [[0, 1], [2, 3, 4], [5, 6]]
    """

    batch_sampler = None  # Lightning reads it wherever there is a sampler

    def __init__(
        self,
        source: Callable[[int, int, int], Iterable[Any]] | Iterable[Any],
        *,
        batch_size: int,
        seed: int = 0,
        drop_last: bool = False,
        reseed: bool = True,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        has_samples = hasattr(source, "__iter__") or hasattr(source, "__getitem__")
        readable = has_samples and getattr(source, "ndim", None) != 0
        if isinstance(source, str | bytes | Mapping | Set | type) or not (callable(source) or readable):
            raise ValueError(refusal("source", "must be an iterable or a function of (epoch, shard, shards)", source))
        if isinstance(source, Iterator):
            hint = "pass a function that makes one"
            raise ValueError(refusal("source", "must be readable in every epoch, not an iterator", source, hint))
        self.seed = seed_number("seed", seed)
        self.drop_last, self.reseed = flag("drop_last", drop_last), flag("reseed", reseed)
        self.num_workers = whole_number("num_workers", num_workers, 0)
        self.collate_fn = default_collate if collate_fn is None else function("collate_fn", collate_fn, "(samples)")
        self._source = ShardedSource(source, self.seed)
        self.sampler = EpochClock()
        self.plan_sizes(whole_number("batch_size", batch_size, unit="samples"))
        self._marks: deque[_Mark] = deque(maxlen=_KEPT)
        self._marks_of = 0  # the epoch
        self._resume: tuple[int, _Mark] | None = None

    @property
    def batch_size(self) -> int:
        """Samples per batch and process, at the beginning of an epoch."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int) -> None:
        self.plan_sizes(whole_number("batch_size", batch_size, unit="samples"))

    def plan_sizes(self, batch_size: int, later_sizes: Sequence[tuple[int, int]] = ()) -> None:
        """Set the size of the batches of an epoch, and of those that come later in it; see `BatchPlan`."""
        sizes = [(0, batch_size), *later_sizes]
        self.follow(batch_size, lambda: lambda before: [size for begin, size in sizes if begin <= before][-1])

    def follow(self, batch_size: int, make_sizes: Callable[[], Sizes]) -> None:
        """Ask before each batch how large it is to be.

        Args:
            batch_size: Samples per batch and process at the beginning of an epoch.
            make_sizes: Called when a pass begins; what it returns is called with the samples of the epoch so far, over
                all processes, in rising order, and gives the samples of the next batch on each process.
        """
        self._batch_size, self._make_sizes = batch_size, make_sizes

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to serve next; Lightning does it by itself."""
        self.sampler.set_epoch(epoch)

    def seek(self, epoch: int, position: int) -> None:
        """Begin the next pass with this batch of this epoch: one of those last served, or of the state last loaded.

        Raises:
            ValueError: If the place of that batch is not known.
        """
        mark = next((mark for mark in self._marks if (self._marks_of, mark.position) == (epoch, position)), None)
        if mark is None and position == 0:
            self.sampler.epoch, self._resume = epoch, None
        elif mark is None:
            known = [f"batch {mark.position} of epoch {self._marks_of}" for mark in self._marks]
            raise ValueError(
                f"cannot begin with batch {position} of epoch {epoch}: only the places of {known} are known; load the "
                "state of a checkpoint that was saved there"
            )
        else:
            self.sampler.epoch, self._resume = epoch, (epoch, mark)

    def samples_before(self, position: int) -> int:
        """Samples of the epoch before one of the batches last served, over all processes."""
        return self._mark(position).samples

    def size(self, position: int) -> int | None:
        """Samples of this process in one of the batches last served; ``None`` for others."""
        return next((mark.size for mark in self._marks if mark.position == position + 1), None)

    def first_samples(self, samples: int) -> Any:
        """A batch of the first samples; no random number is drawn from the training's.

        Raises:
            ValueError: If the source has no sample.
        """
        dealer = Dealer(self._source, self.sampler.epoch, processes=1, rank=0, places=[Place()], num_workers=0)
        found = dealer.take(samples)
        if not found:
            raise ValueError("source is empty; there is nothing to load")
        with _same_random_numbers():
            return self.collate_fn([found[i % len(found)] for i in range(samples)])

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing happens before the first batch is asked for; see `PlannedLoader`.
        processes, rank = _planned_loader._processes()
        epoch, shards = self.sampler.epoch, max(1, self.num_workers)
        begin = _Mark(0, 0, 0, 0, [Place()] * shards)
        if self._resume is not None and self._resume[0] == epoch:
            begin = self._resume[1]
        self._resume, self._marks_of = None, epoch
        marks = self._marks = deque([begin], maxlen=_KEPT)
        if begin.ends:  # resumed after the last batch: what is left of this epoch is nothing
            self._end(epoch)
            return
        dealer = Dealer(
            self._source,
            epoch,
            processes=processes,
            rank=rank,
            places=begin.places,
            num_workers=self.num_workers,
            turn=begin.turn,
        )
        position, before, sizes = begin.position, begin.samples, self._make_sizes()
        is_last = False
        while not is_last:
            size = sizes(before)
            samples = dealer.take(size)
            counts, is_last = agree(dealer, samples, size, epoch, drop_last=self.drop_last)
            before += sum(counts)
            if counts:
                position += 1
                marks.append(_Mark(position, before, len(samples), dealer.turn, dealer.places(), is_last))
                yield self._made(samples, epoch, position - 1, rank)
        marks[-1].ends = True
        if self.reseed:  # in a Trainer the last batch trains after the next was asked for, as every other
            seed_all(derived_seed(self.seed, f"{epoch} {position} {rank} model"))
        self._end(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Plain values: the epoch, and the places after the batches last served.

        On several processes all call it, as Lightning does: each has its own places in a source with a state.
        """
        processes, _ = _planned_loader._processes()
        marks: list[Any] = [astuple(mark) for mark in self._marks]
        everyone = [marks] * processes
        if processes > 1:
            torch.distributed.all_gather_object(everyone, marks)
        return {
            "epoch": self._marks_of,
            "marks": [_plain(own) for own in everyone],
            "seed": self.seed,
            "drop_last": self.drop_last,
            "reseed": self.reseed,
            "processes": processes,
            "num_workers": self.num_workers,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the last batch that was served, or after one before it, by `seek`.

        Raises:
            ValueError: If the rest of the epoch would be another here, or the state is that of another loader.
        """
        processes, rank = _planned_loader._processes()
        own = {name: getattr(self, name) for name in ("seed", "drop_last", "reseed", "num_workers")}
        own["processes"] = processes
        if not isinstance(state, Mapping) or state.keys() != {"epoch", "marks", *own}:
            raise ValueError(
                f"the checkpoint holds the state of another loader than {type(self).__name__}; train with that one, or "
                "from a checkpoint of this"
            )
        marks = state["marks"][rank] if rank < len(state["marks"]) else []
        is_inside = bool(marks) and marks[-1][0] > 0 and not marks[-1][5]
        differing = [name for name in own if own[name] != state[name]]
        if is_inside and differing:
            there, here = ", ".join(f"{n}={state[n]}" for n in differing), ", ".join(f"{n}={own[n]}" for n in differing)
            raise ValueError(
                f"the checkpoint was saved inside an epoch with {there}, this loader has {here}, so that the rest of "
                "the epoch would be another; use the same, or a checkpoint from the end of an epoch"
            )
        self._marks_of = state["epoch"]
        found = [
            _Mark(position, samples, size, turn, [Place(*place) for place in places], ends)
            for position, samples, size, turn, places, ends in marks
        ]
        self._marks = deque(found, maxlen=_KEPT)
        self.seek(self._marks_of, found[-1].position if found else 0)

    def _end(self, epoch: int) -> None:
        if self.sampler.epoch == epoch:
            self.sampler.epoch += 1

    def _mark(self, position: int) -> _Mark:
        return next(mark for mark in self._marks if mark.position == position)

    def _made(self, samples: list[Any], epoch: int, position: int, rank: int) -> Any:
        with _same_random_numbers():
            seed_cpu(derived_seed(self.seed, f"{epoch} {position} {rank} samples"))
            batch = self.collate_fn(samples)
        if self.reseed:
            seed_all(derived_seed(self.seed, f"{epoch} {position} {rank} model"))
        return batch


def _plain(value: Any) -> Any:
    """Data classes and tuples as lists, for a checkpoint."""
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
