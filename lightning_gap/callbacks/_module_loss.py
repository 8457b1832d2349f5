"""The loss of a LightningModule on fixed batches: from its own `training_step`, or from a function that replaces it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from .._lightning import process_group, to_device
from ..functional.dataset_loss import BatchNormMode, DatasetLoss
from ..functional.loss_surface import checked_params, loss_surface
from ._fixed_subset import Batches
from ._undisturbed import undisturbed

LossFunction = Callable[[LightningModule, Any], Tensor]


def check_measurable(module: LightningModule, loss_fn: LossFunction | None) -> None:
    """Raise if the loss has to come from a `training_step` that does more than compute it."""
    if loss_fn is None and not module.automatic_optimization:
        raise ValueError(
            f"{type(module).__name__} optimizes manually, so its training_step takes steps and cannot be used to "
            "measure; pass loss_fn=..., a function of (module, batch) that returns the mean loss"
        )


def trained_weights(module: LightningModule) -> dict[str, Tensor]:
    """The weights that are trained, by name, each checked to be one that can be moved."""
    return checked_params({name: weight for name, weight in module.named_parameters() if weight.requires_grad})


def module_loss(
    trainer: Trainer,
    module: LightningModule,
    given: Batches,
    *,
    loss_fn: LossFunction | None,
    seed: int,
    batch_norm: BatchNormMode = "running",
    alone: bool = False,
) -> DatasetLoss:
    """The module's mean loss on these batches, dealt out between the processes unless each is to be ``alone``.

    Use it inside `undisturbed`.

    Random numbers that a data set or a `training_step` draws from the global generators are the same every time.
    Gradients are not turned off: a `training_step` may need them, for a gradient penalty.
    """

    def compute(module: LightningModule, indexed: tuple[int, Any]) -> Tensor:
        index, stored = indexed
        return batch_loss(module, to_device(trainer, stored), index, loss_fn)

    batches = Seeded(given.batches, seed)
    group = None if alone else process_group(trainer)
    return DatasetLoss(module, compute, batches, sizes=given.sizes, batch_norm=batch_norm, process_group=group)


def batch_loss(module: LightningModule, batch: Any, index: int, loss_fn: LossFunction | None) -> Tensor:
    """Mean loss of one batch that is on the module's device."""
    return loss_fn(module, batch) if loss_fn else _training_step_loss(module, batch, index)


def check_loss(
    trainer: Trainer,
    module: LightningModule,
    given: Batches,
    loss_fn: LossFunction | None,
    seed: int,
    batch_norm: BatchNormMode,
) -> None:
    """Raise if the loss of the smallest batch cannot be measured: none at all, without a gradient, or random.

    A missing attribute is left to the measurement: the module's own hooks come after the callbacks' and may set it.
    """
    i = min(range(len(given.sizes)), key=given.sizes.__getitem__)
    smallest = Batches(given.batches[i : i + 1], given.sizes[i : i + 1])
    with suppress(AttributeError), undisturbed(trainer, module):
        loss = module_loss(trainer, module, smallest, loss_fn=loss_fn, seed=seed, batch_norm=batch_norm, alone=True)
        with loss_surface(loss, trained_weights(module)) as surface:
            surface.loss_and_gradient()
            surface.check_repeatable()


class Seeded(Sequence[tuple[int, Any]]):
    """Batches with their index; the global generators are seeded anew before each is read."""

    def __init__(self, batches: Sequence[Any], seed: int) -> None:
        self._batches = batches
        self._seed = seed

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        seed = (self._seed + index) % 2**32
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the generator that a data set's transforms would draw from
        random.seed(seed)
        return index, self._batches[index]

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return (self[i] for i in range(len(self)))


def _training_step_loss(module: LightningModule, batch: Any, batch_idx: int) -> Tensor:
    """Mean loss of one batch from the user's own `training_step`."""
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    output = module.training_step(batch, batch_idx) if takes_index else module.training_step(batch)
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise ValueError(f"training_step gave no loss but {output!r}; pass loss_fn=..., a function of (module, batch)")
    return loss
