"""The samples a monitor measures on: drawn once by seed, the same for the whole run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..functional._sample_count import guess_samples
from ..functional.fixed_subset import FixedSubset
from ..trainer.state import same_random_numbers
from ._loader_subset import LoaderSubset, loader_subset, reading

Count = Callable[[Any], int]
Sources = Mapping[str, tuple[Iterable[Any] | None, Any]]


class Batches(NamedTuple):
    """Batches to measure on, and the samples in each."""

    batches: Sequence[Any]
    sizes: list[int]


def fixed_subsets(
    sources: Sources, *, samples: int, chunk_size: int, seed: int, count: Count | None = None
) -> dict[str, Batches]:
    """Fix the batches that a monitor measures on: those the user gave, or equally many samples drawn from each loader.

    The loader of the run is never iterated, which would move its generator and its workers; see `loader_subset`.
    Random transforms in the data set are applied once and stay; ``seed`` is also theirs.

    Args:
        sources: For each argument of the callback the batches given in it, or ``None``, and the loader to draw from.
        samples: Samples to draw; fewer if one of the data sets is smaller.
        chunk_size: Most samples in one batch.
        seed: Seed of the draw.
        count: What a batch counts for in the mean; the samples drawn for it by default.
    """

    def drawn(name: str, loader: Any, size: int) -> FixedSubset | LoaderSubset:
        return loader_subset(loader, name, samples=size, chunk_size=chunk_size, seed=seed)

    found = (drawn(name, loader, samples).sizes for name, (given, loader) in sources.items() if given is None)
    size = min([samples, *map(sum, found)])
    fixed: dict[str, Batches] = {}
    with same_random_numbers():
        torch.manual_seed(seed)
        for name, (given, loader) in sources.items():
            drawn_sizes = None
            if given is None:
                subset = drawn(name, loader, size)
                drawn_sizes = subset.sizes
                with reading(loader, name):
                    batches = list(subset)
            else:
                batches = list(given)
            if not batches:
                raise ValueError(f"there are no samples to measure on; pass {name}=..., a list of at least one batch")
            fixed[name] = Batches(batches, _sizes(batches, name, drawn_sizes, count))
    return fixed


def lazy_subset(
    loader: Any, argument: str, *, chunk_size: int, seed: int, samples: int | None = None, count: Count | None = None
) -> Batches:
    """Samples of a loader's data set, by default all, read whenever they are asked for; as in `fixed_subsets`."""
    subset = loader_subset(loader, argument, samples=samples, chunk_size=chunk_size, seed=seed)
    return Batches(subset, subset.sizes if count is None else [checked_count(count, batch) for batch in subset])


def _sizes(batches: list[Any], argument: str, drawn_sizes: list[int] | None, count: Count | None) -> list[int]:
    """What each batch counts for: what the user says, the samples that were drawn for it, or what it says itself."""
    if count is not None:
        return [checked_count(count, batch) for batch in batches]
    if drawn_sizes is not None:
        return drawn_sizes
    sizes = [guess_samples(batch) for batch in batches]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        unknown = batches[sizes.index(None)]
        raise ValueError(
            f"cannot tell how many samples a {type(unknown).__name__} of {argument} holds: its tensors do not agree on "
            "a first axis; pass count=..., a function of the batch"
        )
    return known


def checked_count(count: Count, batch: Any) -> int:
    """What the user says that a batch counts for, checked."""
    try:
        number = count(batch)
    except Exception as error:  # whatever a user's function raises
        raise ValueError(f"count failed for a {type(batch).__name__}: {type(error).__name__}: {error}") from error
    if isinstance(number, bool) or int(number) != number or number < 1:
        raise ValueError(
            f"count must give a whole number of at least 1 for each batch to measure on, got {number!r} for a "
            f"{type(batch).__name__}"
        )
    return int(number)
