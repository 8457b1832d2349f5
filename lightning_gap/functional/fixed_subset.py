"""The samples a measurement is made on: chosen by seed once, cut into chunks, the same every time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import torch
from torch.utils.data import TensorDataset, default_collate

from ._validation import function, indexed, seed_number, whole_number


class FixedSubset(Sequence[Any]):
    """Batches of a fixed random choice of samples, collated whenever one is asked for.

    For one seed a smaller choice is the beginning of a larger one.

    A sequence of batches: index or iterate it as often as needed, or make a list of it to hold them in memory (and to
    fix what random transforms in the data set did).

    Args:
        dataset: Anything with ``__len__`` and ``__getitem__``.
        samples: How many samples, all of them by default or if there are fewer.
        chunk_size: Most samples in one batch; the batches are nearly equal.
        seed: Seed of the choice.
        collate_fn: Makes a batch from a list of samples; torch's `default_collate` by default.

    Raises:
        ValueError: If a count is below 1 or the data set is empty.

    Example:
        >>> subset = FixedSubset(TensorDataset(torch.arange(100)), samples=10, chunk_size=4)
        >>> [len(batch[0]) for batch in subset], subset.sizes
        ([4, 3, 3], [4, 3, 3])
    """

    def __init__(
        self,
        dataset: Any,
        *,
        samples: int | None = None,
        chunk_size: int = 1000,
        seed: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        samples = None if samples is None else whole_number("samples", samples)
        chunk_size, seed = whole_number("chunk_size", chunk_size), seed_number("seed", seed)
        if len(indexed("dataset", dataset, "a data set")) == 0:
            raise ValueError("dataset is empty; there are no samples to measure on")
        size = min(samples or len(dataset), len(dataset))
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
        self.dataset = dataset
        self._chunks = order[:size].tensor_split(math.ceil(size / chunk_size))  # each a fair sample of the whole
        self._collate = default_collate if collate_fn is None else function("collate_fn", collate_fn, "(samples)")

    @property
    def sizes(self) -> list[int]:
        """Samples in each batch."""
        return [len(chunk) for chunk in self._chunks]

    @property
    def indices(self) -> list[list[int]]:
        """Indices in the data set of the samples in each batch."""
        return [chunk.tolist() for chunk in self._chunks]

    def __len__(self) -> int:
        return len(self._chunks)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        chunk = self._chunks[index]
        if type(self.dataset) is TensorDataset and self._collate is default_collate:
            return [tensor[chunk] for tensor in self.dataset.tensors]  # what collating single samples gives, at once
        indices = chunk.tolist()
        at_once = getattr(self.dataset, "__getitems__", None)  # which a DataLoader prefers, too
        return self._collate(at_once(indices) if callable(at_once) else [self.dataset[i] for i in indices])

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))
