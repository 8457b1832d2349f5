"""The batches of a Trainer's train loader: how many samples each holds, for every callback alike."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import BatchSampler, DataLoader, TensorDataset, default_collate

from ..data._planned_loader import PlannedLoader
from ..data.in_memory import InMemoryLoader
from ..data.resumable import _makes_batches
from .stated_batches import gives_ready_batches, length, nominal_size, samplers_of, stated_batches

_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


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


def stated_micro_batch_size(trainer: Trainer) -> int | None:
    """Samples per batch and process where the train loader is certain of them; an argument cannot say otherwise.

    A `DataLoader` of ready batches, ``batch_size=1`` with something that takes the one out, is not.
    """
    stated = stated_batches(trainer.train_dataloader)
    ready = stated is not None and stated.size == 1 and changes_batches(trainer)
    return None if stated is None or ready else micro_batch_size(trainer)


def last_micro_batch_size(trainer: Trainer) -> int | None:
    """Samples of the last batch that this process meets in an epoch, where the loader states it."""
    stated = stated_batches(trainer.train_dataloader)
    if stated is None or stated.batches is None:
        return None
    steps = trainer.max_steps * trainer.accumulate_grad_batches
    met = min(stated.batches, trainer.num_training_batches, steps if steps >= 0 else math.inf)
    return stated.at(int(met) - 1)


def samples_per_process(trainer: Trainer) -> int | None:
    """Samples of an epoch on one process, or ``None`` where the loader does not say."""
    loader = trainer.train_dataloader
    if gives_ready_batches(loader):
        return None  # the number of ready batches is no number of samples
    stated = stated_batches(loader)
    if stated is not None:
        return stated.samples
    *_, innermost = samplers_of(loader)
    if isinstance(innermost, BatchSampler):
        return length(innermost.sampler)
    if isinstance(loader, DataLoader) and loader.batch_size is None and loader.batch_sampler is None:
        return None  # ready batches, too
    alone = innermost is getattr(loader, "batch_sampler", None)  # a batch sampler of its own, which wraps none
    return length(getattr(loader, "sampler", None) if alone else innermost)


def leaves_one_sample(trainer: Trainer, size: int) -> bool:
    """Whether an epoch's last micro-batch would hold a single sample, if the others held so many."""
    stated = stated_batches(trainer.train_dataloader)
    if stated is not None:
        return stated.last_if(size) == 1 < size
    samples = samples_per_process(trainer)
    return samples is not None and not drops_last_batch(trainer) and samples % size == 1 < size


def drops_last_batch(trainer: Trainer) -> bool:
    """Whether the train loader leaves out what does not fill a batch."""
    loader = trainer.train_dataloader
    stated = stated_batches(loader)
    if stated is not None:
        return stated.drop_last
    return bool(getattr(getattr(loader, "batch_sampler", None) or loader, "drop_last", False))


def _overrides(owner: Any, hook: str) -> bool:
    """Whether a module or data module has its own version of a hook of Lightning's."""
    method = getattr(type(owner), hook, None)
    return method is not None and not method.__module__.startswith(("lightning.pytorch", "pytorch_lightning"))
