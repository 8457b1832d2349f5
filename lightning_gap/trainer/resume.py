"""Resume exactly where a checkpoint was saved, where Lightning alone would not."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer

from ..data._planned_loader import PlannedLoader
from ..data.stream import ResumableStream
from . import _private
from .epoch_means import gather_again, gathered
from .processes import from_all_processes
from .saved_progress import ends_epoch, loader_states

_KEY = "lightning_gap.epoch"


@dataclass(frozen=True)
class SavedEpoch:
    """What a checkpoint holds of the epoch that it was saved in.

    Attributes:
        means: What `log(..., on_epoch=True)` had gathered, of each process.
        loaders: The state of the train loader; empty where there were several, or one without a state.
    """

    means: Sequence[Any] = ()
    loaders: Sequence[Any] = ()


def continue_from(trainer: Trainer, checkpoint: dict[str, Any], *, optimizers: bool) -> None:
    """Let Lightning restore epochs and steps, and if asked optimizers and schedulers, right after `on_fit_start`."""
    left_out = () if optimizers else ("optimizer_states", "lr_schedulers")
    kept = {name: value for name, value in checkpoint.items() if name not in left_out}
    if not optimizers:
        kept |= {"optimizer_states": [o.state_dict() for o in trainer.optimizers], "lr_schedulers": []}
    _private.hand_over_checkpoint(trainer, kept)


def fix_resume_progress(trainer: Trainer, saved: SavedEpoch | None = None) -> None:
    """Fix what Lightning restores differently from what was saved.

    - With ``max_steps`` it runs an epoch that was over again, without batches, and counts it twice; one that was
      stopped inside it takes to be over.
    - After a checkpoint that was saved with the last batch of an epoch it continues with the next epoch, but neither
      counts nor announces its beginning; and skips batches if that epoch is longer.
    - It forgets what `log(..., on_epoch=True)` had gathered of the epoch, so that its mean is that of the rest alone;
      after a checkpoint that was saved with the last batch it does not log the epoch at all.
    - It loses the state of a resumable loader where `estimated_stepping_batches` was read in `configure_optimizers`,
      which builds the loader too soon (Lightning issue 20550).
    """
    fit_loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    epochs, batches = fit_loop.epoch_progress, epoch_loop.batch_progress
    saved = saved or SavedEpoch()
    if fit_loop.restarted_on_epoch_end and batches.is_last_batch:
        epochs.increment_completed()
        fit_loop.reset_restart_stage()
        batches.reset_on_run()
    elif fit_loop.restarted_on_epoch_end:
        for progress in (epochs.current, epochs.total):
            progress.processed -= 1  # type: ignore[attr-defined]
        _private.restart_mid_epoch(trainer)
    if not fit_loop.restarted_mid_epoch:
        return
    if epochs.current.processed == epochs.current.ready:  # type: ignore[attr-defined]
        with _in_the_epoch_before(trainer):
            if gather_again(trainer, saved.means):
                connector = _private.logger_connector(trainer)
                connector.callback_metrics  # noqa: B018 - computes them, and keeps them for callbacks
                connector.update_train_epoch_metrics()
        fit_loop.reset_restart_stage()
        if epoch_loop.restarted_on_train_batch_end:
            # It is compared with the length of the next epoch; where that has none, it counts one more.
            batches.current.completed = -1 if math.isinf(trainer.num_training_batches) else sys.maxsize
        _seek(trainer, saved, 0)
        return
    gather_again(trainer, saved.means)
    _seek(trainer, saved, batches.current.processed)  # type: ignore[attr-defined]


def keep_saved_step(trainer: Trainer) -> None:
    """Keep the checkpoint that a run is resumed from, which a `ModelCheckpoint` that saves at steps would replace.

    It forgets in a new process that it has saved this step, and would save it again after the next batch: where batches
    are accumulated, inside the next step, whose gradients that checkpoint lacks.
    """
    _private.count_step_as_saved(trainer)


def _seek(trainer: Trainer, saved: SavedEpoch, position: int) -> None:
    """Let a loader of this package continue with this batch."""
    loader = trainer.train_dataloader
    if isinstance(loader, PlannedLoader) and not position:
        return  # it begins an epoch by itself
    if isinstance(loader, PlannedLoader | ResumableStream):
        for state in saved.loaders:
            loader.load_state_dict(state)  # once more where Lightning did: what must agree is compared
        loader.seek(trainer.current_epoch, position)
    if isinstance(loader, ResumableStream):
        _private.fetch_anew(trainer)


def keep_epoch(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Put what `log(..., on_epoch=True)` has gathered of this epoch into a checkpoint; once or several times.

    All processes call it, as they all save: each has gathered its own.
    """
    if _KEY in checkpoint or ends_epoch(checkpoint):
        return
    checkpoint[_KEY] = from_all_processes(trainer, gathered(trainer))


def saved_epoch(checkpoint: Mapping[str, Any]) -> SavedEpoch:
    """What a checkpoint holds of the epoch that it was saved in."""
    states = loader_states(checkpoint)
    return SavedEpoch(checkpoint.get(_KEY, []), states if len(states) == 1 else [])


@contextmanager
def _in_the_epoch_before(trainer: Trainer) -> Iterator[None]:
    """Let loggers find the epoch whose values these are."""
    current = trainer.fit_loop.epoch_progress.current
    current.completed -= 1
    yield
    current.completed += 1
