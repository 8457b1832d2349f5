"""Serve a data set that fits in memory as ready batches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import TensorDataset


class EpochShuffle:
    """A permutation of ``size`` samples that depends on seed and epoch alone.

    Lightning calls `set_epoch` on the `sampler` of every loader before each epoch, a resumed one included.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next permutation."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """Indices of all samples, shape (size,), in this epoch's order."""
        # The epoch-th number of the seed's own stream. Plain seed + epoch would hand one run the orders of another,
        # shifted; and torch's CPU generator reads only the low 32 bits of a seed, so the two cannot be packed.
        stream = torch.Generator().manual_seed(self.seed)
        epoch_seed = int(torch.randint(2**31, (self.epoch + 1,), generator=stream)[-1])
        return torch.randperm(self.size, generator=torch.Generator().manual_seed(epoch_seed))


class InMemoryLoader:
    """Yield batches cut straight from tensors: no sample is touched alone, no global random number is drawn.

    Stands in for a `DataLoader` in `Trainer.fit`; the monitors find its samples through `dataset`.

    Args:
        tensors: Tensors with the same first dimension, for instance inputs (N, ...) and targets (N,).
        batch_size: Samples per batch; the last batch of an epoch may be smaller.
        shuffle: Whether each epoch has an order of its own, a pure function of ``seed`` and epoch.
        seed: Seed of the orders.

    Raises:
        ValueError: If there is nothing to load, the tensors differ in length, or ``batch_size`` is below 1.
        RuntimeError: When iterated on several processes: it serves one.

    Example:
        >>> loader = InMemoryLoader((torch.arange(5),), batch_size=2)
        >>> [batch[0].tolist() for batch in loader]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(self, tensors: tuple[Tensor, ...], *, batch_size: int, shuffle: bool = False, seed: int = 0) -> None:
        lengths = sorted({len(tensor) for tensor in tensors})
        if len(lengths) != 1 or lengths[0] == 0:
            raise ValueError(f"tensors must hold equally many samples, at least one, got lengths {lengths}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of samples, at least 1, got {batch_size!r}")
        self.dataset = TensorDataset(*tensors)
        self.batch_size = batch_size
        self.sampler = EpochShuffle(lengths[0], seed=seed) if shuffle else None
        self.batch_sampler = None  # Lightning reads it wherever there is a sampler

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            processes = torch.distributed.get_world_size()
            if processes > 1:
                raise RuntimeError(
                    f"InMemoryLoader would serve the same batches to all {processes} processes; "
                    "train on one process, or use a DataLoader, which Lightning splits between them"
                )
        order = self.sampler.order() if self.sampler else torch.arange(len(self.dataset))
        for indices in torch.split(order, self.batch_size):
            yield self.dataset[indices]
