"""Train several regimes from the same initial weights and say in one table what the large batch cost."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lightning_gap.recipes.catalogue import RECIPES, Numbers, chosen
from lightning_gap.recipes.datasets import DATASETS, InMemoryData, Splits
from lightning_gap.recipes.progress import EpochProgress, progress_bar
from lightning_gap.recipes.regimes import REGIMES, Regime
from lightning_gap.recipes.training import Outcome, train


@dataclass(frozen=True)
class Settings:
    """What to train on what, and where the results go. Numbers that are not given are the recipe's own.

    Args:
        recipe: Network, as `lightning-gap list` names it.
        regimes: Training regimes, as `lightning-gap list` names them.
        data: Data set.
        data_dir: Folder that holds the data set's files; nothing is downloaded.
        trials: Repetitions, each with initial weights and data order of its own.
        seed: Seed of the first trial; the k-th uses seed + k - 1.
        epochs: Epochs of every regime but longer, which trains more in proportion to the batch sizes.
        small_batch_size: Samples per step of the small-batch regime.
        large_batch_size: Samples per step of every other regime, at the end of those that change the batch.
        ghost_batch_size: Samples per ghost of the ghost regime.
        warmup_epochs: Epochs in which a scaled learning rate is reached.
        learning_rate: ADAM's rate, before any scaling.
        validation_size: Training samples held out for the gap that TensorBoard shows.
        epsilon: Half-widths of the sharpness box, relative to ``|x_i| + 1``.
        measure_every_n_epochs: How often the monitors log; a tenth of the epochs by default. A regime with more epochs
            logs as many times.
        accelerator: As in Lightning's Trainer.
        output: Folder for the results, new or empty; by default one named after recipe, data set and time.
        resume: Go on in ``output``: finished runs are kept, an unfinished one continues from its last checkpoint.
    """

    recipe: str
    regimes: tuple[str, ...]
    data: str = "digits"
    data_dir: Path = Path("data")
    trials: int = 1
    seed: int = 0
    epochs: int | None = None
    small_batch_size: int | None = None
    large_batch_size: int | None = None
    ghost_batch_size: int | None = None
    warmup_epochs: float | None = None
    learning_rate: float | None = None
    validation_size: int | None = None
    epsilon: tuple[float, ...] = (1e-3, 5e-4)
    measure_every_n_epochs: int | None = None
    accelerator: str = "auto"
    output: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class Plan:
    """Settings with nothing left open, all of it checked.

    Attributes:
        settings: As given, defaults filled in.
        numbers: The recipe's numbers with the overrides.
        splits: The samples.
        output: Folder of the results.
        network: Builds the network from (in_features, num_classes).
    """

    settings: Settings
    numbers: Numbers
    splits: Splits
    output: Path
    network: Callable[[int, int], nn.Module] = field(repr=False)

    def regime(self, name: str) -> Regime:
        """A fresh regime, with callbacks that no other run has used."""
        return REGIMES[name](self.numbers)

    def data(self, batch_size: int, seed: int) -> InMemoryData:
        """The data served with this batch size in this trial's order."""
        return InMemoryData(self.splits, batch_size=batch_size, validation_size=self.numbers.validation_size, seed=seed)

    def new_network(self, seed: int) -> nn.Module:
        """The network with the initial weights of the trial that has this seed."""
        torch.manual_seed(seed)
        return self.network(self.splits.train[0][0].numel(), self.splits.num_classes)

    def run_folder(self, regime: str, trial: int) -> Path:
        """Where one run keeps its checkpoint, final weights and outcome."""
        return self.output / "runs" / regime / f"trial-{trial}"


