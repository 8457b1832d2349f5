"""Set the batch size of each epoch and adjust what depends on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..functional._validation import shown
from ..functional.batch_size.growth import AdaBatch, SmithGrowth
from ..functional.batch_size.schedule import MicroBatching, Schedule, checked_milestones, epoch_batch_at
from ..trainer.progress import is_trial
from ..trainer.saved_progress import epochs_begun
from ._batch_size import BatchSizeCallback
from ._learning_rate_checks import check_rates
from ._rate_scaling import RateScalingCallback
from ._sample_counter import Count


class BatchSizeScheduler(RateScalingCallback, BatchSizeCallback):
    """Train each epoch with the batch size that a schedule says, whatever loader, process count and micro-batch.

    A size is samples per optimizer step, over all processes. The loader, epoch length, progress bar, validation,
    schedulers and shuffling follow by themselves, also in a resumed run. Past ``max_micro_batch`` a
    batch is split into micro-batches, whose gradient is that of the whole batch to rounding; see `ExactAccumulation`.
    Logs ``batch/size`` and ``batch/accumulate``, and ``batch/lr_factor`` where the schedule is a function.

    Args:
        schedule: Batch sizes by the epoch they begin at, ``{0: 128, 30: 512}``, or a function of the epoch, from 0,
            that returns a size or an `EpochBatch`: `SmithGrowth`, `AdaBatch`, `GeometricGrowth`, or your own.
        max_micro_batch: Most samples that one process works on at a time; larger batches are accumulated.
            ``None`` keeps the Trainer's `accumulate_grad_batches` and lets the loader's batches grow.
        batch_arg_name: Attribute of the module or data module that its `train_dataloader` reads its batch size
            from, as in Lightning's `BatchSizeFinder`. Not used for a loader that is passed to `fit`.
        count: As in `ExactAccumulation`: what the mean of your loss is taken over, if not the samples.

    Raises:
        ValueError: If the schedule is empty, does not begin at epoch 0, has epochs that do not rise, or a size that is
            not a whole number of at least 1. Before the first step, if a size cannot be split equally, exceeds the
            training set, leaves epochs shorter than `val_check_interval` or BatchNorm a last batch of one sample, the
            loader has no batch size to set or does not follow one that comes later, batches are to be accumulated
            whose samples are not known, a step-wise scheduler was made for fewer steps, an optimizer has no learning
            rate for the schedule to change, or something else sets the batch size. On resuming, if the schedule says
            something else of the epochs that the checkpoint has begun; for those to come it may be another.

    Reference:
        Smith, Kindermans, Ying and Le (2018); Devarakonda, Naumov and Garland (2017); Friedlander and Schmidt (2012).
    """

    decides_training = ("count",)
    may_change = (*BatchSizeCallback.may_change, "schedule")  # for epochs to come: `_recall` compares those so far

    def __init__(
        self,
        schedule: dict[int, int] | Schedule,
        *,
        max_micro_batch: int | None = None,
        batch_arg_name: str = "batch_size",
        count: Count | None = None,
    ) -> None:
        super().__init__(max_micro_batch=max_micro_batch, batch_arg_name=batch_arg_name, count=count)
        if not callable(schedule) and not isinstance(schedule, Mapping):
            raise ValueError(
                f"schedule must be batch sizes by epoch, for instance {{0: 128, 30: 512}}, or a function of the epoch, "
                f"got {shown(schedule)}"
            )
        if isinstance(schedule, Mapping):
            schedule = checked_milestones(schedule)
        self.schedule = schedule
        self._factor_of: tuple[int | None, float] = None, 1.0  # an epoch and its factor
        self._scales = False  # whether some factor is known not to be 1

    def planned(self, trainer: Trainer, epoch: int) -> MicroBatching:
        return self._split(trainer, epoch_batch_at(self.schedule, epoch).batch_size)

    def factor(self, trainer: Trainer) -> float:
        epoch = trainer.current_epoch
        if epoch != self._factor_of[0]:
            self._factor_of = epoch, epoch_batch_at(self.schedule, epoch).learning_rate_factor
        return self._factor_of[1]

    def values(self, trainer: Trainer) -> dict[str, float]:
        values = super().values(trainer)
        return values | {"batch/lr_factor": self._factor} if callable(self.schedule) else values

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        stages = (epoch_batch_at(self.schedule, epoch) for epoch in self._epochs_to_come(trainer))
        self._factor_of = None, 1.0
        self._scales = any(stage.learning_rate_factor != 1.0 for stage in stages)
        if self._scales or isinstance(self.schedule, SmithGrowth | AdaBatch):
            self.claim_rescaling(trainer)
        if isinstance(self.schedule, Mapping):
            self._warn_of_milestones_after_the_run(trainer, max(self.schedule))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if callable(self.schedule):  # which may say what becomes of the learning rate
            if self._scales:
                for optimizer in trainer.optimizers:
                    check_rates(optimizer, type(self).__name__)
            self.multiply(trainer, certain=self._scales)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        if callable(self.schedule) and not self._scales and self.factor(trainer) != 1.0:
            self._scales = True  # in a run whose end is not known
            self.multiply(trainer, certain=True)

    def end_fit(self, trainer: Trainer) -> None:
        super().end_fit(trainer)
        self._factor = 1.0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        stages = (epoch_batch_at(self.schedule, epoch) for epoch in range(trainer.current_epoch + 1))
        said = [[int(stage.batch_size), float(stage.learning_rate_factor)] for stage in stages]
        checkpoint["BatchSizeScheduler"] = {"said": said}

    def recall(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        said = checkpoint.get("BatchSizeScheduler", {}).get("said", ())
        for epoch, (size, factor) in enumerate(said[: epochs_begun(checkpoint)]):
            stage = epoch_batch_at(self.schedule, epoch)
            if (stage.batch_size, stage.learning_rate_factor) != (size, factor):
                raise ValueError(
                    f"the checkpoint was trained with batches of {size} and a learning-rate factor of {factor} in "
                    f"epoch {epoch}, this run's schedule has {stage.batch_size} and {stage.learning_rate_factor}; "
                    "resume with the same schedule, or begin a new run from the weights alone"
                )

    def _epochs_to_come(self, trainer: Trainer) -> Iterable[int]:
        if (trainer.max_epochs or -1) > 0 or not isinstance(self.schedule, Mapping):
            return super()._epochs_to_come(trainer)
        return [epoch for epoch in self.schedule if epoch >= trainer.current_epoch] or [trainer.current_epoch]

    def _warn_of_milestones_after_the_run(self, trainer: Trainer, latest: int) -> None:
        last = trainer.max_epochs
        if last is not None and 0 <= last <= latest and not is_trial(trainer):
            rank_zero_warn(
                f"the schedule changes the batch size at epoch {latest}, and the run has max_epochs={last}, counted "
                "from 0; train longer or leave it out"
            )
