"""A folder of runs, each found again by what its numbers depend on, so that no run is made twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..catalogue import bundled
from ..datasets import ClassificationData
from ..evaluation import ready_to_measure
from ..recipe import Recipe
from .checkpoints import remove_checkpoints
from .kept_weights import kept_weights
from .notes import versions
from .plan import Plan, Run
from .records import read_record
from .run_result import WEIGHTS, RunResult
from .settings import Settings
from .trainer import check_trainer
from .training import train
from .watch import progress_bar
from .whole_files import load_whole, write_record

SPEC = "run.json"


@dataclass(frozen=True)
class RunSpec:
    """One run, by all that its numbers depend on but the versions of the libraries and the make of the processor.

    Attributes:
        recipe: Its class.
        regime: A key of its ``regimes``.
        data: A key of its ``data_sets``.
        seed: Of the initial weights and the order of the samples.
        changed: Hyperparameters that differ from those for this data set.
        trainer: Arguments of the Trainer.
        kept_epochs: Epochs after which the weights are kept too, 0 for the initial ones. The same run, whatever it
            keeps.
    """

    recipe: type[Recipe]
    regime: str
    data: str
    seed: int
    changed: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    kept_epochs: tuple[int, ...] = ()

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """All of them."""
        defaults = {name: found.default for name, found in signature(self.recipe).parameters.items()}
        del defaults["regime"]
        return {**defaults, **self.recipe.data_sets[self.data], **self.changed}

    @property
    def described(self) -> dict[str, Any]:
        """What its numbers depend on, as JSON holds it."""
        found = {
            "recipe": f"{self.recipe.__module__}.{self.recipe.__name__}",
            "regime": self.regime,
            "data": self.data,
            "seed": self.seed,
            "hyperparameters": self.hyperparameters,
            "trainer": dict(self.trainer),
        }
        return dict(json.loads(json.dumps(found)))

    @property
    def name(self) -> str:
        """Tells it from all others; the name of its folder."""
        return f"{self.network}-{self.data}-{self.regime}-{self.seed}-{digest(self.described)}"

    @property
    def network(self) -> str:
        """The recipe as the command line has it; of an experiment's own recipe the class's name."""
        name = self.recipe.__module__.rpartition(".")[2].replace("_", "-")
        return name if name in bundled() else self.recipe.__name__.lower()

    def with_seed(self, seed: int) -> RunSpec:
        """The same with another seed."""
        return replace(self, seed=seed)


def digest(described: Any) -> str:
    """Ten hexadecimal digits that tell what can be written as JSON from everything else."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class RunStore:
    """The runs in a folder.

    Args:
        folder: Holds a folder for each run, and one for what was measured of them.
        data_dir: Holds the files of the data sets.
        download: Whether to download what is not there.
    """

    folder: Path
    data_dir: Path
    download: bool = False

    def run_folder(self, spec: RunSpec) -> Path:
        """Where a run is, or would be."""
        return self.folder / "runs" / spec.name

    def is_finished(self, spec: RunSpec) -> bool:
        """Whether a run is done, and has kept what is asked for.

        Raises:
            ValueError: If the folder of this name holds another run, or a result that cannot be read.
        """
        folder = self.run_folder(spec)
        if not (folder / SPEC).exists():
            return False
        try:
            there = read_record(folder / SPEC)["run"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{str(folder / SPEC)!r} cannot be read ({error}); delete that folder") from error
        if there != spec.described:
            raise ValueError(f"{str(folder)!r} holds another run than its name says; delete or rename that folder")
        run = self._run(spec)
        if not run.result.exists():
            return False
        RunResult.load(run.result, self._settings(spec).epsilon)
        return (folder / WEIGHTS).exists() and all(kept_weights(folder, e).exists() for e in spec.kept_epochs)

    def make(self, spec: RunSpec, bar: Any = None) -> None:
        """Train a run, or continue it; nothing if it is finished.

        Args:
            spec: The run.
            bar: Shows its progress; nothing is shown by default.
        """
        if self.is_finished(spec):
            return
        folder = self.run_folder(spec)
        folder.mkdir(parents=True, exist_ok=True)
        if any(not kept_weights(folder, epoch).exists() for epoch in spec.kept_epochs):
            remove_checkpoints(folder)  # from there on the weights before could not be kept
        if not (folder / SPEC).exists():  # else it goes on with what it began with
            made = {"run": spec.described, "versions": versions(), "threads": torch.get_num_threads()}
            write_record(folder / SPEC, made)
        train(self.plan(spec), self._run(spec), progress_bar(shown=False) if bar is None else bar)

    def plan(self, spec: RunSpec) -> Plan:
        """What `train` takes; and what can be checked before."""
        return Plan(self._settings(spec), spec.recipe, check_trainer(spec.trainer))

    def result(self, spec: RunSpec) -> RunResult:
        """What a finished run found."""
        return RunResult.load(self._run(spec).result, _EPSILON)

    def threads(self, spec: RunSpec) -> str:
        """CPU threads that a run began with."""
        found = read_record(self.run_folder(spec) / SPEC)
        return str(found.get("threads", "not recorded"))

    def fingerprint(self, spec: RunSpec) -> str:
        """Tells a finished run's numbers from others."""
        return digest(asdict(self.result(spec)) | {"seconds": 0})

    def trained(self, spec: RunSpec) -> TrainedRun:
        """A finished run, to be measured."""
        return TrainedRun(spec, self.run_folder(spec), self.plan(spec), self.result(spec))

    def _settings(self, spec: RunSpec) -> Settings:
        return Settings(
            recipe=spec.network,
            regimes=(spec.regime,),
            data=spec.data,
            data_dir=self.data_dir,
            download=self.download,
            seed=spec.seed,
            trainer=spec.trainer,
            epsilon=_EPSILON,
            output=self.folder,
            hyperparameters=spec.hyperparameters,
        )

    def _run(self, spec: RunSpec) -> Run:
        folder = self.run_folder(spec)
        return Run(spec.regime, 1, spec.seed, folder, spec.name, folder / "tensorboard", spec.kept_epochs)


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its result, its weights, its data.

    Attributes:
        spec: What was asked for.
        folder: What it left.
        plan: Makes its recipe and data.
        result: What was seen of it, and what its final weights measure.
    """

    spec: RunSpec
    folder: Path
    plan: Plan
    result: RunResult

    def state(self, epoch: int | None = None) -> dict[str, Tensor]:
        """`state_dict` of the network after an epoch that was kept, by default the last."""
        return dict(self._load(self.folder / WEIGHTS) if epoch is None else self._kept(epoch)["network"])

    def step(self, epoch: int) -> int:
        """Optimizer steps taken after an epoch that was kept."""
        return int(self._kept(epoch)["step"])

    def recipe(self, epoch: int | None = None) -> Recipe:
        """With the weights after an epoch, ready to be measured."""
        recipe = self.plan.recipe(self.spec.regime, self.spec.seed)
        recipe.network.load_state_dict(self.state(epoch))
        ready_to_measure(recipe, self.plan.device)
        return recipe

    def data(self, recipe: nn.Module) -> ClassificationData[Any]:
        """The samples, in the order of its seed."""
        assert isinstance(recipe, Recipe)
        return self.plan.data(recipe, self.spec.seed)

    def _kept(self, epoch: int) -> Any:
        return self._load(kept_weights(self.folder, epoch))

    def _load(self, file: Path) -> Any:
        try:
            return load_whole(file, map_location=self.plan.device)
        except Exception as error:  # torch raises whatever the damage leads to
            told = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{str(file)!r} cannot be read ({told}); delete it, and the same command trains this run again"
            ) from error


_EPSILON = (1e-3, 5e-4)
