"""Serve any data set, with workers if wanted, and resume after a crash with the batch that would have come next."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from ..functional._validation import flag, function, indexed, refusal, whole_number
from ._planned_loader import PlannedLoader
from ._seeding import seed_cpu
from .batch_plan import BatchPlan


class ResumableLoader(PlannedLoader):
    """A `DataLoader` whose batches are a function of seed, epoch and position, and whose samples of seed and epoch.

    Stands in for a `DataLoader` in `Trainer.fit`, and in a plain loop. A run that is resumed from inside an
    epoch gets the batches that would have come, with any number of workers, and each process its share of every batch;
    see `BatchPlan`. A pass that is over leads on to the next epoch; one that is broken off begins again. Random
    transforms of the data set, in workers or not, draw from torch's, NumPy's and Python's global generators, which are
    seeded for each sample: what a sample looks like in an epoch is the same in every batch, on every process and after
    resuming. The collate function, and a data set that makes whole batches in `__getitems__`, find generators seeded
    once for the batch and process.

    Args:
        dataset: Samples by index, with a length.
        batch_size: Samples per batch and process; the last batch of an epoch may be smaller. May be set between epochs.
        shuffle: Whether each epoch has an order of its own, a pure function of ``seed`` and epoch.
        seed: Seed of the orders, of random transforms, and with ``reseed`` of dropout.
        drop_last: Leave out the samples that do not fill a batch.
        reseed: Seed torch's, NumPy's and Python's global generators before each batch is handed out. What the model
            then draws, dropout for instance, depends on seed, epoch, position and process alone, and a resumed run
            draws it again.
        num_workers: As in `DataLoader`.
        collate_fn: As in `DataLoader`.
        pin_memory: As in `DataLoader`.
        prefetch_factor: As in `DataLoader`.
        persistent_workers: As in `DataLoader`.

    Raises:
        ValueError: If the data set has no length or cannot be indexed, a count is not a whole number in its range, or
            there are no samples.

    Example:
        >>> loader = ResumableLoader(range(5), batch_size=2)
        >>> loader.seek(epoch=0, position=1)
        >>> [batch.tolist() for batch in loader]
        [[2, 3], [4]]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        reseed: bool = True,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
    ) -> None:
        if isinstance(dataset, IterableDataset):
            hint = "a stream cannot be read from its middle"
            raise ValueError(refusal("dataset", "must have a length and samples by index", dataset, hint))
        indexed("dataset", dataset, "a data set")
        super().__init__(dataset, batch_size=batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last, reseed=reseed)
        self.num_workers = whole_number("num_workers", num_workers, 0)
        self.collate_fn = default_collate if collate_fn is None else function("collate_fn", collate_fn, "(samples)")
        if prefetch_factor is not None:
            prefetch_factor = whole_number("prefetch_factor", prefetch_factor)
        self._requests = _Requests()
        self._workers = DataLoader(
            _SeededDataset(dataset, self.collate_fn),
            batch_sampler=self._requests,  # type: ignore[arg-type] # requests, for `_SeededDataset`
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            pin_memory=flag("pin_memory", pin_memory),
            prefetch_factor=prefetch_factor,
            persistent_workers=flag("persistent_workers", persistent_workers),
            generator=torch.Generator(),  # its own: making an iterator draws from it
        )

    def first_samples(self, samples: int) -> Any:
        indices = [i % len(self.dataset) for i in range(samples)]
        return self._workers.dataset.__getitems__((self.plan, 0, 0, indices))  # type: ignore[attr-defined] # in this process

    def _fetch(self, plan: BatchPlan, epoch: int, start: int) -> Iterator[Any]:
        self._requests.begin(plan, epoch, start)
        this_pass, batches = self._requests.passes, iter(self._workers)
        while True:
            if self._workers.persistent_workers and self._requests.passes != this_pass:
                raise RuntimeError(
                    "persistent_workers=True serves one pass at a time, and another has begun before this one was "
                    "over; end one before the other, or use persistent_workers=False"
                )
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch


Request = tuple[BatchPlan, int, int, list[int]]  # with epoch, position and the samples there


class _Requests:
    """The batches of the pass that began last, as workers are asked for them."""

    passes = 0

    def begin(self, plan: BatchPlan, epoch: int, start: int) -> None:
        self._now = plan, epoch, start
        self.passes += 1

    def __iter__(self) -> Iterator[Request]:
        return _requests(*self._now)  # at once: another pass may begin before this one is over

    def __len__(self) -> int:
        return len(self._now[0]) - self._now[2]


def _requests(plan: BatchPlan, epoch: int, start: int) -> Iterator[Request]:
    for position, batch in enumerate(plan.batches(epoch, start), start=start):
        yield plan, epoch, position, batch.tolist()


class _SeededDataset(Dataset[Any]):
    """Makes the batch of a request with generators seeded for it, and leaves the generators as they were."""

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.dataset = dataset
        self.collate = collate  # here, because it may draw random numbers too
        self.by_batch = _makes_batches(dataset)

    def __getitems__(self, request: Request) -> Any:
        plan, epoch, position, indices = request
        of_batch = plan.random_seed(epoch, position, "samples")
        with _same_random_numbers():
            if self.by_batch:
                seed_cpu(of_batch)
                return self.collate(self.dataset.__getitems__(indices))  # type: ignore[attr-defined]
            samples = []
            for index in indices:
                seed_cpu(plan.sample_seed(epoch, index))
                samples.append(self.dataset[index])
            seed_cpu(of_batch)
            return self.collate(samples)


def _makes_batches(dataset: Dataset[Any]) -> bool:
    """Whether `__getitems__` is more than samples one by one; a `Subset` has it whatever it is a subset of."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return callable(getattr(dataset, "__getitems__", None))


def _as_it_is(batch: Any) -> Any:
    """Stand in for a collate function: the batch is made."""
    return batch


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Put the CPU's generators back at the end; a transform in the main process must not disturb the training."""
    numpy = sys.modules.get("numpy")
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = numpy.random.get_state() if numpy is not None else None
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
