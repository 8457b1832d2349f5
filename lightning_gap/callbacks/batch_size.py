"""Change the batch size between epochs, and everything that must follow."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from .._lightning import is_trial
from .._refusals import refuse_rescaling
from ..functional.batch_size import Schedule, Split, checked_milestones, stage_at
from ._batch_size import BatchSizeCallback
from ._rates import scaled_rates


class BatchSizeScheduler(BatchSizeCallback):
    """Train each epoch with the batch size that a schedule says, whatever loader, process count and micro-batch.

    A size is samples per optimizer step, over all processes. What follows it by itself: the loader, epoch length,
    progress bar, validation, schedulers, shuffling, and on a resumed run all of them. Past ``max_micro_batch`` a
    batch is split into micro-batches, whose gradient is that of the whole batch to rounding; see `ExactAccumulation`.
    Logs ``batch/size`` and ``batch/accumulate``, and ``batch/lr_factor`` where the schedule sets one.

    Args:
        schedule: Batch sizes by the epoch they begin at, ``{0: 128, 30: 512}``, or a function of the epoch, from 0,
            that returns a size or a `Stage`: `SmithGrowth`, `AdaBatch`, `GeometricGrowth`, or your own.
        max_micro_batch: Most samples that one process works on at a time; larger batches are accumulated.
            ``None`` keeps the Trainer's `accumulate_grad_batches` and lets the loader's batches grow.
        batch_arg_name: Attribute of the module or data module that its `train_dataloader` reads its batch size
            from, as in Lightning's `BatchSizeFinder`. Not used for a loader that is passed to `fit`.

    Raises:
        ValueError: If the schedule is empty, does not begin at epoch 0, has epochs that do not rise, or a size that is
            not a whole number of at least 1. Before the first step, if a size cannot be split equally, exceeds the
            training set or leaves epochs shorter than `val_check_interval`, the loader has no batch size to set, a
            step-wise scheduler was made for fewer steps, or something else sets the batch size.

    Reference:
        Smith, Kindermans, Ying and Le (2018); Devarakonda, Naumov and Garland (2017); Friedlander and Schmidt (2012).
    """

    def __init__(
        self,
        schedule: dict[int, int] | Schedule,
        *,
        max_micro_batch: int | None = None,
        batch_arg_name: str = "batch_size",
    ) -> None:
        super().__init__(max_micro_batch=max_micro_batch, batch_arg_name=batch_arg_name)
        if not callable(schedule) and not isinstance(schedule, Mapping):
            raise ValueError(
                f"schedule must be batch sizes by epoch, for instance {{0: 128, 30: 512}}, or a function of the epoch, "
                f"got {schedule!r}"
            )
        if isinstance(schedule, Mapping):
            checked_milestones(schedule)
        self.schedule = schedule
        self._factor = 1.0
        self._sets_rate = False

    @property
    def current_scale(self) -> float:
        """What the schedule multiplies the learning rate by now."""
        return self._factor

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            epochs = range(trainer.current_epoch, max(trainer.max_epochs or 0, trainer.current_epoch + 1))
            self._sets_rate = any(self._factor_at(epoch) != 1.0 for epoch in epochs[:1000])
            if self._sets_rate:
                refuse_rescaling(trainer, self)
            last = trainer.max_epochs
            ends = last is not None and 0 <= last <= max(self.schedule if isinstance(self.schedule, Mapping) else [-1])
            if ends and isinstance(self.schedule, Mapping) and not is_trial(trainer):
                rank_zero_warn(
                    f"the schedule changes the batch size at epoch {max(self.schedule)}, and the run has "
                    f"max_epochs={last}, counted from 0; train longer or leave it out"
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self._sets_rate:
            for optimizer in trainer.optimizers:
                scaled_rates(optimizer).multiply(self, lambda: self._next_factor(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._stop(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._stop(trainer)

    def _split_at(self, trainer: Trainer, epoch: int) -> Split:
        return self._split(trainer, stage_at(self.schedule, epoch).batch_size)

    def _factor_at(self, epoch: int) -> float:
        return stage_at(self.schedule, epoch).learning_rate_factor

    def _next_factor(self, trainer: Trainer) -> float:
        self._factor = self._factor_at(trainer.current_epoch)
        return self._factor

    def _values(self, trainer: Trainer) -> dict[str, float]:
        values = super()._values(trainer)
        return values | {"batch/lr_factor": self._factor} if self._sets_rate else values

    def _stop(self, trainer: Trainer) -> None:
        if self._sets_rate:
            for optimizer in trainer.optimizers:
                scaled_rates(optimizer).stop(optimizer, self)
            self._sets_rate, self._factor = False, 1.0
