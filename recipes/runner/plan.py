"""What to train on what: settings, filled in from the recipe and checked before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_gap import BatchPlan, GhostBatchNormSwap, LearningRateScaling
from lightning_gap.recipes.catalogue import recipe
from lightning_gap.recipes.checks import check_numbers, check_settings, completed
from lightning_gap.recipes.classifier import Classifier
from lightning_gap.recipes.datasets import DATASETS, ClassificationData
from lightning_gap.recipes.network_check import check_network
from lightning_gap.recipes.recipe import Numbers, Recipe, chosen
from lightning_gap.recipes.regimes import REGIMES, Regime
from lightning_gap.recipes.trainer import check_trainer, instantiated
from lightning_gap.recipes.training import monitors

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
        numbers: Overrides of the recipe's hyperparameters.
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
    splits: ClassificationData[Any]
    output: Path
    processes: int
    accumulate: int
    device: torch.device
    recipe: Recipe = field(repr=False)

    def regime(self, name: str) -> Regime:
        """A fresh regime, with callbacks that no other run has used."""
        return REGIMES[name](self.numbers)

    def data(self, regime: Regime, seed: int) -> ClassificationData[Any]:
        """The data, each process its share of a regime's batches, in this trial's order."""
        settings = self.settings
        found = DATASETS[self.data_name](
            regime.numbers,
            batch_size=regime.batch_size,
            data_dir=settings.data_dir,
            num_workers=settings.num_workers,
            seed=seed,
        )
        found.setup()
        return found

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

    def micro_batch(self, batch_size: int) -> int:
        """Samples of a batch that one process works on at a time."""
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
    data_name, numbers = _numbers(settings, found)
    for name in settings.regimes:
        chosen("regime", name, REGIMES)
    check_settings(settings)
    trainer = check_trainer(settings.trainer)
    splits = DATASETS[data_name](numbers, batch_size=1, data_dir=settings.data_dir, download=settings.download)
    splits.prepare_data()
    splits.setup()
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


def _numbers(settings: Settings, found: Recipe) -> tuple[str, Numbers]:
    """The data set and the hyperparameters for it, checked; an error names a recipe's file of the user's own."""
    data_name = settings.data or next(iter(found.numbers))
    try:
        chosen("data set", data_name, DATASETS)
        own = found.numbers[chosen(f"data set for {settings.recipe}", data_name, found.numbers)]
        numbers = completed(own, settings)
        check_numbers(numbers)
    except ValueError as error:
        if settings.recipe.endswith(".py"):
            raise ValueError(f"recipe={settings.recipe!r}: {error}") from error
        raise
    return data_name, numbers


def _check_network(plan: Plan) -> nn.Module:
    """Build it once with the user's options, and let it take two samples."""
    settings, splits = plan.settings, plan.splits
    two = [splits.train[index] for index in (0, len(splits.train) - 1)]
    batch = (
        torch.stack([torch.as_tensor(inputs) for inputs, _ in two]),
        torch.tensor([int(target) for _, target in two]),
    )
    try:
        network: nn.Module = check_network(lambda: plan.new_network(0), batch, classes=splits.num_classes)
    except ValueError as error:
        options = ", ".join(f"{name}={value!r}" for name, value in settings.network.items())
        given = f" with network options {options}" if options else ""
        _, unbuilt, reason = str(error).partition("cannot be built")
        if unbuilt:
            raise ValueError(f"{settings.recipe} {unbuilt}{given}{reason}") from error
        raise ValueError(f"the network of {settings.recipe}{given}, on {plan.data_name}: {error}") from error
    return network


def _check_regime(plan: Plan, name: str, network: nn.Module) -> None:
    regime = plan.regime(name)
    normalises_samples = any(isinstance(layer, nn.BatchNorm1d) for layer in network.modules())
    for size in regime.batch_sizes.values():
        data = plan.data(replace(regime, batch_sizes={0: size}), plan.settings.seed)
        batches = BatchPlan(len(data.train), plan.micro_batch(size), processes=plan.processes)
        if normalises_samples and batches.size(len(batches) - 1) == 1:
            raise ValueError(
                f"batches of {size} leave a last one with a single sample for a process, of {len(data.train)} training "
                "samples, which BatchNorm cannot normalise; use another batch size or validation_size"
            )
    Classifier(network, regime.numbers).configure_optimizers()
    _check_callbacks(plan, name, regime)
    _check_ghosts(plan, regime)
    _check_validation(plan, data)


def _check_callbacks(plan: Plan, name: str, regime: Regime) -> None:
    """Lightning would drop a user's callback for one of ours without a word."""
    ours = {
        type(callback) for callback in (*regime.callbacks, *monitors(plan.data(regime, 0), plan.settings.epsilon, 1))
    }
    found = instantiated(plan.settings.trainer).get("callbacks") or []
    users = found if isinstance(found, list) else [found]
    for callback in users:
        if type(callback) in ours:
            raise ValueError(
                f"trainer.callbacks has a {type(callback).__name__}, and the regime {name!r} brings its own; leave "
                "yours out, or change the recipe's numbers"
            )
    if all(type(callback).__module__.startswith("lightning.pytorch.callbacks") for callback in users):
        logged = _logged_every_epoch(plan, regime)  # nobody else logs
        for callback in users:
            wanted = getattr(callback, "monitor", None)
            if isinstance(wanted, str) and wanted not in logged and getattr(callback, "strict", True):
                raise ValueError(
                    f"trainer.callbacks has a {type(callback).__name__} on {wanted!r}, which is not logged in every "
                    f"epoch; these are: {', '.join(logged)}"
                )


def _logged_every_epoch(plan: Plan, regime: Regime) -> list[str]:
    """The names that a callback can find at the end of the first epoch, and of each other."""
    data, settings = plan.data(regime, 0), plan.settings
    splits = ["train", *(["validation"] if len(data.validation) else [])]
    logged = [f"{split}/{value}" for split in splits for value in ("loss", "accuracy")]
    if (settings.measure_every_n_epochs or 1) * regime.epochs // plan.numbers.epochs == 1:
        keys = (key for monitor in monitors(data, settings.epsilon, 1) for key in getattr(monitor, "keys", ()))
        logged += [key for key in keys if "/log_" not in key and "_final" not in key]  # which take more than one epoch
    if any(isinstance(callback, LearningRateScaling) for callback in regime.callbacks):
        logged += ["lr/effective", "lr/scale", "batch/effective"]
    return logged


def _check_ghosts(plan: Plan, regime: Regime) -> None:
    ghosts = [callback.ghost_batch_size for callback in regime.callbacks if isinstance(callback, GhostBatchNormSwap)]
    share = plan.micro_batch(regime.batch_size)
    if ghosts and not 2 <= ghosts[0] <= share:
        raise ValueError(
            f"ghost_batch_size={ghosts[0]} must be from 2 to the {share} samples that a process works on at a time, "
            f"a batch of {regime.batch_size} on {plan.processes} processes in {plan.accumulate} parts"
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


def _output(settings: Settings, data_name: str, processes: int) -> Path:
    if settings.output is not None:
        return settings.output
    if os.environ.get(OUTPUT):
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
