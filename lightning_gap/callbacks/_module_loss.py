"""The loss of a LightningModule on fixed batches: from its own `training_step`, or from a function that replaces it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from .._lightning import process_group, to_device
from .._refusals import refuse_sync_batch_norm
from ..functional.dataset_loss import BatchNormMode, DatasetLoss, check_batch_norm
from ..functional.loss_surface import checked_params, loss_surface
from ._arguments import check_batches, check_counts
from ._fixed_subset import Batches, fixed_subsets
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


class MeasuredLoss:
    """The loss that a monitor measures, from its arguments to the end of training: checked, drawn, tried, let go.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        *,
        data: Iterable[Any] | None,
        loss_fn: LossFunction | None,
        samples: int,
        chunk_size: int,
        batch_norm: BatchNormMode,
        seed: int,
    ) -> None:
        check_counts(samples=samples, chunk_size=chunk_size)
        check_batches(data=data)
        check_batch_norm(batch_norm)
        self._data = data
        self._loss_fn = loss_fn
        self._samples = samples
        self._chunk_size = chunk_size
        self._batch_norm: BatchNormMode = batch_norm
        self._seed = seed
        self._batches: Batches | None = None

    def refuse(self, trainer: Trainer) -> None:
        """Raise if the Trainer's BatchNorm cannot be evaluated as asked."""
        if self._batch_norm != "running":
            refuse_sync_batch_norm(trainer, f"batch_norm={self._batch_norm!r}")

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        """Fix the batches, when training starts."""
        check_measurable(module, self._loss_fn)
        trained_weights(module)
        source = {"data": (self._data, trainer.train_dataloader)}
        found = fixed_subsets(source, samples=self._samples, chunk_size=self._chunk_size, seed=self._seed)
        self._batches = found["data"]

    def forget(self) -> None:
        """Let go of the batches."""
        self._batches = None

    def on(
        self, trainer: Trainer, module: LightningModule, batches: Batches | None = None, *, alone: bool = False
    ) -> DatasetLoss:
        """The loss on the drawn batches, or on others; use it inside `undisturbed`."""
        batches = batches or self._batches
        assert batches is not None, "monitors measure inside fit"
        return module_loss(
            trainer,
            module,
            batches,
            loss_fn=self._loss_fn,
            seed=self._seed,
            batch_norm=self._batch_norm,
            alone=alone,
        )

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Raise if the loss of the smallest batch cannot be measured: none at all, without a gradient, or random.

        A missing attribute is left to the measurement: the module's own hooks come after the callbacks' and may set it.
        """
        assert self._batches is not None, "monitors measure inside fit"
        batches, sizes = self._batches
        i = min(range(len(sizes)), key=sizes.__getitem__)
        with suppress(AttributeError), undisturbed(trainer, module):
            loss = self.on(trainer, module, Batches(batches[i : i + 1], sizes[i : i + 1]), alone=True)
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
