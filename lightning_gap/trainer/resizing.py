"""A loader with another batch size, and the proof that its sampler follows."""

from __future__ import annotations

import copy
from collections.abc import Sized
from itertools import islice
from types import GeneratorType
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ..data._planned_loader import PlannedLoader
from ..data.stream import ResumableStream
from ..functional._sample_count import guess_samples
from .state import Remembered, same_random_numbers
from .stated_batches import batch_sampler_of, samplers_of, stated_batches


def check_resizable(loader: Any) -> None:
    """Raise if the batch size of a loader that was given to `fit` cannot be set."""
    refuse_several(loader)
    if isinstance(loader, PlannedLoader | ResumableStream):
        return
    own = vars(loader).items() if isinstance(loader, DataLoader) else ()
    kept = [n for n, value in own if n != "_iterator" and isinstance(value, _BaseDataLoaderIter | GeneratorType)]
    if kept:
        raise ValueError(
            f"the batch size of {description(loader)} cannot be set: it keeps one iterator for all epochs, in "
            f"{kept[0]!r}, whose batches are made already; use a plain DataLoader, with persistent_workers=True if "
            "its workers are to live on"
        )
    size = getattr(batch_sampler_of(loader), "batch_size", None)
    if not isinstance(loader, DataLoader) or not isinstance(size, int):
        raise ValueError(
            f"the batch size of {description(loader)} cannot be set; use a DataLoader with batch_size=..., a "
            "lightning_gap.ResumableLoader, or a module or data module whose train_dataloader() reads an attribute"
        )


def refuse_several(loader: Any) -> None:
    """Raise if this is more than one loader."""
    if isinstance(loader, list | tuple | dict) or type(loader).__name__ == "CombinedLoader":
        raise ValueError(
            f"the batch size of several train loaders at once ({type(loader).__name__}) cannot be set; train with one"
        )


def description(loader: Any) -> str:
    """What to call a loader in an error."""
    sampler = getattr(loader, "batch_sampler", None)
    name = type(loader).__name__
    return f"a {name} with a {type(sampler).__name__} as batch_sampler" if sampler is not None else f"a {name}"


def resized(loader: DataLoader[Any], size: int, trainer: Trainer) -> DataLoader[Any]:
    """A shallow copy with another batch size: data set, sampler, workers and generator are the user's own."""
    own_sampler = type(loader.batch_sampler) is not BatchSampler
    if own_sampler and trainer.world_size > 1:
        raise ValueError(
            f"the batch size of {description(loader)} cannot be set on {trainer.world_size} processes, where "
            "Lightning makes the batch sampler anew; use batch_size=... with a sampler, or a ResumableLoader"
        )
    batch_sampler = copy.copy(batch_sampler_of(loader))
    vars(batch_sampler)["batch_size"] = size
    resized = copy.copy(loader)
    # Not by attribute, which a DataLoader refuses once it is made.
    place = "sampler" if loader.batch_sampler is None else "batch_sampler"  # of a loader with batch_size=None
    vars(resized).update({place: batch_sampler, "_iterator": None})
    if loader.batch_size is not None:
        vars(resized)["batch_size"] = size
    if isinstance(loader.dataset, Sized) and len(loader.dataset) < size and loader.drop_last:
        raise ValueError(
            f"drop_last=True leaves no batch: {len(loader.dataset)} samples do not fill one of {size}; use a smaller "
            "batch size or drop_last=False"
        )
    return resized


def prove_that_the_sampler_follows(resized: DataLoader[Any], size: int) -> None:
    """Raise if a batch sampler of the user's gives other batches than it was set to."""
    found = first_indices(resized)
    samples = len(resized.dataset) if isinstance(resized.dataset, Sized) else None
    if found not in (None, size) and not (samples is not None and samples < size):
        raise ValueError(
            f"the batch size of {description(resized)} cannot be set: it was set to {size} samples for each process "
            f"and batch, but a batch holds {found}; let it read self.batch_size when it is iterated"
        )


def first_indices(loader: Any) -> int | None:
    """Samples in the first batch of a batch sampler of the user's; ``None`` with torch's own, which is as it says."""
    return next(iter(index_counts(loader, 1)), None)


def index_counts(loader: Any, most: int) -> list[int]:
    """Samples in the first batches of a batch sampler of the user's; none with torch's own, which is as it says."""
    batch_sampler = batch_sampler_of(loader) if isinstance(loader, DataLoader) else None
    if batch_sampler is None or stated_batches(loader) is not None:
        return []
    with same_random_numbers(), as_before(*samplers_of(loader), getattr(batch_sampler, "sampler", None)):
        return [len(indices) for indices in islice(iter(batch_sampler), most) if isinstance(indices, Sized)]


def first_batch_size(loader: Any) -> int | None:
    """Samples in the first batch of a loader that states no size; ``None`` where it can be read once only."""
    iterator = iter(loader)
    return None if iterator is loader else guess_samples(next(iterator, None))


def as_before(*owners: Any) -> Remembered:
    """Put back at the end what trying something out on these objects changes, but for their tensors."""
    named = {type(owner).__name__ + str(i): owner for i, owner in enumerate(owners) if owner is not None}
    return Remembered(named, as_data=named, stand_ins=False)
