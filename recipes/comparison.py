"""Train several regimes from the same initial weights and say in one table what the large batch cost."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lightning_gap import BatchPlan
from lightning_gap.recipes.augmentation import make_augmentation
from lightning_gap.recipes.catalogue import recipe
from lightning_gap.recipes.checks import check_numbers, check_settings, completed
from lightning_gap.recipes.classifier import Classifier
from lightning_gap.recipes.datasets import DATASETS, FolderData, FolderImages, InMemoryData, Splits
from lightning_gap.recipes.first_process import is_first_process
from lightning_gap.recipes.progress import EpochProgress, progress_bar
from lightning_gap.recipes.recipe import Numbers, Recipe, chosen
from lightning_gap.recipes.regimes import REGIMES, Regime
from lightning_gap.recipes.trainer import check_trainer
from lightning_gap.recipes.training import OUTCOME, Outcome, train

OUTPUT = "LIGHTNING_GAP_OUTPUT"  # where the processes that Lightning starts find the folder that the first one chose


@dataclass(frozen=True)
class Settings:
    """What to train on what, and where the results go.

    Args:
        recipe: Network, as `lightning-gap list` names it, or a file that `lightning-gap copy` wrote.
        regimes: Training regimes, as `lightning-gap list` names them.
        data: Data set; by default the recipe's first.
        data_dir: Folder that holds the data set's files.
        download: Download the data set into ``data_dir`` if it is not there.
        num_workers: Processes that read images of a set that does not fit in memory; one for each core by default.
        trials: Repetitions, each with initial weights and data order of its own.
        seed: Seed of the first trial; the k-th uses seed + k - 1.
        numbers: Of the recipe's numbers those to replace.
        network: Options of the network, for instance {"variant": "paper"} or {"width": 64}.
        trainer: Arguments of Lightning's Trainer, for instance {"devices": 2, "precision": "bf16-mixed"}.
        epsilon: Half-widths of the sharpness box, relative to ``|x_i| + 1``.
        measure_every_n_epochs: How often the monitors log; a tenth of the epochs by default. A regime with more epochs
            logs as many times.
        output: Folder for the results, new or empty; by default one named after recipe, data set and time.
        resume: Go on in ``output``: finished runs are kept, an unfinished one continues from its last checkpoint.
    """

    recipe: str
    regimes: tuple[str, ...]
    data: str | None = None
    data_dir: Path = Path("data")
    download: bool = False
    num_workers: int | None = None
    trials: int = 1
    seed: int = 0
    numbers: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    epsilon: tuple[float, ...] = (1e-3, 5e-4)
    measure_every_n_epochs: int | None = None
    output: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class Plan:
    """Settings with nothing left open, all of it checked.

    Attributes:
        settings: As given, defaults filled in; ``numbers`` holds all of them.
        numbers: The recipe's numbers with the overrides.
        data_name: The data set.
        splits: The samples.
        output: Folder of the results.
        processes: Processes that train together.
        accumulate: Micro-batches of an optimizer step.
        device: Where this process trains.
        recipe: The recipe.
    """

    settings: Settings
    numbers: Numbers
    data_name: str
    splits: Splits
    output: Path
    processes: int
    accumulate: int
    device: torch.device
    recipe: Recipe = field(repr=False)

    def regime(self, name: str) -> Regime:
        """A fresh regime, with callbacks that no other run has used."""
        return REGIMES[name](self.numbers)

    def data(self, regime: Regime, seed: int) -> InMemoryData | FolderData:
        """The data, each process its share of a regime's batches, in this trial's order."""
        numbers = regime.numbers
        served = {
            "batch_size": self._micro_batch(regime.batch_size),
            "validation_size": numbers.validation_size,
            "seed": seed,
        }
        if isinstance(self.splits.train, FolderImages):
            workers = {} if self.settings.num_workers is None else {"num_workers": self.settings.num_workers}
            return FolderData(self.splits, augmentation=numbers.augmentation, **served, **workers)
        return InMemoryData(self.splits, augmentation=make_augmentation(numbers.augmentation, self.splits), **served)

    def new_network(self, seed: int) -> nn.Module:
        """The network with the initial weights of the trial that has this seed."""
        torch.manual_seed(seed)
        network: nn.Module = self.recipe.network(
            self.splits.input_shape, self.splits.num_classes, **self.settings.network
        )
        return network

    def run_folder(self, regime: str, trial: int) -> Path:
        """Where one run keeps its checkpoint, final weights and outcome."""
        return self.output / "runs" / regime / f"trial-{trial}"

    def _micro_batch(self, batch_size: int) -> int:
        shares = self.processes * self.accumulate
        if batch_size % shares:
            raise ValueError(
                f"a batch of {batch_size} samples cannot be split equally over {self.processes} processes and "
                f"accumulate_grad_batches={self.accumulate}; use a multiple of {shares}"
            )
        return batch_size // shares


def make_plan(settings: Settings) -> Plan:
    """Fill in what was left open and refuse what cannot work, before anything is trained or written.

    Raises:
        ValueError: If a name is unknown, a number out of range, a batch or ghost too large, or the network or the
            Trainer does not take its arguments.
        OSError: If the data set's files are not there or cannot be read.
    """
    found = recipe(settings.recipe)
    data_name = settings.data or next(iter(found.numbers))
    chosen("data set", data_name, DATASETS)
    numbers = completed(found.numbers[chosen(f"data set for {settings.recipe}", data_name, found.numbers)], settings)
    for name in settings.regimes:
        chosen("regime", name, REGIMES)
    check_settings(settings)
    check_numbers(numbers)
    trainer = check_trainer({**settings.trainer, "max_epochs": numbers.epochs})
    splits = DATASETS[data_name](settings.data_dir, download=settings.download)
    splits = splits.standardised() if numbers.standardise else splits
    output = _output(settings, data_name, trainer.world_size)
    filled = replace(
        settings,
        data=data_name,
        numbers=asdict(numbers),
        trainer={name: value for name, value in settings.trainer.items() if name != "max_epochs"},  # now `epochs`
        measure_every_n_epochs=settings.measure_every_n_epochs or max(1, numbers.epochs // 10),
        output=output,
    )
    plan = Plan(
        filled,
        numbers,
        data_name,
        splits,
        output,
        trainer.world_size,
        trainer.accumulate_grad_batches,
        trainer.strategy.root_device,
        found,
    )
    network = _check_network(plan)
    for name in settings.regimes:
        _check_regime(plan, name, network)
    return plan


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
                outcome = Outcome.load(file)
                outcomes[name].append(outcome)
                ending = "kept from before" if kept else f"{outcome.seconds:.0f} s"
                report(f"{title}: {outcome.steps} steps, test accuracy {100 * outcome.test_accuracy:.2f} %, {ending}")
    return outcomes


def _train_one(plan: Plan, name: str, trial: int, network: nn.Module, progress: EpochProgress) -> None:
    settings, regime, folder = plan.settings, plan.regime(name), plan.run_folder(name, trial)
    folder.mkdir(parents=True, exist_ok=True)
    every = settings.measure_every_n_epochs or 1  # epochs of a run of `numbers.epochs`
    train(
        network,
        plan.data(regime, settings.seed + trial - 1),
        regime,
        epsilon=settings.epsilon,
        measure_every_n_epochs=every * regime.epochs // plan.numbers.epochs,
        folder=folder,
        logger=TensorBoardLogger(
            plan.output / "tensorboard", name=name, version=f"trial-{trial}", default_hp_metric=False
        ),
        progress=progress,
        trainer=settings.trainer,
    )


def _check_network(plan: Plan) -> nn.Module:
    """Build it once, on no device, with the user's options."""
    try:
        with torch.device("meta"):
            return plan.new_network(0)
    except (TypeError, ValueError) as error:
        options = ", ".join(f"{name}={value!r}" for name, value in plan.settings.network.items())
        raise ValueError(f"{plan.settings.recipe} cannot be built with network options {options}: {error}") from error


