"""Train one regime of one trial, and measure what it found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.progress import Progress
from torch import Tensor
from torch.distributed import barrier, is_available, is_initialized, new_group

from lightning_gap import weight_distance

from ..datasets import ClassificationData
from ..evaluation import as_the_weights_are, evaluate, evaluated_with, ready_to_measure, sharpness_in_percent
from ..recipe import Recipe
from .checkpoints import check_fits, newest_checkpoint, remove_checkpoints, savers, write_whole_files
from .plan import Plan, Run
from .run_result import WEIGHTS, RunResult
from .trainer import make_trainer, monitors
from .watch import Watch, is_first_process


class CannotStartError(ValueError):
    """A run ended before its first step."""


def train(plan: Plan, run: Run, bar: Progress) -> None:
    """Train and measure a run; resume it from the newest whole checkpoint in its folder, if there is one.

    When the run is done its folder holds ``weights.pt``, the final `state_dict` of the network, and its result.

    Raises:
        CannotStartError: If no batch was trained on: what was asked for cannot work.
    """
    watch = Watch(bar, run.title)
    try:
        _train(plan, run, watch)
    except Exception as error:  # of whatever type Lightning, a network or a callback ends with
        if not watch.trained:
            kind = "" if isinstance(error, ValueError | MisconfigurationException) else f"{type(error).__name__}: "
            raise CannotStartError(" ".join(f"{run.regime}: {kind}{error}".split())) from error
        raise


def _train(plan: Plan, run: Run, watch: Watch) -> None:
    settings = plan.settings
    recipe = plan.recipe(run.regime, run.seed)
    data = plan.data(recipe, run.seed)
    initial = [weight.detach().clone() for weight in recipe.parameters()]
    run.folder.mkdir(parents=True, exist_ok=True)
    newest = newest_checkpoint(run.folder, warn=is_first_process())
    check_fits(newest, recipe)
    saving = savers(run.folder, recipe.epochs) if settings.trainer.get("enable_checkpointing", True) else []
    every = (settings.measure_every_n_epochs or 1) * recipe.epochs // settings.hyperparameters["epochs"]
    trainer = make_trainer(
        settings.trainer,
        epochs=recipe.epochs,
        callbacks=[watch, *monitors(recipe, data, settings.epsilon, every), *saving],
        logger=TensorBoardLogger(
            plan.output / "tensorboard", run.regime, version=f"trial-{run.trial}", default_hp_metric=False
        ),
    )
    write_whole_files(trainer)
    trainer.fit(recipe, data, ckpt_path=newest)
    with _others_waiting():
        if not trainer.is_global_zero:
            return
        seconds = watch.seconds
        if not watch.batch_sizes:
            raise ValueError(
                "not one optimizer step was taken, so that there is nothing to tell of; leave out what ends the run "
                "before, for instance trainer.max_steps, max_time or limit_train_batches"
            )
        ready_to_measure(recipe, trainer.strategy.root_device)
        result = _measure(plan, recipe, initial, data, trainer, watch, seconds)
        torch.save(recipe.network.cpu().state_dict(), run.folder / WEIGHTS)
        result.save(run.result)
        remove_checkpoints(run.folder)


@contextmanager
def _others_waiting() -> Iterator[None]:
    """Let the other processes wait for the first to measure, for longer than the processes of a fit wait."""
    group: Any = new_group(backend="gloo", timeout=timedelta(days=2)) if is_available() and is_initialized() else None
    yield
    if group is not None:
        barrier(group=group)


def _measure(
    plan: Plan,
    recipe: Recipe,
    initial: list[Tensor],
    data: ClassificationData[Any],
    trainer: Trainer,
    watch: Watch,
    seconds: float,
) -> RunResult:
    chunk, epsilon, device = recipe.evaluation_chunk, plan.settings.epsilon, trainer.strategy.root_device
    with evaluated_with(recipe.batch_norm, recipe, lambda: data.evaluation("train", chunk)):
        train_loss, train_accuracy = evaluate(recipe, data.evaluation("train", chunk))
        test_loss, test_accuracy = evaluate(recipe, data.evaluation("test", chunk))
    measured = list(as_the_weights_are(recipe, data.evaluation("train", chunk, recipe.sharpness_samples)))
    sizes = list(watch.batch_sizes.values())
    return RunResult(
        batch_size=sizes[0],
        last_batch_size=sizes[-1],
        epochs=trainer.current_epoch,
        steps=trainer.global_step,
        learning_rate=watch.learning_rate,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        sharpness=sharpness_in_percent(recipe, measured, epsilon, "running"),
        sharpness_batch=sharpness_in_percent(recipe, measured, epsilon, "batch"),
        distance=weight_distance(recipe.parameters(), [start.to(device) for start in initial]),
        seconds=seconds,
    )
