"""Train one regime of one trial, and measure what it found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from rich.progress import Progress
from torch.distributed import barrier, is_available, is_initialized, new_group

from ..evaluation import measure, ready_to_measure
from ..recipe_check import in_one_line
from .checkpoints import newest_checkpoint, remove_checkpoints, savers, write_whole_files
from .final_values import log_final_values
from .kept_weights import KeepWeights
from .plan import Plan, Run
from .run_result import WEIGHTS, RunResult
from .trainer import make_trainer
from .watch import Watch, is_first_process
from .whole_files import save_whole


class CannotStartError(ValueError):
    """A run ended before its first step."""


def train(plan: Plan, run: Run, bar: Progress) -> None:
    """Train and measure a run; resume it from the newest whole checkpoint in its folder, if there is one.

    When the run is done its folder holds ``weights.pt``, the final `state_dict` of the network, and its result.

    Raises:
        CannotStartError: If no batch was trained on: what was asked for cannot work.
    """
    watch = Watch(bar, run.title)
    newest = newest_checkpoint(run.folder, warn=is_first_process())
    try:
        _train(plan, run, watch, newest)
    except Exception as error:  # of whatever type Lightning, a network or a callback ends with
        if watch.trained:
            raise
        is_told = isinstance(error, ValueError | MisconfigurationException)
        told = f"{run.regime}: {error if is_told else in_one_line(error)}"
        if newest is not None:
            told += f"; resumed from {str(newest)!r}: if it is of another network, delete it or choose a new --output"
        raise CannotStartError(" ".join(told.split())) from error


def _train(plan: Plan, run: Run, watch: Watch, newest: Path | None) -> None:
    settings = plan.settings
    recipe = plan.recipe(run.regime, run.seed)
    data = plan.data(recipe, run.seed)
    initial = [weight.detach().clone() for weight in recipe.parameters()]
    saving = savers(run.folder, recipe.epochs) if settings.trainer.get("enable_checkpointing", True) else []
    keeping = [KeepWeights(run.folder, run.kept_epochs)] if run.kept_epochs else []
    trainer = make_trainer(
        settings.trainer,
        epochs=recipe.epochs,
        callbacks=[watch, *plan.monitors(recipe), *keeping, *saving],
        logger=TensorBoardLogger(run.logs, name="", version="", default_hp_metric=False),
    )
    write_whole_files(trainer)
    trainer.fit(recipe, data, ckpt_path=newest)
    with _others_waiting():
        if not trainer.is_global_zero:
            return
        seconds, sizes = watch.seconds, list(watch.batch_sizes.values())
        if not sizes:
            raise ValueError(
                "not one optimizer step was taken, so that there is nothing to tell of; leave out what ends the run "
                "before, for instance trainer.max_steps, max_time or limit_train_batches"
            )
        ready_to_measure(recipe, trainer.strategy.root_device)
        with watch.measuring():
            measured = measure(recipe, data, initial, settings.epsilon)
        result = RunResult(
            batch_size=sizes[0],
            last_batch_size=sizes[-1],
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            learning_rate=watch.learning_rate,
            seconds=seconds,
            **measured,
        )
        log_final_values(trainer, run.logs, recipe, result)
        save_whole(recipe.network.cpu().state_dict(), run.folder / WEIGHTS)
        result.save(run.result)
        remove_checkpoints(run.folder)


@contextmanager
def _others_waiting() -> Iterator[None]:
    """Let the other processes wait for the first to measure, for longer than the processes of a fit wait."""
    group: Any = new_group(backend="gloo", timeout=timedelta(days=2)) if is_available() and is_initialized() else None
    yield
    if group is not None:
        barrier(group=group)
