"""How many samples the batches of a train loader hold: what the loader states, for every callback alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, TensorDataset, default_collate, default_convert

from .data._planned_loader import PlannedLoader
from .data.batch_plan import BatchPlan
from .data.in_memory import InMemoryLoader
from .data.resumable import _makes_batches
from .functional._sample_count import guess_samples

_DEEPEST = 8  # samplers inside each other; more is a circle
_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


@dataclass(frozen=True)
class StatedBatches:
    """What a loader states about the batches of one pass on this process.

    Attributes:
        size: Samples of a full batch.
        samples: Samples of the pass; ``None`` where the loader does not know.
        drop_last: Whether what does not fill a batch is left out.
        direct: Whether nothing stands between the sampler and the loop: no wrapper and no iteration of its own.
        plan: The plan of a `PlannedLoader`, which knows each batch.
    """

    size: int
    samples: int | None = None
    drop_last: bool = False
    direct: bool = True
    plan: BatchPlan | None = None

    def at(self, position: int) -> int | None:
        """Samples of the batch at this position of the pass; ``None`` where the loader does not know."""
        if self.plan is not None:
            return self.plan.size(position) if 0 <= position < len(self.plan) else None
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
    *outer, found = samplers_of(loader)
    if type(found) is not BatchSampler:
        inner = wrapped_loader(loader)
        stated = None if inner is None else stated_batches(inner)
        return None if stated is None else replace(stated, direct=False)
    own_iteration = isinstance(loader, DataLoader) and type(loader).__iter__ is not DataLoader.__iter__
    direct = not outer and not own_iteration
    stream = isinstance(getattr(loader, "dataset", None), IterableDataset)
    samples = None if stream else _length(found.sampler)
    shares = next((sampler for sampler in outer if _wrapped_for_processes(sampler) is not None), None)
    if shares is not None and samples is not None:  # whole batches are shared out, the smaller one at any place
        equal = found.drop_last or samples % found.batch_size == 0
        samples = len(shares) * found.batch_size if equal else None
    return StatedBatches(found.batch_size, samples, found.drop_last, direct)


def gives_ready_batches(loader: Any) -> bool:
    """Whether what the loader takes for a sample may be a whole batch: one at a time, and a collate function's own."""
    collate = getattr(loader, "collate_fn", None)
    sizes = {getattr(loader, "batch_size", None), *(getattr(s, "batch_size", None) for s in samplers_of(loader))}
    return collate not in (None, default_collate, default_convert) and 1 in sizes and sizes <= {1, None}


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
        inner = _wrapped_for_processes(sampler)
        inner = inner if isinstance(inner, BatchSampler) else None
        for name in ("batch_sampler", "sampler"):
            inner = getattr(sampler, name, None) if inner is None else inner
        if inner is None:
            return
        sampler = inner


def changes_batches(trainer: Trainer) -> bool:
    """Whether a collate function, a data set or a hook of the user's stands between the sampler and the step."""
    loader: Any = trainer.train_dataloader
    owners = (trainer.lightning_module, trainer.datamodule)  # type: ignore[attr-defined]
    if any(_overrides(owner, hook) for owner in owners for hook in _TRANSFER_HOOKS):
        return True
    if isinstance(loader, InMemoryLoader):
        return type(loader.dataset) is not TensorDataset
    dataset: Any = getattr(loader, "dataset", None)
    return getattr(loader, "collate_fn", None) is not default_collate or _makes_batches(dataset)


def micro_batch_size(trainer: Trainer) -> int | None:
    """Samples per batch and process of the train loader, or ``None`` where the loader does not say."""
    loader = trainer.train_dataloader
    if isinstance(loader, PlannedLoader) and not gives_ready_batches(loader):
        plan = loader.plan  # of the largest share: a small data set may leave smaller ones
        return math.ceil(min(plan.samples, plan.samples_per_batch) / plan.processes)
    size, samples = nominal_size(loader), samples_per_process(trainer)
    return size if size is None or samples is None else min(size, samples)  # a small data set makes one smaller batch


def nominal_size(loader: Any) -> int | None:
    """The batch size that a loader was made with, however few samples it has; ``None`` where it does not say."""
    if gives_ready_batches(loader):
        return None
    stated = stated_batches(loader)
    sizes = (getattr(source, "batch_size", None) for source in (*samplers_of(loader), loader))
    whole = (size for size in sizes if isinstance(size, int) and not isinstance(size, bool))
    return next(whole, None) if stated is None else stated.size


