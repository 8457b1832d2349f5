"""The processes that train together."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from torch.distributed import ProcessGroup

from ..functional import _processes
from . import _private


def process_group(trainer: Trainer) -> ProcessGroup | None:
    """The processes that train together; None for a single one."""
    return torch.distributed.group.WORLD if trainer.world_size > 1 else None


def sum_over_processes(trainer: Trainer, value: float) -> float:
    """The sum of every process's value, on all of them."""
    device = trainer.strategy.root_device
    group = process_group(trainer)
    (total,), _ = _processes.sum_over_processes(lambda: ([value], []), numbers=1, process_group=group, device=device)
    return total


def mean_over_processes(trainer: Trainer, value: float) -> float:
    """The mean of every process's value, on all of them."""
    return sum_over_processes(trainer, value) / trainer.world_size


def broadcast(trainer: Trainer, value: int) -> int:
    """The first process's value, on all of them."""
    return int(trainer.strategy.broadcast(value))


def uses_sync_batch_norm(trainer: Trainer) -> bool:
    """Whether the Trainer will turn BatchNorm layers into SyncBatchNorm."""
    return _private.layer_sync(trainer) is not None
