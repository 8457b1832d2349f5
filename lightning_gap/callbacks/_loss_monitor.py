"""The bases of the monitors that measure on a fixed subset of the data, and of those that measure the loss there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

from lightning.pytorch import LightningModule, Trainer

from ..functional._validation import one_of, seed_number, whole_number
from ..functional.dataset_loss import BatchNormMode
from ._arguments import check_batches, optional_function
from ._evaluations import LossFunction
from ._fixed_subset import Count
from ._module_loss import MeasuredLoss
from ._monitor import Monitor


@dataclass(kw_only=True, eq=False, repr=False)
class SubsetMonitor(Monitor):
    """A monitor that measures on fixed samples, drawn before the first step.

    The loss comes from your own `training_step`, run silenced and isolated in evaluation mode; ``loss_fn`` overrides
    it. The run is bit for bit the same with and without the monitor.

    Args:
        samples: Samples to measure on; keep the number and ``seed`` equal in runs that you compare.
        chunk_size: Most samples in memory at a time.
        seed: Seed of the subset.
        loss_fn: Mean loss of one batch, a function of (module, batch), instead of `training_step`.
        count: What the mean loss of a batch is taken over, a function of the batch, for instance its tokens. By default
            its samples; needed for given batches whose tensors do not agree on a first axis.
    """

    samples: int = 1000
    chunk_size: int = 250
    seed: int = 0
    loss_fn: LossFunction | None = None
    count: Count | None = None

    def check_arguments(self) -> None:
        super().check_arguments()
        self.samples = whole_number("samples", self.samples)
        self.chunk_size = whole_number("chunk_size", self.chunk_size)
        self.seed = seed_number("seed", self.seed)
        self.loss_fn = optional_function("loss_fn", self.loss_fn)
        self.count = optional_function("count", self.count, "the batch")


@dataclass(kw_only=True, eq=False, repr=False)
class LossMonitor(SubsetMonitor):
    """A monitor of the loss on a fixed subset of the training data: `self.loss`, to be used inside `undisturbed`.

    Args:
        batch_norm: ``"running"`` evaluates BatchNorm layers with running statistics, ``"batch"`` with those of each
            chunk, as Keskar et al.'s networks did, ``"recomputed"`` with those of the samples, gathered afresh. On
            large-batch solutions sharpness with the first is about ten times that with the second.
        data: Batches to measure on instead of the subset, as `training_step` takes them.
    """

    batch_norm: BatchNormMode = "running"
    data: Iterable[Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.loss = self._new_loss()

    def check_arguments(self) -> None:
        super().check_arguments()
        self.batch_norm = one_of("batch_norm", self.batch_norm, get_args(BatchNormMode))
        check_batches(data=self.data)

    def begin(self, trainer: Trainer) -> None:
        self.loss = self._new_loss()
        self.loss.refuse(trainer)

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        self.loss.draw(trainer, module)

    def try_out(self, trainer: Trainer, module: LightningModule, training_batch: Any) -> None:
        self.loss.check(trainer, module, training_batch)

    def halve_chunks(self, trainer: Trainer, module: LightningModule) -> bool:
        return self.loss.halve_chunks(trainer, module)

    def forget(self) -> None:
        self.loss.forget()

    def _new_loss(self) -> MeasuredLoss:
        return MeasuredLoss(
            data=self.data,
            loss_fn=self.loss_fn,
            samples=self.samples,
            chunk_size=self.chunk_size,
            batch_norm=self.batch_norm,
            seed=self.seed,
            count=self.count,
        )
