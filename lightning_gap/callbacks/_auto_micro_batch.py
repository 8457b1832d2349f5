"""The hidden half of `BatchSizeScheduler`: ``max_micro_batch="auto"``, halved until a micro-batch fits."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info

from ..trainer.resume import fix_resume_progress
from ._memory_trial import fits
from ._run import run_of
from ._sample_counter import Count
from ._schedules_in_units import SchedulesInUnits

_KEY = "lightning_gap.micro_batch"  # in a checkpoint: the limit that was found


class AutoMicroBatch(SchedulesInUnits):
    """Splits batches so that the largest micro-batch of the run fits into the memory of every process.

    Tried out before the first step counts, the largest first. What is found is kept in the checkpoint, so that a run
    that is resumed on a device as large splits as before.
    """

    def __init__(
        self, *, max_micro_batch: int | Literal["auto"] | None, batch_arg_name: str, count: Count | None
    ) -> None:
        given = None if isinstance(max_micro_batch, str) and max_micro_batch == "auto" else max_micro_batch
        super().__init__(max_micro_batch=given, batch_arg_name=batch_arg_name, count=count)
        if given is not max_micro_batch:
            self.max_micro_batch = "auto"
        self._found: int | None = None

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        self._found = None
        super().begin_fit(trainer, module)

    def resume_from(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        self._found = checkpoint.get(_KEY)
        super().resume_from(trainer, checkpoint)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.max_micro_batch == "auto":
            checkpoint[_KEY] = self._found

    @property
    def _limit(self) -> int | None:
        return self._found if self.max_micro_batch == "auto" else self.max_micro_batch

    def _begin(self, trainer: Trainer) -> None:
        super()._begin(trainer)
        if self.max_micro_batch != "auto" or not run_of(trainer).planned:  # nothing where the run is over
            return
        while not fits(trainer, size := max(split.micro_batch_size for split in run_of(trainer).planned)):
            if size == 1:
                raise ValueError(
                    "max_micro_batch='auto': not even a micro-batch of one sample fits into memory; use a smaller "
                    "model, a lower precision, or a device with more memory"
                )
            self._found = size // 2
            rank_zero_info(f"a micro-batch of {size} samples does not fit into memory; trying {self._found} at most")
            self._split_again(trainer)

    def _split_again(self, trainer: Trainer) -> None:
        """Plan all sizes anew under the limit; the loader at hand has not served a batch."""
        if self._inside is not None:
            self._inside.limit(self._found)
        else:
            run = run_of(trainer)
            planned = (self.planned(trainer, epoch) for epoch in self._epochs_to_come(trainer))
            run.planned, self._decided_epoch = [split for split in planned if split is not None], None
            if self._prepare(trainer, trainer.current_epoch):
                self._its_loader.reload_now()
                fix_resume_progress(trainer)
        super()._begin(trainer)
