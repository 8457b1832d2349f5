"""Chosen samples of a data set, as the loader in front of it would deliver them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from ..data._planned_loader import PlannedLoader
from ..functional.fixed_subset import FixedSubset
from ..trainer.loader import samples_served
from ..trainer.state import Remembered


class LoaderSubset(Sequence[Any]):
    """Batches of chosen samples, each asked for from a loader that may transform, normalise or prefetch them.

    Asked is a copy of it, with our batches, its own generator and no workers. The loader of the run stays where it is.

    Attributes:
        sizes: Samples in each batch.
    """

    def __init__(self, loader: Any, indices: list[list[int]]) -> None:
        self._loader, self._indices = loader, indices
        self.sizes = [len(chunk) for chunk in indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        batches = list(islice(_serving(self._loader, [self._indices[index]]), 2))  # it may never end
        if len(batches) != 1:
            raise ValueError(
                f"{type(self._loader).__name__} gives {len(batches) or 'no'} batches where it is asked for one, so "
                "that no fixed subset can be drawn through it; pass data=..., a list of batches to measure on"
            )
        return batches[0]


@contextmanager
def reading(loader: Any, argument: str) -> Iterator[None]:
    """Read from a loader's data set inside the block, and leave what it keeps, generators for instance, as it was.

    What the data set raises becomes a ValueError that names ``argument``, which takes batches instead.
    """
    loader = _single(loader)
    chain = [loader, getattr(loader, "collate_fn", None)]
    while (inner := getattr(chain[-1] if len(chain) > 2 else _inner(loader), "dataset", None)) is not None:
        chain.append(inner)
    owners = {f"{argument} {i}": owner for i, owner in enumerate(chain) if hasattr(owner, "__dict__")}
    try:
        with Remembered(owners, as_data=owners, stand_ins=False):
            yield
    except (TypeError, LookupError, NotImplementedError) as error:
        raise ValueError(
            f"no fixed subset can be read from the data set of {type(loader).__name__}: {type(error).__name__}: "
            f"{one_line(error)}; pass {argument}=..., a list of batches to measure on"
        ) from error


def _single(loader: Any) -> Any:
    """A list of one loader, as Lightning accepts it, is that loader."""
    return loader[0] if isinstance(loader, list | tuple) and len(loader) == 1 else loader


def loader_subset(
    loader: Any, argument: str, *, samples: int | None, chunk_size: int, seed: int
) -> FixedSubset | LoaderSubset:
    """Draw samples through a loader: batches, each made when it is asked for.

    Args:
        loader: A `DataLoader` of any class, a loader of this package, or a wrapper around one `DataLoader`.
        argument: The argument that takes batches instead, for the error.
        samples: How many, all of them by default or if there are fewer.
        chunk_size: Most samples in one batch.
        seed: Seed of the choice; for one seed a smaller choice begins a larger one.
    """
    loader = _single(loader)
    inner = _inner(loader)
    dataset = getattr(inner, "dataset", None)
    # Torch's documented way to read a batch as one: a data set that takes a list of indices.
    of_samples = not (isinstance(inner, DataLoader) and inner.batch_sampler is None) or isinstance(
        inner.sampler, BatchSampler
    )
    indexable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if inner is None or not (indexable and of_samples) or isinstance(dataset, IterableDataset):
        raise ValueError(
            f"cannot draw a fixed subset from {type(loader).__name__}: it has no data set of single samples to "
            f"index; pass {argument}=..., a list of batches to measure on"
        )
    served = samples_served(inner, dataset)
    if len(served) == 0:
        raise ValueError(f"there are no samples to measure on; pass {argument}=..., a list of at least one batch")
    collate = getattr(inner, "collate_fn", None)
    chosen = FixedSubset(served, samples=samples, chunk_size=chunk_size, seed=seed, collate_fn=collate)
    if _delivers_as_collated(loader):
        return chosen
    if any(hasattr(value, "__next__") for name, value in vars(loader).items() if name != "_iterator"):
        raise ValueError(
            f"cannot draw a fixed subset through {type(loader).__name__}: it holds an iterator that the training "
            f"reads from, and delivers batches in its own way; pass {argument}=..., a list of batches to measure on"
        )
    places = served.indices if served is not dataset else None
    indices = [[places[i] for i in chunk] if places is not None else chunk for chunk in chosen.indices]
    return LoaderSubset(loader, indices)


def _inner(loader: Any) -> Any:
    """The loader that has the data set: this one, or the only one that it wraps."""
    if isinstance(loader, DataLoader | PlannedLoader):
        return loader
    wrapped = [value for value in getattr(loader, "__dict__", {}).values() if isinstance(value, DataLoader)]
    return wrapped[0] if len(wrapped) == 1 else None


def _delivers_as_collated(loader: Any) -> bool:
    """Whether a batch is what the collate function makes of its samples, and nothing is done to it after that."""
    if isinstance(loader, PlannedLoader):
        made_here = "lightning_gap.data."
        return all(_defined_in(loader, name).startswith(made_here) for name in ("__iter__", "_fetch"))
    stock = isinstance(loader, DataLoader) and loader.batch_sampler is not None
    return stock and all(
        _defined_in(loader, name).startswith("torch.utils.data") for name in ("__iter__", "_get_iterator")
    )


def _defined_in(loader: Any, method: str) -> str:
    return next(kind.__module__ for kind in type(loader).__mro__ if method in vars(kind))


def _serving(loader: Any, batches: list[list[int]]) -> Any:
    """A copy of the loader that serves these batches and shares no generator, iterator or worker with it."""
    own = copy.copy(loader)
    if isinstance(loader, DataLoader):
        ours = {"sampler" if loader.batch_sampler is None else "batch_sampler": batches}
        # Not by attribute, which a DataLoader refuses once it is made.
        vars(own).update(
            ours, num_workers=0, generator=torch.Generator(), prefetch_factor=None, persistent_workers=False, timeout=0
        )
        vars(own)["_iterator"] = None
        return own
    for name, value in vars(loader).items():
        if isinstance(value, DataLoader):
            vars(own)[name] = _serving(value, batches)
    return own


def one_line(error: BaseException) -> str:
    """The text of an error without line breaks."""
    return " ".join(str(error).split())
