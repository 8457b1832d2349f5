"""The samples a monitor measures on: drawn once by seed, the same for the whole run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.data import extract_batch_size
from torch.utils.data import DataLoader, IterableDataset, default_collate

from .._lightning import same_random_numbers

Chunk = tuple[Any, float]
"""A batch and its share of all samples measured on."""


def fixed_subsets(
    sources: Mapping[str, tuple[Iterable[Any] | None, Any]], *, samples: int, chunk_size: int, seed: int
) -> dict[str, list[Chunk]]:
    """Fix the batches that a monitor measures on: those the user gave, or equally many samples drawn from each loader.

    A loader itself is never iterated, which would move its generator and its workers: samples are taken from the data
    set behind it and collated into nearly equal chunks. Random transforms in the data set are applied once and stay.

    Args:
        sources: For each argument of the callback the batches given in it, or ``None``, and the loader to draw from.
        samples: Samples to draw; fewer if one of the data sets is smaller.
        chunk_size: Most samples in one batch.
        seed: Seed of the draw, and of random transforms.

    Returns:
        For each argument its batches, each with its share of all samples.

    Raises:
        ValueError: If a loader has no indexable data set, there is nothing to measure on, or the number of samples
            in a batch cannot be told.
    """
    loaders = {name: _single(loader) for name, (given, loader) in sources.items() if given is None}
    size = min([samples, *(len(_indexable(loader, name)) for name, loader in loaders.items())])
    chunks: dict[str, list[Chunk]] = {}
    with same_random_numbers():
        torch.manual_seed(seed)
        for name, (given, _) in sources.items():
            batches = list(given) if given is not None else _draw(loaders[name], size, chunk_size, seed)
            if not batches:
                raise ValueError(f"there are no samples to measure on; pass {name}=..., a list of at least one batch")
            chunks[name] = _with_shares(batches, name)
    return chunks


def _with_shares(batches: list[Any], argument: str) -> list[Chunk]:
    try:
        sizes = [extract_batch_size(batch) for batch in batches]
    except (MisconfigurationException, RecursionError) as error:
        raise ValueError(
            f"cannot tell how many samples a {type(batches[0]).__name__} holds; pass {argument}=..., a list of batches "
            "made of tensors, lists, tuples and dicts"
        ) from error
    return [(batch, size / sum(sizes)) for batch, size in zip(batches, sizes, strict=True)]


def _draw(loader: Any, size: int, chunk_size: int, seed: int) -> list[Any]:
    dataset = loader.dataset
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    chunks = order[:size].sort().values.tensor_split(math.ceil(size / chunk_size)) if size else ()
    collate = getattr(loader, "collate_fn", None) or default_collate
    return [collate([dataset[index] for index in chunk.tolist()]) for chunk in chunks]


def _single(loader: Any) -> Any:
    """A list of one loader, as Lightning accepts it for validation, is that loader."""
    return loader[0] if isinstance(loader, list | tuple) and len(loader) == 1 else loader


def _indexable(loader: Any, argument: str) -> Any:
    dataset = getattr(loader, "dataset", None)
    of_single_samples = not (isinstance(loader, DataLoader) and loader.batch_sampler is None)
    indexable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not (indexable and of_single_samples) or isinstance(dataset, IterableDataset):
        raise ValueError(
            f"cannot draw a fixed subset from {type(loader).__name__}: it has no data set of single samples to "
            f"index; pass {argument}=..., a list of batches to measure on"
        )
    return dataset
