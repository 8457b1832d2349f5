"""The hidden half of `BatchSizeScheduler`: schedules by steps, samples or tokens, at each moment of a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..functional.batch_size.schedule import Schedule
from ..functional.batch_size.units import Unit, batch_at
from ..trainer.progress import averages_weights_now, has_an_end, is_trial
from ..trainer.saved_progress import epoch_of, steps_of_its_epoch
from ._batch_size import BatchSizeCallback
from ._consumed import Consumed
from ._inside_epochs import SizesInsideEpochs
from ._run import run_of
from ._run_ahead import RunAhead, check_run, look_ahead
from ._sample_counter import Count


class SchedulesInUnits(BatchSizeCallback):
    """Sets the batch size of each epoch, or in another ``unit`` than epochs of each step.

    What `BatchSizeCallback` does for epochs is done here for the other units by `SizesInsideEpochs`.
    """

    unit: Unit
    schedule: Mapping[int, int] | Schedule
    count_tokens: Count | None
    _inside: SizesInsideEpochs | None = None  # while a fit runs in another unit than epochs
    _consumed: Consumed | None = None
    _ahead: RunAhead | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._inside is not None and not averages_weights_now(trainer):
            self._inside.see(batch, batch_idx)

    def _follow_schedule(self, trainer: Trainer) -> None:
        """A batch is over: count it, and let the next step be as the schedule asks."""
        if self._inside is not None and not averages_weights_now(trainer):
            self._inside.count()
            self._inside.follow()

    def _consumed_so_far(self) -> dict[str, Any]:
        """For a checkpoint, whichever callback saves it when."""
        if self._inside is not None:
            self._inside.count()
        return self._its_consumed.state_dict(self.unit)

    def _recall_consumed(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("BatchSizeScheduler", {})
        if "amount" in saved:
            self._its_consumed.load_state_dict(saved, batch_at(self.schedule, self.unit), self.unit)
        elif self.unit == "steps":
            consumed, steps = self._its_consumed, int(checkpoint["global_step"])
            consumed.amount, consumed.began_at = steps, steps - steps_of_its_epoch(checkpoint)
            consumed.epoch = epoch_of(checkpoint)
        else:
            raise ValueError(
                f"the checkpoint does not say how many {self.unit} it was trained on, which unit={self.unit!r} counts; "
                "resume with unit='steps', or begin a new run from the weights alone"
            )

    @property
    def _its_consumed(self) -> Consumed:
        if self._consumed is None:
            self._consumed = Consumed()
        return self._consumed

    # What BatchSizeCallback does for epochs

    def _begin_sizes(self, trainer: Trainer) -> None:
        if self.unit == "epochs":
            super()._begin_sizes(trainer)
            return
        if trainer.global_step == 0:  # not a second fit of one Trainer
            self._consumed = None
        self._inside = SizesInsideEpochs(
            trainer,
            at=batch_at(self.schedule, self.unit),
            unit=self.unit,
            consumed=self._its_consumed,
            count_tokens=self.count_tokens,
            accumulate=self._users_accumulation,
            max_micro_batch=self._limit,
        )

    def _resume_sizes(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        if self._inside is None:
            super()._resume_sizes(trainer, checkpoint)
        else:
            self._inside.resumed(epoch_of(checkpoint), self._limit)

    def _begin(self, trainer: Trainer) -> None:
        if self._inside is None:
            super()._begin(trainer)
            return
        self._inside.start()
        sizes = self.schedule.values() if isinstance(self.schedule, Mapping) else [self._inside.batch.batch_size]
        splits = [self._inside.split(size) for size in sizes]
        is_listed = isinstance(self.schedule, Mapping) and math.isinf(trainer.num_training_batches)
        if is_listed or not (self._inside.is_planned or self.unit != "tokens"):
            self._ahead = RunAhead(splits)  # of a stream no more is known; of tokens, with the first batch
        else:
            self._ahead = look_ahead(trainer, self._inside, self._its_consumed.began_at)
        run_of(trainer).planned = self._ahead.splits

    def _check_sizes(self, trainer: Trainer) -> None:
        if self._inside is None or self._ahead is None:
            super()._check_sizes(trainer)
            return
        self._checks.start(trainer, check_run(trainer, self._ahead))
        if isinstance(self.schedule, Mapping) and has_an_end(trainer) and not is_trial(trainer):
            latest = max(self.schedule)
            if self._ahead.steps is not None and latest >= self._ahead.consumed:
                rank_zero_warn(
                    f"the schedule changes the batch size at {latest} {self.unit}, and the run ends after "
                    f"{self._ahead.consumed}; train longer or leave it out"
                )

    def _begin_epoch(self, trainer: Trainer) -> None:
        if self._inside is None:
            super()._begin_epoch(trainer)
        elif not averages_weights_now(trainer):
            self._inside.begin_epoch()

    def _plan_epoch(self, trainer: Trainer, epoch: int) -> None:
        if self._inside is None:
            super()._plan_epoch(trainer, epoch)
        else:
            self._inside.plan_epoch(epoch)

    def _end_sizes(self, trainer: Trainer) -> None:
        if self._inside is None:
            super()._end_sizes(trainer)
            return
        self._inside.end()
        self._inside = self._ahead = None
