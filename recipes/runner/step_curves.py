"""Learning rate and batch size of every run, by step, where no callback of its regime logs them."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Trainer

from lightning_gap.logging import write_layout

KEYS = ("lr/effective", "batch/size")


class StepCurves:
    """Writes a value when it changes, the one before it, and the last of each epoch: curves with corners, few points.

    By the loggers themselves: Lightning's `log` would take longer than a step of a small network.

    Args:
        trainer: Of the run. Where it logs to TensorBoard, the layout of charts, with these curves, is written here.
    """

    def __init__(self, trainer: Trainer) -> None:
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        theirs = [key for callback in callbacks for key in getattr(callback, "keys", ())]
        self._loggers = trainer.loggers if trainer.is_global_zero else []
        self._keys = [key for key in KEYS if key not in theirs]
        self._written: dict[str, tuple[int, float]] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        write_layout(self._loggers, [*theirs, *KEYS])

    def see(self, step: int, values: Mapping[str, float], *, ends_epoch: bool) -> None:
        """An optimizer step was taken.

        Args:
            step: Its number, from 0.
            values: By ``KEYS``.
            ends_epoch: Whether it is the last of an epoch.
        """
        for key in self._keys:
            changes = key in self._seen and self._seen[key][1] != values[key]
            if changes and self._seen[key] != self._written[key]:
                self._write(key, *self._seen[key])
            self._seen[key] = step, values[key]
            if changes or ends_epoch or key not in self._written:
                self._write(key, *self._seen[key])

    def _write(self, key: str, step: int, value: float) -> None:
        self._written[key] = step, value
        for logger in self._loggers:
            logger.log_metrics({key: value}, step)
