"""The runs that were asked for, with nothing left open, and all of it checked before anything is trained."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from ..catalogue import load_recipe
from ..datasets import DATASETS, ClassificationData
from ..evaluation import monitors
from ..recipe import Recipe
from ..recipe_check import built, check_batches, check_callbacks, check_network
from .run_result import RESULT
from .settings import Settings
from .trainer import check_trainer, instantiated

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
        logs: Where its TensorBoard logs go.
        kept_epochs: Epochs after which its weights are kept too, 0 for the initial ones; see `kept_weights`.
    """

    regime: str
    trial: int
    seed: int
    folder: Path
    title: str
    logs: Path
    kept_epochs: tuple[int, ...] = ()

    @property
    def result(self) -> Path:
        """A file that is there once the run is finished."""
        return self.folder / RESULT


@dataclass(frozen=True)
class Plan:
    """Settings, and what follows from them.

    Attributes:
        settings: As given, the rest filled in.
        recipe_class: The recipe.
        trainer: One that trains nothing, and knows the processes, the micro-batches of a step and the device.
    """

    settings: Settings
    recipe_class: type[Recipe]
    trainer: Trainer
    _read: list[tuple[Any, int]] = field(default_factory=list, repr=False)  # the samples, once

    @classmethod
    def of(cls, settings: Settings) -> Plan:
        """With the class in the recipe's file, and a Trainer of the arguments.

        Raises:
            ValueError: If either cannot be made.
        """
        return cls(settings, load_recipe(settings.recipe), check_trainer(settings.trainer))

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        return self.trainer.strategy.root_device

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
                self.output / "tensorboard" / name / f"trial-{trial}",
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

    def monitors(self, recipe: Recipe) -> list[Callback]:
        """What is measured while a recipe trains, as often in a longer run."""
        epochs = self.settings.hyperparameters["epochs"]
        every = self.settings.measure_every_n_epochs or max(1, epochs // 10)
        return monitors(recipe, self.settings.epsilon, max(1, every * recipe.epochs // epochs))

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
    plan = Plan.of(settings)
    processes, threads = plan.trainer.world_size, settings.threads
    outside = os.environ.get("WORLD_SIZE", f"{processes}")
    if outside != f"{processes}":
        raise ValueError(
            f"WORLD_SIZE={outside} processes are started from outside, and trainer.devices asks for {processes}; pass "
            f"--trainer.devices {outside}, or what makes as many with --trainer.num_nodes"
        )
    if settings.workers > 1 and processes > 1:
        raise ValueError(
            f"workers={settings.workers} trains runs side by side, and trainer.devices asks for {processes} "
            "processes of each; use one of the two"
        )
    if settings.workers > 1 and threads is None:
        threads = max(1, torch.get_num_threads() // settings.workers)
    output = settings.output or _default_output(settings, processes)
    plan = replace(plan, settings=replace(settings, threads=threads, output=output))
    try:
        check_plan(plan)
    except ValueError as error:
        if settings.recipe.endswith(".py"):
            raise ValueError(f"recipe={settings.recipe!r}: {error}") from error
        raise
    return plan


def check_plan(plan: Plan) -> None:
    """Refuse what cannot be trained: a batch, a ghost or a network that does not fit the data, callbacks that clash.

    Raises:
        ValueError: Names what does not fit.
        OSError: If the data set's files are not there or cannot be read.
    """
    settings, processes = plan.settings, plan.trainer.world_size
    with torch.random.fork_rng(devices=[]):
        users = instantiated(settings.trainer).get("callbacks", [])
        for index, name in enumerate(settings.regimes):
            with torch.device("meta"):
                recipe = built(lambda name=name: plan.recipe(name, 0))  # type: ignore[misc]
            data = plan.data(recipe, settings.seed)
            if index == 0:
                two = [data.train[index] for index in (0, len(data.train) - 1)]
                samples, targets = zip(*two, strict=True)
                batch = torch.stack([*map(torch.as_tensor, samples)]), torch.stack([*map(torch.as_tensor, targets)])
                check_network(lambda: plan.recipe(settings.regimes[0], 0), batch, classes=data.num_classes)
            accumulate = plan.trainer.accumulate_grad_batches
            check_batches(recipe, len(data.train), processes=processes, accumulate=accumulate)
            recipe.configure_optimizers()
            check_callbacks(recipe, plan.monitors(recipe), users)
    held_out = len(data.validation)
    if 0 < held_out < processes:
        raise ValueError(
            f"validation_size={held_out} is less than a sample for each of {processes} processes; use 0 or more"
        )
    if held_out and settings.trainer.get("limit_val_batches") == 0:
        raise ValueError(
            f"trainer.limit_val_batches=0 leaves the {held_out} validation samples unused; pass --validation_size 0"
        )


def _default_output(settings: Settings, processes: int) -> Path:
    if os.environ.get(OUTPUT):
        return Path(os.environ[OUTPUT])
    if processes > 1 and any(name in os.environ for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        raise ValueError(
            f"output must be given where {processes} processes are started from outside, so that all have the same; "
            "pass --output with a new folder"
        )
    stamp = datetime.now(tz=timezone.utc).strftime("%Y%m%d-%H%M%S")
    return Path("results") / f"{Path(settings.recipe).stem}-{settings.data}-{stamp}-{secrets.token_hex(3)}"
