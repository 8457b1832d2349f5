"""The checkpoints of a run: saved all or nothing, passed over where they are damaged, gone when the run is done."""

from __future__ import annotations

import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ..recipe_check import in_one_line
from .whole_files import load_whole, save_whole

SAVED_EVERY = timedelta(minutes=5)
ASKED_EVERY = 50  # steps; the answer must be the same on all processes, and to share it takes a millisecond
_HELD = {"global_step", "state_dict", "loops", "optimizer_states", "callbacks"}


def savers(folder: Path, epochs: int) -> list[ModelCheckpoint]:
    """At the ends of epochs, and by the clock where epochs are long."""
    return [
        ModelCheckpoint(folder, filename="{epoch}", every_n_epochs=max(1, epochs // 10)),
        _InsideEpochs(folder, filename="{epoch}-inside", train_time_interval=SAVED_EVERY),
    ]


class _InsideEpochs(ModelCheckpoint):
    """Save after whole optimizer steps, and not with an epoch's last batch, from where Lightning resumes wrongly."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = batch_idx + 1
        if done < trainer.num_training_batches and done % (ASKED_EVERY * trainer.accumulate_grad_batches) == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class WholeFiles(TorchCheckpointIO):
    """Write beside the file and rename: Lightning writes elsewhere and moves, which between disks is to copy."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save, all or nothing.

        Raises:
            OSError: If it cannot be written; what was saved before is as it was.
        """
        if storage_options is not None or "://" in str(path):  # of a callback of the user's
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            save_whole(checkpoint, Path(path))


def write_whole_files(trainer: Trainer) -> None:
    """Let a Trainer save all or nothing, unless the user has chosen how it saves."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeFiles()


def newest_checkpoint(folder: Path, *, warn: bool = False) -> Path | None:
    """The whole checkpoint of a run with the most steps, if it has one.

    Args:
        folder: Of the run.
        warn: Whether to warn of those that are passed over because they are damaged.

    Raises:
        ValueError: If there are some, and none can be read.
    """
    steps = {path: _steps(path) for path in sorted(folder.glob("epoch=*.ckpt"))}
    whole = {path: found for path, found in steps.items() if isinstance(found, int)}
    newest = max(whole, key=whole.__getitem__, default=None)
    damaged = [f"{str(path)!r} cannot be read ({found})" for path, found in steps.items() if isinstance(found, str)]
    told = f"the checkpoint {', '.join(damaged)}"
    if damaged and newest is None:
        raise ValueError(
            f"{told} and there is no other; delete it to train that run from the beginning, or choose a new --output"
        )
    if damaged and warn and newest is not None:
        warnings.warn(f"{told} and is passed over; the run goes on from {newest.name}", stacklevel=1)
    return newest


def remove_checkpoints(folder: Path) -> None:
    """Of a run that is done."""
    for used in folder.glob("*.ckpt*"):
        if used.is_file():
            used.unlink()


def _steps(path: Path) -> int | str:
    """Optimizer steps of a checkpoint, or why it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an archive of another kind, which is refused
            stored = load_whole(path, map_location="cpu", mmap=True)
        lacking = _HELD - stored.keys()
        return (
            f"no checkpoint of a run: without {', '.join(sorted(lacking))}" if lacking else int(stored["global_step"])
        )
    except Exception as error:  # of whatever type the bytes lead to
        return in_one_line(error)
