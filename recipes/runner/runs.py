"""Train several regimes from the same initial weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lightning_gap.recipes.first_process import is_first_process
from lightning_gap.recipes.plan import OUTPUT, Plan
from lightning_gap.recipes.progress import EpochProgress, progress_bar
from lightning_gap.recipes.training import OUTCOME, Outcome, train


class CannotStartError(Exception):
    """A run ended before its first step."""


def run_all(plan: Plan, report: Callable[[str], None]) -> dict[str, list[Outcome]]:
    """Train every regime of every trial that has no outcome yet; the outcomes by regime, one for each trial.

    Args:
        plan: What to do.
        report: Called with one line for each run.

    Returns:
        For each regime its outcomes, in the order of the trials; on the first process only.
    """
    settings = plan.settings
    outcomes: dict[str, list[Outcome]] = {name: [] for name in settings.regimes}
    with progress_bar() as bar, _told_to_other_processes(plan.output):
        for trial in range(1, settings.trials + 1):
            seed = settings.seed + trial - 1
            initial = plan.new_network(seed)
            for name in settings.regimes:
                file = plan.run_folder(name, trial) / OUTCOME
                title = name if settings.trials == 1 else f"{name}, trial {trial} of {settings.trials}"
                kept = file.exists()
                if not kept:
                    _train_one(plan, name, trial, copy.deepcopy(initial), EpochProgress(bar, title))
                if not is_first_process():
                    continue
                outcome = Outcome.load(file, settings.epsilon)
                outcomes[name].append(outcome)
                ending = "kept from before" if kept else f"{outcome.seconds:.0f} s"
                report(f"{title}: {outcome.steps} steps, test accuracy {100 * outcome.test_accuracy:.2f} %, {ending}")
    return outcomes


def _train_one(plan: Plan, name: str, trial: int, network: nn.Module, progress: EpochProgress) -> None:
    settings, regime, folder = plan.settings, plan.regime(name), plan.run_folder(name, trial)
    folder.mkdir(parents=True, exist_ok=True)
    seed = settings.seed + trial - 1
    every = settings.measure_every_n_epochs or 1  # epochs of a run of `numbers.epochs`
    logger = TensorBoardLogger(plan.output / "tensorboard", name, version=f"trial-{trial}", default_hp_metric=False)
    try:
        train(
            network,
            plan.data(regime, seed),
            regime,
            epsilon=settings.epsilon,
            measure_every_n_epochs=every * regime.epochs // plan.numbers.epochs,
            folder=folder,
            logger=logger,
            progress=progress,
            trainer=settings.trainer,
        )
    except Exception as error:  # of whatever type Lightning, a network or a callback ends with
        if progress.last_epoch is None:  # no batch was trained on: what was asked for cannot work
            kind = "" if isinstance(error, ValueError | MisconfigurationException) else f"{type(error).__name__}: "
            raise CannotStartError(" ".join(f"{name}: {kind}{error}".split())) from error
        raise


@contextmanager
def _told_to_other_processes(output: Path) -> Iterator[None]:
    before = os.environ.get(OUTPUT)
    os.environ[OUTPUT] = str(output)
    try:
        yield
    finally:
        if before is None:
            del os.environ[OUTPUT]
        else:
            os.environ[OUTPUT] = before
