"""When a monitor measures, and how much of the run's time that may take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..functional._validation import real_number, whole_number

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


class TimeBudget:
    """How much of a run's time a monitor has spent, and whether it may measure once more.

    A measurement waits while what was spent would exceed a share of the training time. The first ten seconds are not
    limited, so that small runs are measured in full.
    """

    def begin(self, trainer: Trainer) -> None:
        """Start the clock: training begins."""
        self._began, self._spent, self._last = time.perf_counter(), 0.0, 0.0
        self._first_epoch = trainer.current_epoch
        self._told = False

    def allows(self, trainer: Trainer, name: str, share: float | None) -> bool:
        """Whether it may measure now; all processes decide alike."""
        if share is None:
            return True
        within = self.has_room(trainer, share, free_seconds=FREE_SECONDS)
        if not within and not self._told:
            self._told = True
            epoch = self._trained() / (trainer.current_epoch + 1 - self._first_epoch)
            rank_zero_warn(
                f"{name}: a measurement takes {self._last:.1f} s and an epoch {epoch:.1f} s, so it is made only as "
                f"often as max_time_share={share} allows; measure fewer samples, or pass max_time_share=None"
            )
        return within

    def has_room(self, trainer: Trainer, share: float | None, *, free_seconds: float = 0.0) -> bool:
        """Whether one measurement more, as long as the last, fits into the share; all processes decide alike."""
        if share is None:
            return True
        within: bool = trainer.strategy.broadcast(
            self._spent + self._last <= max(free_seconds, share * self._trained())
        )
        return within

    def _trained(self) -> float:
        return time.perf_counter() - self._began - self._spent

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Note the time that the block takes."""
        began = time.perf_counter()
        yield
        self._last = time.perf_counter() - began
        self._spent += self._last
