"""Resuming: where a checkpoint goes on, and what Lightning needs to be helped with."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import Trainer

from .data._planned_loader import PlannedLoader


def epoch_of(checkpoint: dict[str, Any]) -> int:
    """The epoch that a checkpoint goes on in; one that was saved at the end of an epoch, in the next."""
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    epochs = loops.get("epoch_progress", {}).get("current", {})
    if "processed" not in epochs:
        return int(checkpoint.get("epoch", 0))
    inside = not loops.get("epoch_loop.batch_progress", {}).get("is_last_batch", True)
    stopped_inside = inside and epochs["processed"] == epochs["ready"] > 0  # by max_steps; Lightning counts it as done
    return int(epochs["processed"]) - stopped_inside


def ends_epoch(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint was saved between two epochs."""
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
    return "processed" in progress and progress["processed"] == progress["ready"]


def epochs_begun(checkpoint: dict[str, Any]) -> int:
    """How many epochs had begun, the one that a checkpoint was saved inside of among them."""
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
    return int(progress.get("ready", 0))


def go_on_from(trainer: Trainer, checkpoint: dict[str, Any], *, optimizers: bool) -> None:
    """Let Lightning restore epochs and steps, and if asked optimizers and schedulers, right after `on_fit_start`."""
    left_out = () if optimizers else ("optimizer_states", "lr_schedulers")
    kept = {name: value for name, value in checkpoint.items() if name not in left_out}
    if not optimizers:
        kept |= {"optimizer_states": [o.state_dict() for o in trainer.optimizers], "lr_schedulers": []}
    trainer._checkpoint_connector._loaded_checkpoint = kept


def go_on_where_saved(trainer: Trainer) -> None:
    """Mend where Lightning resumes elsewhere than where the checkpoint was saved; once or several times.

    - With ``max_steps`` it runs an epoch that was over again, without batches, and counts it twice; one that was
      stopped inside it takes to be over.
    - After a checkpoint that was saved with the last batch of an epoch it goes on with the next epoch, but neither
      counts nor announces its beginning; and skips batches if that epoch is longer.
    - It loses the state of a resumable loader where `estimated_stepping_batches` was read in `configure_optimizers`,
      which builds the loader too soon (Lightning issue 20550).
    """
    fit_loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    epochs, batches = fit_loop.epoch_progress, epoch_loop.batch_progress
    if fit_loop.restarted_on_epoch_end and batches.is_last_batch:
        epochs.increment_completed()
        fit_loop.reset_restart_stage()
        batches.reset_on_run()
    elif fit_loop.restarted_on_epoch_end:
        for progress in (epochs.current, epochs.total):
            progress.processed -= 1  # type: ignore[attr-defined]
        fit_loop._restart_stage = "restarted_mid_epoch"  # Lightning's own word
    if not fit_loop.restarted_mid_epoch:
        return
    if epochs.current.processed == epochs.current.ready:  # type: ignore[attr-defined]
        fit_loop.reset_restart_stage()
        if epoch_loop.restarted_on_train_batch_end:
            batches.current.completed = sys.maxsize  # it is compared with the length of the next epoch
    elif isinstance(trainer.train_dataloader, PlannedLoader):
        trainer.train_dataloader.seek(trainer.current_epoch, batches.current.processed)  # type: ignore[attr-defined]
