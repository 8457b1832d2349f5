"""Refuse a run whose last batch of an epoch holds one sample, where a layer could not normalise it: before any step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sized
from typing import Any

from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import BatchSampler
from torch.utils.hooks import RemovableHandle

from .._lightning import last_micro_batch_size, micro_batch_size, planned_micro_batch_sizes
from ..data._planned_loader import PlannedLoader


def smallest_batches(trainer: Trainer) -> dict[int, int]:
    """Samples of an epoch's smallest batch on one process, mostly the last, for each batch size where it is known."""
    size, last = micro_batch_size(trainer), last_micro_batch_size(trainer)
    sizes = planned_micro_batch_sizes(trainer) | ({size} if size is not None else set())
    found = {planned: _last_batch_of(trainer, planned) for planned in sizes}
    if size is not None and (found.get(size) is None or not isinstance(trainer.train_dataloader, PlannedLoader)):
        found[size] = last  # which knows of limits, too
    batches = getattr(trainer.train_dataloader, "batch_sampler", None)
    if isinstance(batches, list | tuple) and batches:  # written out: any of them may be the smallest
        met = batches[: int(min(len(batches), trainer.num_training_batches))]
        found[len(batches[0])] = min(map(len, met))
    return {size: last for size, last in found.items() if last is not None}


def _last_batch_of(trainer: Trainer, size: int) -> int | None:
    """The fewest that a batch size leaves for any process, where the loader stays what it is and its epochs whole."""
    loader = trainer.train_dataloader
    limit: object = trainer.limit_train_batches
    if trainer.max_steps != -1 or isinstance(limit, int) or limit != 1.0:
        return None
    if isinstance(loader, PlannedLoader):
        plan = dataclasses.replace(loader.plan, batch_size=size)
        return min(dataclasses.replace(plan, rank=rank).size(len(plan) - 1) for rank in range(plan.processes))
    batch_sampler = getattr(loader, "batch_sampler", None)
    if type(batch_sampler) is not BatchSampler or not isinstance(batch_sampler.sampler, Sized):
        return None
    samples = len(batch_sampler.sampler)
    return min(size, samples) if batch_sampler.drop_last else samples % size or size


def watch_for_single_values(
    layers: Mapping[nn.Module, str], *, samples: int, sizes_that_leave_one: list[int]
) -> list[RemovableHandle]:
    """Let each layer raise at its first input if a batch of one sample will give it one value per channel.

    That depends on the layer's input, not on its class: BatchNorm1d takes (N, C) and (N, C, L), a BatchNorm2d may
    follow global pooling, and an input with more rows than the batch has samples will have more rows then, too.

    Args:
        layers: The layers and their names.
        samples: Samples in the present batch.
        sizes_that_leave_one: The batch sizes of the run, in samples, that leave one sample for the last batch.

    Returns:
        What to remove after the first batch.
    """

    def check(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        shape = (*args, *named.values())[0].shape
        if layer.training and len(shape) > 1 and shape[0] == samples and math.prod(shape[2:]) == 1:
            sizes = " and ".join(map(str, sizes_that_leave_one))
            raise ValueError(
                f"an epoch in batches of {sizes} samples has a batch of one, which {layers[layer]} could not "
                f"normalise: its input of shape {tuple(shape)} would hold one value per channel; use drop_last=True "
                "in the loader or another batch_size"
            )

    return [layer.register_forward_pre_hook(check, with_kwargs=True) for layer in layers]
