"""The samples a monitor measures on: drawn once by seed, the same for the whole run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.data import extract_batch_size
from torch.utils.data import DataLoader, IterableDataset

from .._lightning import same_random_numbers, samples_served
from ..functional.fixed_subset import FixedSubset


class Batches(NamedTuple):
    """Batches to measure on, and the samples in each."""

    batches: Sequence[Any]
    sizes: list[int]


def fixed_subsets(
    sources: Mapping[str, tuple[Iterable[Any] | None, Any]], *, samples: int, chunk_size: int, seed: int
) -> dict[str, Batches]:
    """Fix the batches that a monitor measures on: those the user gave, or equally many samples drawn from each loader.

    A loader itself is never iterated, which would move its generator and its workers: samples are taken from the data
    set behind it and collated into nearly equal chunks. Random transforms in the data set are applied once and stay.

    Args:
        sources: For each argument of the callback the batches given in it, or ``None``, and the loader to draw from.
        samples: Samples to draw; fewer if one of the data sets is smaller.
        chunk_size: Most samples in one batch.
        seed: Seed of the draw, and of random transforms.

    Returns:
        For each argument its batches.

    Raises:
        ValueError: If a loader has no indexable data set, there is nothing to measure on, or the number of samples
            in a batch cannot be told.
    """
    loaders = {name: loader for name, (given, loader) in sources.items() if given is None}
    size = min([samples, *(len(_dataset(loader, name)) for name, loader in loaders.items())])
    found: dict[str, Batches] = {}
    with same_random_numbers():
        torch.manual_seed(seed)
        for name, (given, _) in sources.items():
            if given is None:
                given = subset(loaders[name], name, size, chunk_size, seed) if size else ()
            batches = list(given)
            if not batches:
                raise ValueError(f"there are no samples to measure on; pass {name}=..., a list of at least one batch")
            found[name] = Batches(batches, _sizes(batches, name))
    return found


def drawn(loader: Any, argument: str, samples: int, chunk_size: int, seed: int) -> Batches:
    """Samples of the loader's data set, read once and held."""
    with same_random_numbers():
        torch.manual_seed(seed)
        batches = list(subset(loader, argument, samples, chunk_size, seed))
    return Batches(batches, _sizes(batches, argument))


def subset(loader: Any, argument: str, samples: int | None, chunk_size: int, seed: int) -> FixedSubset:
    """Samples of the loader's data set, read when asked for; for one seed a smaller choice begins a larger one."""
    dataset = _dataset(loader, argument)
    collate = getattr(_single(loader), "collate_fn", None)
    return FixedSubset(dataset, samples=samples, chunk_size=chunk_size, seed=seed, collate_fn=collate)


def _sizes(batches: list[Any], argument: str) -> list[int]:
    try:
        return [extract_batch_size(batch) for batch in batches]
    except (MisconfigurationException, RecursionError) as error:
        raise ValueError(
            f"cannot tell how many samples a {type(batches[0]).__name__} holds; pass {argument}=..., a list of batches "
            "made of tensors, lists, tuples and dicts"
        ) from error


def _single(loader: Any) -> Any:
    """A list of one loader, as Lightning accepts it for validation, is that loader."""
    return loader[0] if isinstance(loader, list | tuple) and len(loader) == 1 else loader


def _dataset(loader: Any, argument: str) -> Any:
    loader = _single(loader)
    dataset = getattr(loader, "dataset", None)
    of_single_samples = not (isinstance(loader, DataLoader) and loader.batch_sampler is None)
    indexable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not (indexable and of_single_samples) or isinstance(dataset, IterableDataset):
        raise ValueError(
            f"cannot draw a fixed subset from {type(loader).__name__}: it has no data set of single samples to "
            f"index; pass {argument}=..., a list of batches to measure on"
        )
    return samples_served(loader, dataset)