def _check_regime(plan: Plan, name: str, network: nn.Module) -> None:
    regime = plan.regime(name)
    normalises_samples = any(isinstance(layer, nn.BatchNorm1d) for layer in network.modules())
    for size in regime.batch_sizes.values():
        data = plan.data(replace(regime, batch_sizes={0: size}), plan.settings.seed)
        batches = BatchPlan(len(data.train), data.batch_size, processes=plan.processes)
        if normalises_samples and batches.size(len(batches) - 1) == 1:
            raise ValueError(
                f"batches of {size} leave a last one with a single sample for a process, of {len(data.train)} training "
                "samples, which BatchNorm cannot normalise; use another batch size or validation_size"
            )
    Classifier(network, regime.numbers).configure_optimizers()


def _output(settings: Settings, data_name: str, processes: int) -> Path:
    if settings.output is not None:
        return settings.output
    if OUTPUT in os.environ:
        return Path(os.environ[OUTPUT])
    if processes > 1 and _started_from_outside():
        raise ValueError(
            f"output must be given where {processes} processes are started from outside, so that all have the same; "
            "pass --output with a new folder"
        )
    stamp = datetime.now(tz=timezone.utc).strftime("%Y%m%d-%H%M%S")
    return Path("results") / f"{Path(settings.recipe).stem}-{data_name}-{stamp}"


def _started_from_outside() -> bool:
    """Whether a launcher such as torchrun or SLURM started this process beside others."""
    return any(name in os.environ for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


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
