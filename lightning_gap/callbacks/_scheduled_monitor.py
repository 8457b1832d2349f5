"""What the monitors that measure on a schedule have in common: when they measure, log and let go."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..functional.errors import (
    FailedElsewhereError,
    RandomLossError,
    UndefinedCurvatureError,
    UndefinedNoiseError,
    UndefinedSharpnessError,
)
from ..trainer.logs import log_now
from ..trainer.processes import process_group
from ..trainer.refusals import refuse_same_keys, refuse_sharded_weights
from ..trainer.state import CannotBePutBackError
from ._callback import GapCallback
from ._evaluations import NoLossError, one_line
from ._module_loss import MeasuredLoss, is_out_of_memory
from ._schedule import Schedule, is_regular

T = TypeVar("T")

_HALVINGS = 3
_MEMORY, _UNDEFINED, _ELSEWHERE, _OTHER = "memory", "undefined", "elsewhere", "other"
_UNDEFINED_ERRORS = (
    *(UndefinedSharpnessError, UndefinedCurvatureError, UndefinedNoiseError),
    *(NoLossError, CannotBePutBackError, RandomLossError),
)


class NoValueError(ValueError):
    """There is no value to log, for a reason that does not end a run."""


class ScheduledMonitor(GapCallback):
    """Logs its values before the first step if asked to, at the ends of epochs that are due, and when the run ends.

    A monitor draws what it measures on in `_draw`, tries it in `_check`, measures in `_values` and hands everything
    back in `_forget`. What is no fault of the run does not end it: where there is no value, a loss that is not finite
    or a batch without a loss, NaN is logged with the reason. Where memory runs out the chunks are halved, three times
    at most. A measurement that a checkpoint came before, at the end of an epoch, is made up for after resuming.
    """

    may_change = ("every_n_epochs", "at_start", "max_time_share")
    at_start: bool
    suffix: str
    _quantity: str  # for a warning
    _schedule: Schedule
    _measured_step: int | None = None  # of the checkpoint that was resumed from
    _owed_epoch: int | None = None
    _resumed_step = 0
    _in_training = False

    @property
    @abstractmethod
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs."""

    @abstractmethod
    def _values(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """Measure now: a value for each key."""

    @abstractmethod
    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        """Fix what to measure on."""

    @abstractmethod
    def _forget(self) -> None:
        """Let go of what was drawn."""

    def _check(self, trainer: Trainer, module: LightningModule, training_batch: Any) -> None:
        """Raise before the first step if something cannot be measured."""

    def _halve_chunks(self, trainer: Trainer, module: LightningModule) -> bool:
        """Measure in smaller chunks from now on; whether that can be done and is the same measurement."""
        return False

    def _no_values(self, trainer: Trainer) -> dict[str, float]:
        """What is logged where there is no value."""
        return dict.fromkeys(self.keys, math.nan)

    def _measure_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Log what is measured only when the run is over."""

    @property
    def state_key(self) -> str:
        return self._generate_state_key(suffix=self.suffix)

    def state_dict(self) -> dict[str, Any]:
        return {"measured_step": self._schedule.measured_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._measured_step = state_dict.get("measured_step")
        self._schedule.measured_step = self._measured_step or 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            refuse_sharded_weights(trainer, self)
            refuse_same_keys(trainer, self, self.keys)
            self._measured_step = self._owed_epoch = None
            self._in_training = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._owed_epoch = _epoch_without_its_end(checkpoint)
        self._resumed_step = int(checkpoint.get("global_step", 0))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._in_training = True
        self._draw(trainer, pl_module)
        self._schedule.begin(trainer, self._measured_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._schedule.is_first_batch():
            return
        self._attempt(lambda: self._check(trainer, pl_module, batch), trainer, pl_module, alone=True)
        if self._owes(trainer) or (self.at_start and trainer.global_step == 0):
            log_now(trainer, self._measured(trainer, pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._schedule.is_due(trainer, type(self).__name__):
            pl_module.log_dict(self._measured(trainer, pl_module), sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._schedule.is_left(trainer):
            log_now(trainer, self._measured(trainer, pl_module))
        self._measure_end(trainer, pl_module)
        self._forget()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that was resumed from after its last step has nothing to train, and Lightning calls no other hook.
        if self._in_training or self._measured_step in (None, trainer.global_step):
            return
        trainer.strategy.model_to_device()
        self._draw(trainer, pl_module)
        log_now(trainer, self._measured(trainer, pl_module))
        self._measure_end(trainer, pl_module)
        self._forget()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._forget()

    def _owes(self, trainer: Trainer) -> bool:
        """Whether the checkpoint was saved with an epoch's last step and before the measurement that was due then."""
        if self._owed_epoch is None or self._measured_step in (None, trainer.global_step):
            return False
        return is_regular(self._owed_epoch, self._schedule.every_n_epochs)

    def _epochs_begun(self, trainer: Trainer) -> int:
        """Epochs that the training up to this measurement has taken; one that is made up for belongs to the last."""
        if self._owed_epoch is not None and self._schedule.measured_step < trainer.global_step == self._resumed_step:
            return self._owed_epoch + 1
        progress: Any = trainer.fit_loop.epoch_progress.current
        return int(
            max(progress.ready, progress.processed)
        )  # the one is short after a resume, the other inside an epoch

    def _measured(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """The values, or NaN with a warning where there are none."""
        with self._schedule.measuring(trainer):
            try:
                return self._attempt(lambda: self._values(trainer, module), trainer, module)
            except NoValueError as error:  # a diverged run, a rare batch or a full device are not ours to stop
                rank_zero_warn(f"{self._quantity} is logged as NaN: {error}")
                return self._no_values(trainer)

    def _attempt(
        self, function: Callable[[], T], trainer: Trainer, module: LightningModule, *, alone: bool = False
    ) -> T:
        """Call it, in smaller chunks where memory runs out; on several processes all do the same.

        Args:
            function: What to call.
            trainer: In a fit.
            module: Its module.
            alone: Whether each process calls it by itself, so that one may fail where the others do not.
        """
        for halvings_left in range(_HALVINGS, -1, -1):
            try:
                result = function()
            except Exception as error:
                kind, reason = _kind_on_all(trainer, _kind(error)), one_line(error)
                if kind not in (_MEMORY, _UNDEFINED):
                    raise
            else:
                kind, reason = _kind_on_all(trainer, _ELSEWHERE) if alone else _ELSEWHERE, "on another process"
                if kind == _ELSEWHERE:
                    return result
                if kind == _OTHER:
                    raise FailedElsewhereError("measuring failed on another process; see its error")
            # Outside of the handler, where nothing holds the memory any more.
            if kind == _UNDEFINED:
                raise NoValueError(reason)
            if halvings_left == 0 or not self._halve_chunks(trainer, module):
                raise NoValueError(f"memory ran out ({reason}); measure in smaller chunks, chunk_size=...")
        raise AssertionError("the last attempt returns or raises")


class LossMonitor(ScheduledMonitor):
    """A scheduled monitor of the loss on a fixed subset, drawn before the first step and let go at the end."""

    _loss: MeasuredLoss

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._loss.refuse(trainer)

    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        self._loss.draw(trainer, module)

    def _check(self, trainer: Trainer, module: LightningModule, training_batch: Any) -> None:
        self._loss.check(trainer, module, training_batch)

    def _halve_chunks(self, trainer: Trainer, module: LightningModule) -> bool:
        return self._loss.halve_chunks(trainer, module)

    def _forget(self) -> None:
        self._loss.forget()


def _kind_on_all(trainer: Trainer, own: str) -> str:
    """What failed, agreed on by all processes, of which some may have failed only because of another, or not at all."""
    kinds = [own]
    if process_group(trainer) is not None:
        kinds = [""] * trainer.world_size
        torch.distributed.all_gather_object(kinds, own)
    known = {kind for kind in kinds if kind != _ELSEWHERE}
    return known.pop() if len(known) == 1 else _OTHER if known else _ELSEWHERE


def _kind(error: Exception) -> str:
    if is_out_of_memory(error):
        return _MEMORY
    if isinstance(error, FailedElsewhereError):
        return _ELSEWHERE
    return _UNDEFINED if isinstance(error, _UNDEFINED_ERRORS) else _OTHER


def _epoch_without_its_end(checkpoint: dict[str, Any]) -> int | None:
    """The epoch with whose last batch a checkpoint was saved, before anything was done at its end."""
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    epochs = loops.get("epoch_progress", {}).get("current", {})
    last = loops.get("epoch_loop.batch_progress", {}).get("is_last_batch", False)
    return int(epochs["processed"]) if last and epochs.get("processed") != epochs.get("ready") else None
