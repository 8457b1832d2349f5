"""How many samples the batches of a loader hold: what the loader itself states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, default_collate, default_convert

from ..data._planned_loader import PlannedLoader
from ..data.batch_plan import BatchPlan
from ..data.stream import ResumableStream
from ._private import sampler_shared_out

_DEEPEST = 8  # samplers inside each other; more is a circle


@dataclass(frozen=True)
class StatedBatches:
    """What a loader states about the batches of one pass on this process.

    Attributes:
        size: Samples of a full batch.
        samples: Samples of the pass; ``None`` where the loader does not know.
        drop_last: Whether what does not fill a batch is left out.
        direct: Whether nothing stands between the sampler and the loop: no wrapper and no iteration of its own.
        plan: The plan of a `PlannedLoader`, which knows each batch.
        served: Samples of the batches that a `ResumableStream` has served last, by position.
    """

    size: int
    samples: int | None = None
    drop_last: bool = False
    direct: bool = True
    plan: BatchPlan | None = None
    served: Callable[[int], int | None] | None = None

    @property
    def batches(self) -> int | None:
        """Batches of the pass; ``None`` where the loader does not know."""
        if self.plan is not None or self.samples is None:
            return None if self.plan is None else len(self.plan)
        return self.samples // self.size if self.drop_last else math.ceil(self.samples / self.size)

    def last_if(self, size: int) -> int | None:
        """Least samples that a process would have in the last batch if full ones held ``size``, where it is known."""
        if self.plan is not None:
            plans = (replace(self.plan, batch_size=size, rank=rank) for rank in range(self.plan.processes))
            return min(plan.size(len(plan) - 1) for plan in plans)
        resized = replace(self, size=size)
        return None if resized.batches is None else resized.at(resized.batches - 1)

    def at(self, position: int) -> int | None:
        """Samples of the batch at this position of the pass; ``None`` where the loader does not know."""
        if self.plan is not None:
            return self.plan.size(position) if 0 <= position < len(self.plan) else None
        if self.served is not None:
            return self.served(position)
        if self.samples is None:
            return None
        full, rest = divmod(self.samples, self.size)
        if rest == 0 or self.drop_last:
            return self.size
        return None if position > full else self.size if position < full else rest


def stated_batches(loader: Any) -> StatedBatches | None:
    """What a loader states about its batches; ``None`` where it states nothing.

    A `PlannedLoader` does, and a `DataLoader` with torch's own `BatchSampler`, also as ``sampler`` beside
    ``batch_size=None``, inside samplers that wrap it, and inside a loader that wraps the `DataLoader`. Another batch
    sampler may give batches of any size, and a loader of ready batches knows nothing of what is in them.
    """
    if gives_ready_batches(loader):
        return None
    if isinstance(loader, PlannedLoader):
        plan = loader.plan
        return StatedBatches(loader.batch_size, plan.samples // plan.processes, loader.drop_last, plan=plan)
    if isinstance(loader, ResumableStream):
        return StatedBatches(loader.batch_size, drop_last=loader.drop_last, served=loader.size)
    *outer, found = samplers_of(loader)
    if type(found) is not BatchSampler:
        inner = wrapped_loader(loader)
        stated = None if inner is None else stated_batches(inner)
        return None if stated is None else replace(stated, direct=False)
    own_iteration = isinstance(loader, DataLoader) and type(loader).__iter__ is not DataLoader.__iter__
    direct = not outer and not own_iteration
    stream = isinstance(getattr(loader, "dataset", None), IterableDataset)
    samples = None if stream else length(found.sampler)
    shares = next((sampler for sampler in outer if sampler_shared_out(sampler) is not None), None)
    if shares is not None and samples is not None:  # whole batches are shared out, the smaller one at any place
        equal = found.drop_last or samples % found.batch_size == 0
        samples = len(shares) * found.batch_size if equal else None
    return StatedBatches(found.batch_size, samples, found.drop_last, direct)


def gives_ready_batches(loader: Any) -> bool:
    """Whether what the loader takes for a sample may be a whole batch: one at a time, and a collate function's own."""
    collate = getattr(loader, "collate_fn", None)
    sizes = {getattr(loader, "batch_size", None), *(getattr(s, "batch_size", None) for s in samplers_of(loader))}
    return collate not in (None, default_collate, default_convert) and 1 in sizes and sizes <= {1, None}


def nominal_size(loader: Any) -> int | None:
    """The batch size that a loader was made with, however few samples it has; ``None`` where it does not say."""
    if gives_ready_batches(loader):
        return None
    stated = stated_batches(loader)
    sizes = (getattr(source, "batch_size", None) for source in (*samplers_of(loader), loader))
    whole = (size for size in sizes if isinstance(size, int) and not isinstance(size, bool))
    return next(whole, None) if stated is None else stated.size


def wrapped_loader(loader: Any) -> Any:
    """The `DataLoader` that another kind of loader takes its batches from, to bring them to a device for instance."""
    if isinstance(loader, DataLoader) or getattr(loader, "batch_sampler", None) is not None:
        return None
    inner = (getattr(loader, name, None) for name in ("loader", "dataloader", "dl"))
    return next((found for found in inner if isinstance(found, DataLoader | PlannedLoader)), None)


def batch_sampler_of(loader: Any) -> Any:
    """What gives the indices of whole batches: the batch sampler, or a sampler in its place; ``None`` without one."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    if batch_sampler is not None:
        return batch_sampler
    ready = isinstance(loader, DataLoader) and loader.batch_size is None
    return loader.sampler if ready and any(isinstance(s, BatchSampler) for s in samplers_of(loader)) else None


def samplers_of(loader: Any) -> Iterator[Any]:
    """The loader's batch sampler, or what stands in its place, and what it wraps, up to a `BatchSampler`."""
    sampler = getattr(loader, "batch_sampler", None)
    if sampler is None:
        sampler = getattr(loader, "sampler", None)
    for _ in range(_DEEPEST):
        yield sampler
        if sampler is None or isinstance(sampler, BatchSampler):
            return
        inner = sampler_shared_out(sampler)
        inner = inner if isinstance(inner, BatchSampler) else None
        for name in ("batch_sampler", "sampler"):
            inner = getattr(sampler, name, None) if inner is None else inner
        if inner is None:
            return
        sampler = inner


def length(sampler: Any) -> int | None:
    """How many samples a sampler draws; ``None`` where it does not say."""
    try:
        return len(sampler) if isinstance(sampler, Sized) else None
    except (TypeError, NotImplementedError):
        return None
