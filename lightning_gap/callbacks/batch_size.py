"""Set the batch size of each step as a schedule says, and adjust what depends on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..functional._validation import shown
from ..functional.batch_size.growth import AdaBatch, SmithGrowth
from ..functional.batch_size.schedule import EpochBatch, MicroBatching, Schedule, checked_milestones, epoch_batch_at
from ..functional.batch_size.units import Unit, checked_unit, schedule_from_text
from ..trainer.progress import is_trial
from ..trainer.saved_progress import epochs_begun
from ._arguments import optional_function
from ._auto_micro_batch import AutoMicroBatch
from ._batch_size import BatchSizeCallback
from ._learning_rate_checks import check_rates
from ._rate_scaling import RateScalingCallback
from ._sample_counter import Count


class BatchSizeScheduler(RateScalingCallback, AutoMicroBatch):
    """Train with the batch size that a schedule says, whatever loader, process count and micro-batch.

    A size is samples per optimizer step, over all processes. The schedule counts in epochs, optimizer steps, samples or
    tokens; a threshold is what was consumed before the step. Epoch length, progress bar, validation, schedulers and
    shuffling follow by themselves, also in a resumed run. Past ``max_micro_batch`` a batch is split into micro-batches,
    whose gradient is that of the whole batch to rounding; see `ExactAccumulation`. Logs ``batch/size`` and
    ``batch/accumulate``, and ``batch/lr_factor`` where the schedule is a function.

    Inside an epoch, `ResumableLoader` and `InMemoryLoader` change their batches as planned. Any other loader keeps its
    batches, and the number of them in a step changes: then every size is a multiple of what the loader gives at a time.

    Args:
        schedule: Batch sizes by the epoch they begin at, ``{0: 128, 30: 512}``, or a function of the epoch, from 0,
            that returns a size or an `EpochBatch`: `SmithGrowth`, `AdaBatch`, `GeometricGrowth`, `Seesaw`, or your own.
            In another unit by what was consumed before the step; in samples or tokens also as Megatron writes it,
            ``"0:768 250B:1536"``.
        unit: What the schedule counts in: ``"epochs"``, ``"steps"``, ``"samples"`` or ``"tokens"``.
        max_micro_batch: Most samples that one process works on at a time; larger batches are accumulated.
            ``None`` keeps the Trainer's `accumulate_grad_batches` and lets the loader's batches grow. ``"auto"`` tries
            the largest of the run before the first step, and halves the limit while memory runs out; the gradient stays
            that of the whole batch. Two tensors as large as the weights are held for the optimizer's state.
        batch_arg_name: Attribute of the module or data module that its `train_dataloader` reads its batch size
            from, as in Lightning's `BatchSizeFinder`. Not used for a loader that is passed to `fit`, nor in units other
            than epochs.
        count: As in `ExactAccumulation`: what the mean of your loss is taken over, if not the samples.
        count_tokens: Tokens of a batch, a function of it, for ``unit="tokens"``. By default samples times length, where
            all integer tensors of the batch have one shape (samples, length). Sizes then change by accumulation.

    Raises:
        ValueError: If the schedule is empty, does not begin at 0, has thresholds that do not rise, a size that is
            not a whole number of at least 1, or text in another unit than samples or tokens. Before the first step, if
            a size cannot be split equally, exceeds the training set, leaves epochs shorter than `val_check_interval` or
            BatchNorm a last batch of one sample, the loader has no batch size to set or does not follow one that comes
            later, inside epochs a size is no multiple of the loader's batches, tokens cannot be counted, batches are to
            be accumulated whose samples are not known, a step-wise scheduler was made for fewer steps, an optimizer has
            no learning rate for the schedule to change, or something else sets the batch size. On resuming, if the
            schedule says something else of what the checkpoint has consumed; for what is to come it may be another.

    Reference:
        Smith, Kindermans, Ying and Le (2018); Devarakonda, Naumov and Garland (2017); Friedlander and Schmidt (2012);
        Meterez et al. (2025).
    """

    decides_training = ("count", "unit", "count_tokens")
    may_change = (*BatchSizeCallback.may_change, "schedule")  # for epochs to come: `_recall` compares those so far

    def __init__(
        self,
        schedule: dict[int, int] | Schedule | str,
        *,
        unit: Unit = "epochs",
        max_micro_batch: int | Literal["auto"] | None = None,
        batch_arg_name: str = "batch_size",
        count: Count | None = None,
        count_tokens: Count | None = None,
    ) -> None:
        super().__init__(max_micro_batch=max_micro_batch, batch_arg_name=batch_arg_name, count=count)
        self.unit = checked_unit(unit)
        self.count_tokens = optional_function("count_tokens", count_tokens, "the batch")
        if count_tokens is not None and self.unit != "tokens":
            raise ValueError(f"count_tokens is for unit='tokens', got unit={unit!r}; leave one out")
        self.schedule = _plain(schedule, self.unit)
        self._factor_of: tuple[int | None, float] = None, 1.0  # an epoch and its factor
        self._scales = False  # whether some factor is known not to be 1

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this callback logs."""
        return (*super().keys, *(("batch/lr_factor",) if callable(self.schedule) else ()))

    def planned(self, trainer: Trainer, epoch: int) -> MicroBatching:
        return self._split(trainer, epoch_batch_at(self.schedule, epoch).batch_size)

    def factor(self, trainer: Trainer) -> float:
        if self._inside is not None:
            return self._inside.batch.learning_rate_factor
        epoch = trainer.current_epoch
        if epoch != self._factor_of[0]:
            self._factor_of = epoch, epoch_batch_at(self.schedule, epoch).learning_rate_factor
        return self._factor_of[1]

    def values(self, trainer: Trainer) -> dict[str, float]:
        values = super().values(trainer)
        return values | {"batch/lr_factor": self._factor} if callable(self.schedule) else values

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        self._factor_of = None, 1.0
        self._scales = self._changes_rates(trainer)
        if self._scales or isinstance(self.schedule, SmithGrowth | AdaBatch):
            self.claim_rescaling(trainer)
        if isinstance(self.schedule, Mapping) and self.unit == "epochs":
            self._warn_of_milestones_after_the_run(trainer, max(self.schedule))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self._scales:
            for optimizer in trainer.optimizers:
                check_rates(optimizer, type(self).__name__)
            self.multiply(trainer, certain=True)
        else:
            self._multiply_from_now_on(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._multiply_from_now_on(trainer)

    def end_fit(self, trainer: Trainer) -> None:
        super().end_fit(trainer)
        self._factor = 1.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._inside is not None:
            self._follow_schedule(trainer)
            self._multiply_from_now_on(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.unit != "epochs":
            checkpoint["BatchSizeScheduler"] = self._consumed_so_far()
            return
        stages = (epoch_batch_at(self.schedule, epoch) for epoch in range(trainer.current_epoch + 1))
        said = [[int(stage.batch_size), float(stage.learning_rate_factor)] for stage in stages]
        checkpoint["BatchSizeScheduler"] = {"said": said}

    def recall(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        if self.unit != "epochs":
            self._recall_consumed(checkpoint)
            return
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

    def _multiply_from_now_on(self, trainer: Trainer) -> None:
        """Multiply learning rates once some factor is not 1, of which nothing was known when the run began."""
        if not self._scales and callable(self.schedule) and self.factor(trainer) != 1.0:
            self._scales = True
            self.multiply(trainer, certain=True)

    def _changes_rates(self, trainer: Trainer) -> bool:
        """Whether some factor on the learning rate is known not to be 1; inside epochs, whether it may be."""
        if self.unit != "epochs":
            return callable(self.schedule) and isinstance(self.schedule(0), EpochBatch)
        stages = (epoch_batch_at(self.schedule, epoch) for epoch in self._epochs_to_come(trainer))
        return any(stage.learning_rate_factor != 1.0 for stage in stages)

    def _warn_of_milestones_after_the_run(self, trainer: Trainer, latest: int) -> None:
        last = trainer.max_epochs
        if last is not None and 0 <= last <= latest and not is_trial(trainer):
            rank_zero_warn(
                f"the schedule changes the batch size at epoch {latest}, and the run has max_epochs={last}, counted "
                "from 0; train longer or leave it out"
            )


def _plain(schedule: Any, unit: Unit) -> dict[int, int] | Schedule:
    """The schedule as given, a mapping or text in plain numbers; raise if it is none."""
    if isinstance(schedule, str):
        if unit not in ("samples", "tokens"):
            raise ValueError(
                f"schedule={shown(schedule)} counts samples or tokens, as in Megatron, and unit={unit!r} is neither; "
                "pass unit='tokens', unit='samples', or a dict"
            )
        return schedule_from_text(schedule)
    if isinstance(schedule, Mapping):
        return checked_milestones(schedule, unit)
    if not callable(schedule):
        what = "epoch" if unit == "epochs" else f"{unit} consumed"
        raise ValueError(
            f"schedule must be batch sizes by {what}, for instance {{0: 128, 30: 512}}, or a function of the {what}, "
            f"got {shown(schedule)}"
        )
    return schedule  # type: ignore[no-any-return]
