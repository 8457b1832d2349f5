"""The runs that were asked for, with nothing left open, and all of it checked before anything is trained."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from lightning_gap import LearningRateScaling

from ..catalogue import load_recipe
from ..datasets import DATASETS, ClassificationData
from ..recipe import Recipe
from ..recipe_check import built, check_batches, check_network
from .run_result import RESULT
from .settings import Settings
from .trainer import check_trainer, instantiated, monitors

OUTPUT = "LIGHTNING_GAP_OUTPUT"  # where the processes that Lightning starts find the folder that the first one chose


@dataclass(frozen=True)
class Run:
    """One regime of one trial.

    Attributes:
        regime: Its name.
        trial: From 1.
        seed: Of initial weights and data order.
        folder: Where it keeps its checkpoints, final weights and result.
        title: Names it to people.
    """

    regime: str
    trial: int
    seed: int
    folder: Path
    title: str

    @property
    def result(self) -> Path:
        """A file that is there once the run is finished."""
        return self.folder / RESULT


@dataclass(frozen=True)
class Plan:
    """Settings, the classes that they name, and the machine that they run on.

    Attributes:
        settings: As given, the rest filled in.
        recipe_class: The recipe.
        processes: Processes that train together.
        accumulate: Micro-batches of an optimizer step.
        device: Where this process trains.
    """

    settings: Settings
    recipe_class: type[Recipe]
    processes: int
    accumulate: int
    device: torch.device
    _read: list[tuple[Any, int]] = field(default_factory=list, repr=False)  # the samples, once

    @property
    def output(self) -> Path:
        """Folder of the results."""
        assert self.settings.output is not None
        return self.settings.output

    def runs(self) -> list[Run]:
        """All runs, trial by trial."""
        settings, several = self.settings, self.settings.trials > 1
        return [
            Run(
                name,
                trial,
                settings.seed + trial - 1,
                self.output / "runs" / name / f"trial-{trial}",
                f"{name}, trial {trial} of {settings.trials}" if several else name,
            )
            for trial in range(1, settings.trials + 1)
            for name in settings.regimes
        ]

    def recipe(self, regime: str, seed: int) -> Recipe:
        """The recipe under a regime, with the initial weights of a seed."""
        torch.manual_seed(seed)
        make: Any = self.recipe_class  # a subclass takes no network
        recipe: Recipe = make(regime, **self.settings.hyperparameters)
        return recipe

    def data(self, recipe: Recipe, seed: int) -> ClassificationData[Any]:
        """The recipe's data in the order of a seed; the files are read once for all."""
        settings = self.settings
        made: ClassificationData[Any] = DATASETS[settings.data](
            recipe,
            data_dir=settings.data_dir,
            download=settings.download,
            num_workers=settings.num_workers,
            seed=seed,
        )
        if not self._read:
            made.prepare_data()
            self._read.append((made.read(), getattr(made, "num_classes", 0)))
        samples, classes = self._read[0]
        made.num_classes = classes  # which ImageNet knows once it is read
        setattr(made, "read", lambda: samples)  # noqa: B010 - mypy lets no method be assigned
        made.setup()
        return made