def stated_micro_batch_size(trainer: Trainer) -> int | None:
    """Samples per batch and process where the train loader is certain of them; an argument cannot say otherwise.

    A `DataLoader` of ready batches, ``batch_size=1`` with something that takes the one out, is not.
    """
    stated = stated_batches(trainer.train_dataloader)
    ready = stated is not None and stated.size == 1 and changes_batches(trainer)
    return None if stated is None or ready else micro_batch_size(trainer)


def last_micro_batch_size(trainer: Trainer) -> int | None:
    """Samples of the last batch of an epoch on one process; ``None`` where only the batches themselves would tell."""
    loader = trainer.train_dataloader
    if gives_ready_batches(loader):
        return None
    if isinstance(loader, PlannedLoader):
        return loader.plan.size(min(len(loader), int(trainer.num_training_batches)) - 1)
    stated = stated_batches(loader)
    if stated is None or stated.samples is None:
        return None
    batches = stated.samples / stated.size
    batches = math.floor(batches) if stated.drop_last else math.ceil(batches)
    steps_end_sooner = 0 <= trainer.max_steps * trainer.accumulate_grad_batches < batches
    if stated.drop_last or trainer.num_training_batches < batches or steps_end_sooner:
        return min(stated.size, stated.samples)
    return stated.samples % stated.size or stated.size


def samples_of_last_batch(trainer: Trainer, micro_batch_size: int) -> int | None:
    """Least samples that a process has in the last batch of a whole epoch with this batch size, if it is known."""
    loader = trainer.train_dataloader
    if gives_ready_batches(loader):
        return None
    if isinstance(loader, PlannedLoader):
        total, processes = len(loader.dataset), loader.plan.processes
        plans = (
            BatchPlan(total, micro_batch_size, drop_last=loader.drop_last, processes=processes, rank=rank)
            for rank in range(processes)
        )
        return min(plan.size(len(plan) - 1) for plan in plans)
    samples = samples_per_process(trainer)
    if samples is None or stated_batches(loader) is None:
        return None
    rest = samples % micro_batch_size
    return micro_batch_size if rest == 0 or drops_last_batch(trainer) else rest


def samples_in(batch: Any) -> int | None:
    """Samples in a batch as far as it tells by itself; ``None`` where it could be another number."""
    return guess_samples(batch)


def samples_per_process(trainer: Trainer) -> int | None:
    """Samples of an epoch on one process, or ``None`` where the loader does not say."""
    loader = trainer.train_dataloader
    if gives_ready_batches(loader):
        return None  # the number of ready batches is no number of samples
    if isinstance(loader, PlannedLoader):
        return len(loader.dataset) // trainer.world_size
    stated = stated_batches(loader)
    if stated is not None:
        return stated.samples
    *_, innermost = samplers_of(loader)
    ready = isinstance(loader, DataLoader) and loader.batch_size is None and loader.batch_sampler is None
    if ready and not isinstance(innermost, BatchSampler):
        return None  # the number of ready batches is no number of samples
    if isinstance(innermost, BatchSampler):
        return _length(innermost.sampler)
    alone = innermost is getattr(loader, "batch_sampler", None)  # a batch sampler of its own, which wraps none
    return _length(getattr(loader, "sampler", None) if alone else innermost)


def drops_last_batch(trainer: Trainer) -> bool:
    """Whether the train loader leaves out what does not fill a batch."""
    loader = trainer.train_dataloader
    stated = stated_batches(loader)
    if stated is not None:
        return stated.drop_last
    return bool(getattr(getattr(loader, "batch_sampler", None) or loader, "drop_last", False))


def states_its_batches(trainer: Trainer) -> bool:
    """Whether the train loader's batches are known to have its batch size."""
    stated = stated_batches(trainer.train_dataloader)
    return stated is not None and stated.direct


def _wrapped_for_processes(sampler: Any) -> Any:
    """What Lightning shares out to the processes, where this is its wrapper for that."""
    samples = getattr(sampler, "dataset", None)
    return getattr(samples, "_sampler", None) if type(samples).__name__ == "_DatasetSamplerWrapper" else None


def _length(sampler: Any) -> int | None:
    """How many samples a sampler draws; ``None`` where it does not say."""
    try:
        return len(sampler) if isinstance(sampler, Sized) else None
    except (TypeError, NotImplementedError):
        return None


def _overrides(owner: Any, hook: str) -> bool:
    """Whether a module or data module has its own version of a hook of Lightning's."""
    method = getattr(type(owner), hook, None)
    return method is not None and not method.__module__.startswith(("lightning.pytorch", "pytorch_lightning"))
