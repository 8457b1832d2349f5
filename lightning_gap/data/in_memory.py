"""Serve a data set that fits in memory as ready batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..functional._validation import indexed, instance, refusal
from ._planned_loader import PlannedLoader
from .augmentation import Augmentation
from .batch_plan import BatchPlan


class InMemoryLoader(PlannedLoader):
    """Yield batches cut straight from tensors: no sample is touched alone, no global random number is drawn.

    Stands in for a `DataLoader` in `Trainer.fit`; the monitors find its samples, not augmented, through `dataset`.
    Resumes inside an epoch where it stopped, and serves each process its share of every batch; see `BatchPlan`. A pass
    that is over leads on to the next epoch; one that is broken off begins again.

    Args:
        samples: Tensors with the same first dimension, for instance inputs (N, ...) and targets (N,); or a data set
            that gives a ready batch for a tensor of indices, as `TensorDataset` does. One that is not on the CPU says
            where it is in an attribute ``device``.
        batch_size: Samples per batch and process; the last batch of an epoch may be smaller. May be set between epochs.
        shuffle: Whether each epoch has an order of its own, a pure function of ``seed`` and epoch.
        seed: Seed of the orders and of the augmentation.
        drop_last: Leave out the samples that do not fill a batch.
        reseed: Seed the global generators with each batch, as `ResumableLoader` does. Off, so that a loader
            for evaluation draws nothing and changes nothing.
        augment: Varies the first tensor of each batch. What a sample looks like is a pure function of ``seed``,
            epoch and sample: the same in every batch size, on one process or several, and after a crash.

    Raises:
        ValueError: If there is nothing to load, the tensors differ in length, or ``batch_size`` is below 1.

    Example:
        >>> import torch
        >>> loader = InMemoryLoader((torch.arange(5),), batch_size=2)
        >>> [batch[0].tolist() for batch in loader]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        samples: tuple[Tensor, ...] | Any,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        reseed: bool = False,
        augment: Augmentation | None = None,
    ) -> None:
        if isinstance(samples, list | tuple):
            lengths = sorted({len(instance("samples", tensor, Tensor)) for tensor in samples})
            if len(lengths) != 1 or lengths[0] == 0:
                raise ValueError(f"samples must be tensors of one length, at least 1, got lengths {lengths}")
            samples = TensorDataset(*samples)
        if not len(indexed("samples", samples, "tensors or a data set")):
            raise ValueError(refusal("samples", "must not be empty", samples))
        if augment is not None and (isinstance(augment, type) or not isinstance(augment, Augmentation)):
            raise ValueError(refusal("augment", "must be an augmentation", augment, "for instance RandomFlip()"))
        self.augment = augment
        super().__init__(samples, batch_size=batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last, reseed=reseed)

    def first_samples(self, samples: int) -> Any:
        indices = torch.arange(samples, device=getattr(self.dataset, "device", None))
        return self.dataset[indices % len(self.dataset)]

    def _fetch(self, plan: BatchPlan, epoch: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        # To where the samples are once an epoch: to copy a few indices for each batch would wait for the device.
        augment, device = self.augment, getattr(self.dataset, "device", None)
        numbers = None if augment is None else plan.sample_numbers(epoch, augment.numbers_per_sample).to(device)
        for indices in plan.batches(epoch, start, device):
            if augment is None or numbers is None:
                yield self.dataset[indices]
            else:
                inputs, *others = self.dataset[indices]
                yield augment(inputs, numbers[indices]), *others
