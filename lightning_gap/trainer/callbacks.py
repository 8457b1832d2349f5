"""The callbacks of a Trainer."""

from __future__ import annotations

import math

from lightning.pytorch import Callback, Trainer

from ._private import state_key as state_key


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """All callbacks of a Trainer, for which Lightning's types know no attribute."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def is_lightnings(thing: object, name: str) -> bool:
    """Whether it is an instance of the class of Lightning's, or of a subclass, under either of Lightning's names.

    `lightning.pytorch` and `pytorch_lightning` hold the same classes twice; `isinstance` knows one of them.
    """
    return any(
        kind.__name__ == name and kind.__module__.split(".")[0] in ("lightning", "pytorch_lightning")
        for kind in type(thing).__mro__
    )


def accumulation_scheduled(trainer: Trainer) -> list[int]:
    """The factors of Lightning's own schedule of the accumulation that this run comes to, where the Trainer has one."""
    schedules = (other for other in callbacks_of(trainer) if is_lightnings(other, "GradientAccumulationScheduler"))
    by_epoch = (item for schedule in schedules for item in schedule.scheduling.items())  # type: ignore[attr-defined]
    last = trainer.max_epochs if trainer.max_epochs not in (None, -1) else math.inf
    return [factor for epoch, factor in by_epoch if epoch < last]