def make_plan(settings: Settings) -> Plan:
    """Fill in what was left open and refuse what cannot work, before anything is trained or written.

    Raises:
        ValueError: If a batch or ghost is too large, the network does not fit the data, or the Trainer does not take
            its arguments.
        OSError: If the data set's files are not there or cannot be read.
    """
    recipe_class = load_recipe(settings.recipe)
    trainer = check_trainer(settings.trainer)
    if settings.workers > 1 and trainer.world_size > 1:
        raise ValueError(
            f"workers={settings.workers} trains runs side by side, and trainer.devices asks for {trainer.world_size} "
            "processes of each; use one of the two"
        )
    threads = settings.threads
    if settings.workers > 1 and threads is None:
        threads = max(1, torch.get_num_threads() // settings.workers)
    filled = replace(
        settings,
        measure_every_n_epochs=settings.measure_every_n_epochs or max(1, settings.hyperparameters["epochs"] // 10),
        threads=threads,
        output=_output(settings, trainer.world_size),
    )
    plan = Plan(filled, recipe_class, trainer.world_size, trainer.accumulate_grad_batches, trainer.strategy.root_device)
    try:
        _check(plan)
    except ValueError as error:
        if settings.recipe.endswith(".py"):
            raise ValueError(f"recipe={settings.recipe!r}: {error}") from error
        raise
    return plan


def _check(plan: Plan) -> None:
    settings = plan.settings
    with torch.random.fork_rng(devices=[]):
        found = instantiated(settings.trainer).get("callbacks") or []
        users = found if isinstance(found, list) else [found]
        for index, name in enumerate(settings.regimes):
            with torch.device("meta"):
                recipe = built(lambda name=name: plan.recipe(name, 0))  # type: ignore[misc]
            data = plan.data(recipe, settings.seed)
            if index == 0:
                two = [data.train[index] for index in (0, len(data.train) - 1)]
                inputs = torch.stack([torch.as_tensor(sample) for sample, _ in two])
                batch = inputs, torch.tensor([int(target) for _, target in two])
                check_network(lambda: plan.recipe(settings.regimes[0], 0), batch, classes=data.num_classes)
            callbacks = recipe.configure_callbacks()
            check_batches(recipe, len(data.train), processes=plan.processes, accumulate=plan.accumulate)
            recipe.configure_optimizers()
            _check_users_callbacks(plan, name, recipe, data, callbacks, users)
    _check_validation(plan, data)


def _check_users_callbacks(
    plan: Plan,
    name: str,
    recipe: Recipe,
    data: ClassificationData[Any],
    callbacks: Sequence[Callback],
    users: Sequence[Callback],
) -> None:
    """Lightning would drop a user's callback for one of ours without a word."""
    ours = [*callbacks, *monitors(recipe, data, plan.settings.epsilon, 1)]
    for callback in users:
        if type(callback) in map(type, ours):
            raise ValueError(
                f"trainer.callbacks has a {type(callback).__name__}, and the regime {name!r} brings its own; leave "
                "yours out, or change the recipe's hyperparameters"
            )
    if not all(type(callback).__module__.startswith("lightning.pytorch.callbacks") for callback in users):
        return  # others may log what is waited for
    splits = ["train", *(["validation"] if len(data.validation) else [])]
    logged = [f"{split}/{value}" for split in splits for value in ("loss", "accuracy")]
    if (plan.settings.measure_every_n_epochs or 1) * recipe.epochs // plan.settings.hyperparameters["epochs"] == 1:
        keys = (key for monitor in ours for key in getattr(monitor, "keys", ()))
        logged += [key for key in keys if "/log_" not in key and "_final" not in key]  # which take more than one epoch
    if any(isinstance(callback, LearningRateScaling) for callback in callbacks):
        logged += ["lr/effective", "lr/scale", "batch/size", "batch/effective"]
    for callback in users:
        wanted = getattr(callback, "monitor", None)
        if isinstance(wanted, str) and wanted not in logged and getattr(callback, "strict", True):
            raise ValueError(
                f"trainer.callbacks has a {type(callback).__name__} on {wanted!r}, which is not logged in every "
                f"epoch; these are: {', '.join(dict.fromkeys(logged))}"
            )


def _check_validation(plan: Plan, data: ClassificationData[Any]) -> None:
    held_out = len(data.validation)
    if 0 < held_out < plan.processes:
        raise ValueError(
            f"validation_size={held_out} is less than a sample for each of {plan.processes} processes; use 0 or more"
        )
    if held_out and plan.settings.trainer.get("limit_val_batches") == 0:
        raise ValueError(
            f"trainer.limit_val_batches=0 leaves the {held_out} validation samples unused; pass --validation_size 0"
        )


def _output(settings: Settings, processes: int) -> Path:
    if settings.output is not None:
        return settings.output
    if os.environ.get(OUTPUT):
        return Path(os.environ[OUTPUT])
    if processes > 1 and any(name in os.environ for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        raise ValueError(
            f"output must be given where {processes} processes are started from outside, so that all have the same; "
            "pass --output with a new folder"
        )
    stamp = datetime.now(tz=timezone.utc).strftime("%Y%m%d-%H%M%S")
    return Path("results") / f"{Path(settings.recipe).stem}-{settings.data}-{stamp}-{secrets.token_hex(3)}"
