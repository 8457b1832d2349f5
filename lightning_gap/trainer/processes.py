"""The processes that train together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import SyncBatchNorm

from ..functional import _processes
from . import _private

T = TypeVar("T")


def process_group(trainer: Trainer) -> ProcessGroup | None:
    """The processes that train together; None for a single one."""
    return torch.distributed.group.WORLD if trainer.world_size > 1 else None


def sums_over_processes(trainer: Trainer, compute: Callable[[], Sequence[float]], *, numbers: int) -> list[float]:
    """The sums of what each process computes, so many numbers, on all of them; an error on one is raised on all."""
    group, device = process_group(trainer), trainer.strategy.root_device
    return _processes.sum_over_processes(lambda: (compute(), []), numbers=numbers, process_group=group, device=device)[
        0
    ]


def sum_over_processes(trainer: Trainer, value: float) -> float:
    """The sum of every process's value, on all of them."""
    return sums_over_processes(trainer, lambda: [value], numbers=1)[0]


def mean_over_processes(trainer: Trainer, value: float) -> float:
    """The mean of every process's value, on all of them."""
    return sum_over_processes(trainer, value) / trainer.world_size


def raise_on_all_processes(trainer: Trainer, check: Callable[[], None]) -> None:
    """Run a check on each process; what fails on one of them ends on all of them."""

    def compute() -> list[float]:
        check()
        return []

    sums_over_processes(trainer, compute, numbers=0)


def from_all_processes(trainer: Trainer, own: T) -> list[T]:
    """What each process has, in the order of their ranks."""
    if not are_several(trainer):
        return [own]
    everyone = [own] * trainer.world_size
    torch.distributed.all_gather_object(everyone, own)
    return everyone


def are_several(trainer: Trainer) -> bool:
    """Whether there are others to exchange objects with."""
    return trainer.world_size > 1 and torch.distributed.is_available() and torch.distributed.is_initialized()


def broadcast(trainer: Trainer, value: int) -> int:
    """The first process's value, on all of them."""
    return int(trainer.strategy.broadcast(value))


def average_gradients(trainer: Trainer, weights: Sequence[Tensor]) -> None:
    """Give every process the mean of the gradients of all; one that a process does not have counts as zero there."""
    if trainer.world_size == 1:
        return
    there = torch.tensor([float(weight.grad is not None) for weight in weights], device=trainer.strategy.root_device)
    torch.distributed.all_reduce(there)
    for weight, processes in zip(weights, there.tolist(), strict=True):
        if processes:
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            torch.distributed.all_reduce(gradient)
            weight.grad = gradient.div_(trainer.world_size)


def wraps_module(trainer: Trainer) -> bool:
    """Whether the strategy has put the module into another one, as DDP does, and calls its steps through that."""
    return trainer.strategy.model is not trainer.lightning_module


def uses_sync_batch_norm(trainer: Trainer) -> bool:
    """Whether the Trainer will turn BatchNorm layers into SyncBatchNorm."""
    return _private.layer_sync(trainer) is not None


def shares_batch_statistics(trainer: Trainer) -> bool:
    """Whether BatchNorm layers gather their statistics from all processes: the Trainer's doing, or the module's own."""
    by_hand = any(isinstance(layer, SyncBatchNorm) for layer in trainer.lightning_module.modules())
    return uses_sync_batch_norm(trainer) or (by_hand and trainer.world_size > 1)
