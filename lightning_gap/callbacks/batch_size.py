"""Change the batch size between epochs, and everything that must follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..functional._validation import shown
from ..functional.batch_size.growth import AdaBatch, SmithGrowth
from ..functional.batch_size.schedule import MicroBatching as Split
from ..functional.batch_size.schedule import Schedule, checked_milestones
from ..functional.batch_size.schedule import epoch_batch_at as stage_at
from ..trainer.progress import is_trial
from ..trainer.refusals import refuse_rescaling
from ..trainer.saved_progress import epochs_begun
from ._batch_size import BatchSizeCallback
from ._rates import check_rates, scaled_rates, stop_scaling
from ._sample_counter import Count
from ._unscaled import UnscaledUpdates


class BatchSizeScheduler(BatchSizeCallback):
    """Train each epoch with the batch size that a schedule says, whatever loader, process count and micro-batch.

    A size is samples per optimizer step, over all processes. What follows it by itself: the loader, epoch length,
    progress bar, validation, schedulers, shuffling, and on a resumed run all of them. Past ``max_micro_batch`` a
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
            whose samples cannot be told, a step-wise scheduler was made for fewer steps, an optimizer has no learning
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
        self._factor = 1.0
        self._scales = False  # whether some factor is known not to be 1
        self._watch: UnscaledUpdates | None = None  # while fit runs

    @property
    def current_scale(self) -> float:
        """What the schedule multiplies the learning rate by now."""
        return self._factor

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            factors = (self._factor_at(epoch) for epoch in self._epochs_to_come(trainer))
            self._scales = any(factor != 1.0 for factor in factors)
            if self._scales or isinstance(self.schedule, SmithGrowth | AdaBatch):
                refuse_rescaling(trainer, self)
            if isinstance(self.schedule, Mapping):
                self._warn_of_milestones_after_the_run(trainer, max(self.schedule))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if callable(self.schedule):  # which may say what becomes of the learning rate
            if self._scales:
                for optimizer in trainer.optimizers:
                    check_rates(optimizer, type(self).__name__)
            self._multiply(trainer)
            self._watch = UnscaledUpdates(scaled_rates(trainer), self)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        if callable(self.schedule) and not self._scales and self._factor_at(trainer.current_epoch) != 1.0:
            self._scales = True  # in a run whose end is not known
            self._multiply(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._watch is not None:
            self._watch.before_batch(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._watch is not None:
            self._watch.after_batch(trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._stop(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._stop(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        stages = (stage_at(self.schedule, epoch) for epoch in range(trainer.current_epoch + 1))
        said = [[int(stage.batch_size), float(stage.learning_rate_factor)] for stage in stages]
        checkpoint["BatchSizeScheduler"] = {"said": said}

    def _recall(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        said = checkpoint.get("BatchSizeScheduler", {}).get("said", ())
        for epoch, (size, factor) in enumerate(said[: epochs_begun(checkpoint)]):
            stage = stage_at(self.schedule, epoch)
            if (stage.batch_size, stage.learning_rate_factor) != (size, factor):
                raise ValueError(
                    f"the checkpoint was trained with batches of {size} and a learning-rate factor of {factor} in "
                    f"epoch {epoch}, this run's schedule has {stage.batch_size} and {stage.learning_rate_factor}; "
                    "resume with the same schedule, or begin a new run from the weights alone"
                )

    def _split_at(self, trainer: Trainer, epoch: int) -> Split:
        return self._split(trainer, stage_at(self.schedule, epoch).batch_size)

    def _factor_at(self, epoch: int) -> float:
        return stage_at(self.schedule, epoch).learning_rate_factor

    def _multiply(self, trainer: Trainer) -> None:
        scaled_rates(trainer).multiply(self, lambda: self._next_factor(trainer), certain=self._scales)

    def _next_factor(self, trainer: Trainer) -> float:
        self._factor = self._factor_at(trainer.current_epoch)
        return self._factor

    def _values(self, trainer: Trainer) -> dict[str, float]:
        values = super()._values(trainer)
        return values | {"batch/lr_factor": self._factor} if callable(self.schedule) else values

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

    def _stop(self, trainer: Trainer) -> None:
        self._watch = None
        stop_scaling(trainer, self)
        self._factor = 1.0