def make_plan(settings: Settings) -> Plan:
    """Fill in what was left open and refuse what cannot work, before anything is trained or written.

    Raises:
        ValueError: If a name is unknown, a number out of range, or a batch or ghost too large.
        FileNotFoundError: If the data set's files are not there.
    """
    recipe = RECIPES[chosen("recipe", settings.recipe, RECIPES)]
    chosen("data set", settings.data, DATASETS)
    numbers = recipe.numbers[chosen(f"data set for {settings.recipe}", settings.data, recipe.numbers)]
    given = {f.name: getattr(settings, f.name) for f in fields(Numbers)}
    numbers = replace(numbers, **{name: value for name, value in given.items() if value is not None})
    _check(settings, numbers)
    every = settings.measure_every_n_epochs or max(1, numbers.epochs // 10)
    stamp = datetime.now(tz=timezone.utc).strftime("%Y%m%d-%H%M%S")
    output = settings.output or Path("results") / f"{settings.recipe}-{settings.data}-{stamp}"
    filled = replace(
        settings,
        measure_every_n_epochs=every,
        output=output,
        **{f.name: getattr(numbers, f.name) for f in fields(Numbers)},
    )
    made = Plan(filled, numbers, DATASETS[settings.data](settings.data_dir), output, recipe.network)
    for name in settings.regimes:
        made.data(max(made.regime(name).batch_sizes.values()), settings.seed)
    return made


def run_all(plan: Plan, report: Callable[[str], None]) -> dict[str, list[Outcome]]:
    """Train every regime of every trial that has no outcome yet; the outcomes by regime, one for each trial.

    Args:
        plan: What to do.
        report: Called with one line for each run.

    Returns:
        For each regime its outcomes, in the order of the trials.
    """
    settings = plan.settings
    outcomes: dict[str, list[Outcome]] = {name: [] for name in settings.regimes}
    with progress_bar() as bar:
        for trial in range(1, settings.trials + 1):
            seed = settings.seed + trial - 1
            initial = plan.new_network(seed)
            for name in settings.regimes:
                file = plan.run_folder(name, trial) / "outcome.json"
                title = name if settings.trials == 1 else f"{name}, trial {trial} of {settings.trials}"
                kept = file.exists()
                if not kept:
                    _train_one(plan, name, trial, copy.deepcopy(initial), EpochProgress(bar, title))
                outcome = Outcome.load(file)
                outcomes[name].append(outcome)
                ending = "kept from before" if kept else f"{outcome.seconds:.0f} s"
                report(f"{title}: {outcome.steps} steps, test accuracy {100 * outcome.test_accuracy:.2f} %, {ending}")
    return outcomes


def _train_one(plan: Plan, name: str, trial: int, network: nn.Module, progress: EpochProgress) -> None:
    settings, regime, folder = plan.settings, plan.regime(name), plan.run_folder(name, trial)
    folder.mkdir(parents=True, exist_ok=True)
    every = settings.measure_every_n_epochs or 1  # epochs of a run of `settings.epochs`
    train(
        network,
        plan.data(regime.batch_size, settings.seed + trial - 1),
        regime,
        learning_rate=plan.numbers.learning_rate,
        epsilon=settings.epsilon,
        measure_every_n_epochs=every * regime.epochs // plan.numbers.epochs,
        folder=folder,
        logger=TensorBoardLogger(
            plan.output / "tensorboard", name=name, version=f"trial-{trial}", default_hp_metric=False
        ),
        progress=progress,
        accelerator=settings.accelerator,
    )


def _check(settings: Settings, numbers: Numbers) -> None:
    if settings.resume and settings.output is None:
        raise ValueError("resume needs the folder to go on in; pass --output")
    if not settings.regimes or len(set(settings.regimes)) < len(settings.regimes):
        raise ValueError(f"regimes must name at least one regime, each once, got {list(settings.regimes)}")
    for name in settings.regimes:
        chosen("regime", name, REGIMES)
    _check_numbers(settings, numbers)
    try:
        Trainer(accelerator=settings.accelerator, devices=1, logger=False, enable_progress_bar=False)
    except (MisconfigurationException, ModuleNotFoundError) as error:
        raise ValueError(f"accelerator={settings.accelerator!r} cannot be used here: {error}") from error


def _check_numbers(settings: Settings, numbers: Numbers) -> None:
    counts = {name: getattr(numbers, name) for name in ("epochs", "small_batch_size", "large_batch_size")}
    counts |= {"trials": settings.trials, "ghost_batch_size": numbers.ghost_batch_size}
    counts["measure_every_n_epochs"] = 1 if settings.measure_every_n_epochs is None else settings.measure_every_n_epochs
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    epsilon = settings.epsilon
    if not epsilon or not all(0 < value < math.inf for value in epsilon) or len(set(epsilon)) < len(epsilon):
        raise ValueError(f"epsilon must be different positive numbers, got {list(epsilon)}; the paper: 1e-3 and 5e-4")
    if not 0 < numbers.learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive, got {numbers.learning_rate}")
    if not 0 <= numbers.warmup_epochs < math.inf:
        raise ValueError(f"warmup_epochs must not be negative or infinite, got {numbers.warmup_epochs}")
    if not 0 <= settings.seed < 2**31:
        raise ValueError(f"seed must be from 0 to {2**31 - 1}, got {settings.seed}")
