"""What the monitors that measure on a schedule have in common: when they measure, log and let go."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from .._lightning import log_now
from .._refusals import refuse_same_keys, refuse_sharded_weights
from ._callback import GapCallback
from ._module_loss import MeasuredLoss
from ._schedule import Schedule


class ScheduledMonitor(GapCallback):
    """Logs its values before the first step if asked to, at the ends of epochs that are due, and when the run ends.

    A monitor draws what it measures on in `on_train_start`, and hands it back in `_forget`.
    """

    may_change = ("every_n_epochs", "at_start", "max_time_share")
    at_start: bool
    _schedule: Schedule

    @property
    @abstractmethod
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs."""

    @abstractmethod
    def _values(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """Measure now: a value for each key."""

    @abstractmethod
    def _forget(self) -> None:
        """Let go of what was drawn."""

    def _check(self, trainer: Trainer, module: LightningModule) -> None:
        """Raise before the first step if something cannot be measured."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            refuse_sharded_weights(trainer, self)
            refuse_same_keys(trainer, self, self.keys)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._schedule.begin(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._schedule.is_first_batch():
            self._check(trainer, pl_module)
            if self.at_start and trainer.global_step == 0:
                log_now(trainer, self._values(trainer, pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._schedule.is_due(trainer, type(self).__name__):
            pl_module.log_dict(self._values(trainer, pl_module), sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._schedule.is_left(trainer):
            log_now(trainer, self._values(trainer, pl_module))
        self._forget()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._forget()


class LossMonitor(ScheduledMonitor):
    """A scheduled monitor of the loss on a fixed subset, drawn before the first step and let go at the end."""

    _loss: MeasuredLoss

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._loss.refuse(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loss.draw(trainer, pl_module)
        super().on_train_start(trainer, pl_module)

    def _check(self, trainer: Trainer, module: LightningModule) -> None:
        self._loss.check(trainer, module)

    def _forget(self) -> None:
        self._loss.forget()
