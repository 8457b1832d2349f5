"""When a monitor measures, and how much of the run's time that may take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..functional._validation import real_number, whole_number
from ..trainer.progress import is_last_planned

EveryNEpochs = int | Literal["log"]

FREE_SECONDS = 10.0


def check_every_n_epochs(every_n_epochs: EveryNEpochs) -> EveryNEpochs:
    """The value as a plain int, or "log"; raise if it is neither."""
    if isinstance(every_n_epochs, str) and every_n_epochs == "log":
        return "log"
    return whole_number("every_n_epochs", every_n_epochs, hint='or "log" for epochs 1, 2, 4, 8, ...')


def check_time_share(max_time_share: float | None) -> float | None:
    """The value as a plain float, or None; raise if it is neither."""
    if max_time_share is None:
        return None
    hint = "a share of the training time such as 0.1, or None for no limit"
    return real_number("max_time_share", max_time_share, above=0, hint=hint)


def is_regular(epoch: int, every_n_epochs: EveryNEpochs) -> bool:
    """Whether this epoch, counted from 0, is an n-th one, or with "log" epoch 1, 2, 4, 8, ..."""
    done = epoch + 1
    return done & (done - 1) == 0 if every_n_epochs == "log" else done % every_n_epochs == 0


class Schedule:
    """The ends of epochs at which a monitor measures, within a budget of time.

    Measured are every n-th epoch, or with "log" the epochs 1, 2, 4, 8, ..., the last one, and the end of a run that
    ends sooner. In between, a measurement waits while what was spent would exceed ``max_time_share`` of the training
    time; the first ten seconds are not limited, so that small runs are measured in full.

    Attributes:
        every_n_epochs: Epochs from one measurement to the next, or "log".
        max_time_share: A share of the training time; ``None`` for no limit.
    """

    def __init__(self) -> None:
        self.every_n_epochs: EveryNEpochs = 1
        self.max_time_share: float | None = None
        self._began = self._spent = self._last = 0.0
        self.measured_step = self._first_epoch = 0
        self._told = self._batch_seen = False

    def begin(self, trainer: Trainer, measured_step: int | None = None) -> None:
        """Start the clock: training begins, after what a checkpoint says was measured last."""
        self._began, self._spent, self._last = time.perf_counter(), 0.0, 0.0
        self.measured_step = trainer.global_step if measured_step is None else measured_step
        self._first_epoch = trainer.current_epoch
        self._told = self._batch_seen = False

    def is_first_batch(self) -> bool:
        """Whether this is asked for the first time since training began; the hooks before it have all run by then."""
        first, self._batch_seen = not self._batch_seen, True
        return first

    def is_due(self, trainer: Trainer, name: str) -> bool:
        """Whether to measure at the end of this epoch; all processes decide alike."""
        if is_last_planned(trainer):
            return True
        due = is_regular(trainer.current_epoch, self.every_n_epochs)
        return due and (self.max_time_share is None or self._is_within_budget(trainer, name, self.max_time_share))

    def is_left(self, trainer: Trainer) -> bool:
        """Whether the run ends with optimizer steps that no measurement has seen."""
        return trainer.global_step > self.measured_step

    @contextmanager
    def measuring(self, trainer: Trainer) -> Iterator[None]:
        """Note the time that the block takes."""
        began = time.perf_counter()
        yield
        self._last = time.perf_counter() - began
        self._spent += self._last
        self.measured_step = trainer.global_step

    def _is_within_budget(self, trainer: Trainer, name: str, share: float) -> bool:
        trained = time.perf_counter() - self._began - self._spent
        within: bool = trainer.strategy.broadcast(self._spent + self._last <= max(FREE_SECONDS, share * trained))
        if not within and not self._told:
            self._told = True
            epoch = trained / (trainer.current_epoch + 1 - self._first_epoch)
            rank_zero_warn(
                f"{name}: a measurement takes {self._last:.1f} s and an epoch {epoch:.1f} s, so it is made only as "
                f"often as max_time_share={share} allows; measure fewer samples, or pass max_time_share=None"
            )
        return within
