"""Read a stream of samples in shards, in this process or in workers, from any place in it."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data._utils import worker as worker_module

from ._seeding import seed_cpu
from .batch_plan import derived_seed
from .resumable import _same_random_numbers

_AT_A_TIME = 16  # samples that are read in one go: seeding, the source's state and a message of a worker cost once


_END = object()


@dataclass(frozen=True)
class Place:
    """Where the reading of a shard stands.

    Attributes:
        samples: Samples of the shard that are done.
        state: State of the source after some of them, if it has one.
        samples_then: Samples of the shard that were done at that state.
        read_then: Samples that the source had given by then, those of other shards too.
    """

    samples: int = 0
    state: Any = None
    samples_then: int = 0
    read_then: int = 0


@dataclass
class _Chunk:
    worker: int
    samples: list[Any]
    state: Any
    samples_before: int
    read_before: int


@dataclass(frozen=True)
class ShardedSource:
    """A source of samples, and how its shards are read.

    Attributes:
        source: A function of (epoch, shard, shards) that gives an iterable, or an iterable that each shard takes every
            so-many-th sample of.
        seed: Of the random numbers that a sample is made with.
    """

    source: Any
    seed: int

    def read(self, epoch: int, shard: int, shards: int, place: Place, worker: int) -> Iterator[_Chunk]:
        """The samples of a shard from a place on, some at a time."""
        of_shard = callable(self.source)
        with _same_random_numbers():
            seed_cpu(derived_seed(self.seed, f"{epoch} {shard} shard"))
            found = self.source(epoch, shard, shards) if of_shard else self.source
            if hasattr(found, "set_epoch"):
                found.set_epoch(epoch)
            stateful = found if hasattr(found, "state_dict") and hasattr(found, "load_state_dict") else None
            if stateful is not None and place.state is not None:
                stateful.load_state_dict(copy.deepcopy(place.state))
            else:
                place = Place(place.samples)
            samples = iter(found)
            if stateful is None:
                stateful = samples if hasattr(samples, "state_dict") and hasattr(samples, "load_state_dict") else None
                if stateful is not None and place.state is not None:
                    stateful.load_state_dict(copy.deepcopy(place.state))
        read, done, first, step = place.read_then, place.samples_then, *((0, 1) if of_shard else (shard, shards))
        ends = False
        while not ends:
            chunk = _Chunk(worker, [], None, done, read)
            with _same_random_numbers():  # and no yield inside: it would put them back when the reader is thrown away
                if stateful is not None:
                    chunk.state = copy.deepcopy(stateful.state_dict())
                while len(chunk.samples) < _AT_A_TIME and not ends:
                    number = read * shards + shard if of_shard else read
                    seed_cpu(derived_seed(self.seed, f"{epoch} {number} sample"))
                    sample = next(samples, _END)
                    ends = sample is _END
                    if not ends and read % step == first:
                        chunk.samples.append(sample)
                        done += 1
                    read += 1
            yield chunk


class _Workers(IterableDataset[Any]):
    """The shards of one process, one for each worker."""

    def __init__(self, source: ShardedSource, epoch: int, shards: list[int], of: int, places: list[Place]) -> None:
        self.source, self.epoch, self.shards, self.of, self.places = source, epoch, shards, of, places
        self.worker = 0

    def __iter__(self) -> Iterator[_Chunk]:
        info = get_worker_info()
        if info is not None:
            self.worker = info.id
            worker_module._worker_info = None  # a source that shares itself out by worker would be shared out twice
        worker = self.worker
        return self.source.read(self.epoch, self.shards[worker], self.of, self.places[worker], worker)


@dataclass
class _Hand:
    """What a worker has sent and is not yet dealt."""

    place: Place
    chunks: deque[_Chunk] = field(default_factory=deque)
    has_ended: bool = False


class Dealer:
    """The samples of one process in one order: one of each of its shards in turn, whatever the workers are quick at.

    Args:
        source: What is read.
        epoch: Of the source.
        processes: Processes that train together.
        rank: This one.
        places: Where each of its shards begins; their number is that of the workers, one without workers.
        num_workers: Workers that read.
        turn: The shard whose turn it is.
    """

    def __init__(
        self,
        source: ShardedSource,
        epoch: int,
        *,
        processes: int,
        rank: int,
        places: list[Place],
        num_workers: int,
        turn: int = 0,
    ) -> None:
        shards = [worker * processes + rank for worker in range(len(places))]
        workers = _Workers(source, epoch, shards, processes * len(places), places)
        self._chunks: Iterator[_Chunk] = iter(workers)
        if num_workers:
            loader: Iterable[_Chunk] = DataLoader(
                workers, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is, generator=torch.Generator()
            )
            self._chunks = iter(loader)
        self._hands = [_Hand(place) for place in places]
        self.turn = turn

    def take(self, samples: int) -> list[Any]:
        """So many samples, or what is left."""
        taken: list[Any] = []
        while len(taken) < samples and self.has_more():
            hand = self._hands[self.turn]
            chunk = hand.chunks[0]
            taken.append(chunk.samples[hand.place.samples - chunk.samples_before])
            hand.place = replace(
                hand.place,
                samples=hand.place.samples + 1,
                state=chunk.state,
                samples_then=chunk.samples_before,
                read_then=chunk.read_before,
            )
            self.turn = (self.turn + 1) % len(self._hands)
        return taken

    def has_more(self) -> bool:
        """Whether there is another sample; the turn then is with a shard that has one."""
        for _ in self._hands:
            if self._is_ready(self._hands[self.turn]):
                return True
            self.turn = (self.turn + 1) % len(self._hands)
        return False

    def places(self) -> list[Place]:
        """Where each shard stands."""
        return [hand.place for hand in self._hands]

    def _is_ready(self, hand: _Hand) -> bool:
        while True:
            while hand.chunks and hand.place.samples >= hand.chunks[0].samples_before + len(hand.chunks[0].samples):
                hand.chunks.popleft()
            if hand.chunks or hand.has_ended:
                return bool(hand.chunks)
            chunk = next(self._chunks, None)
            if chunk is None:
                for each in self._hands:
                    each.has_ended = True
            else:
                owner = self._hands[chunk.worker]
                owner.chunks.append(chunk)
                owner.has_ended = len(chunk.samples) < _AT_A_TIME


def _as_it_is(chunk: Any) -> Any:
    return chunk
