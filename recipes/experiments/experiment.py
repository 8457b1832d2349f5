"""What an experiment is, and how its runs are made, kept and shown."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, Trainer

from ..datasets import MNIST
from ..recipe import Recipe
from ..runner.quiet import spoken_plainly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[str, dict[int, Any]]  # what was measured, by run and seed


@dataclass(frozen=True)
class Experiment:
    """Runs of recipes, each with several seeds, what is measured of one, and what is shown of all.

    Attributes:
        runs: Names of the runs.
        seeds: The seeds of the published results.
        measure: Trains and measures one run: of its name, its seed and the data's folder, and of what else its
            signature has. What it gives back can be written as JSON.
        table: Markdown of the results.
        figure: Drawing of the results, if there is one.
    """

    runs: Sequence[str]
    seeds: Sequence[int]
    measure: Callable[..., Any]
    table: Callable[[Results], str]
    figure: Callable[[Results], Figure] | None = None


@dataclass
class ResultsFile:
    """A JSON file of results, written whole after each run.

    Args:
        path: The file; what is in it is kept.
        settings: Those of the options of ``measure`` that results depend on; a file with others is refused.

    Raises:
        ValueError: If the file holds anything else, or results of other settings.
    """

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    results: Results = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            settings = dict(held["settings"])
            self.results = {
                run: {int(seed): row for seed, row in rows.items()} for run, rows in held["results"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"out={str(self.path)!r} holds no results ({error}); choose another file") from error
        if settings != dict(self.settings):
            raise ValueError(
                f"out={str(self.path)!r} holds results with the settings {settings}, asked for are "
                f"{dict(self.settings)}; use the same, or choose another file"
            )

    def add(self, run: str, seed: int, measured: Any) -> None:
        """Keep what was measured, all or nothing."""
        self.results.setdefault(run, {})[seed] = measured
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        text = json.dumps({"settings": dict(self.settings), "results": self.results}, indent=1)
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.path)


def perform(
    experiment: Experiment,
    file: ResultsFile,
    data_dir: Path,
    *,
    runs: Sequence[str],
    seeds: Sequence[int],
    options: Mapping[str, Any],
) -> Results:
    """Make the runs that the file does not hold, seed by seed, and give back all that it then holds.

    Args:
        experiment: What to run.
        file: Where results are kept.
        data_dir: Folder with the data's files.
        runs: Names of the runs to make.
        seeds: Seeds to make them with.
        options: What else ``measure`` is called with.
    """
    for seed in seeds:
        for run in runs:
            if seed not in file.results.get(run, {}):
                print(f"{run}, seed {seed} ...", end=" ", flush=True)
                began = time.monotonic()
                file.add(run, seed, experiment.measure(run, seed, data_dir, **options))
                print(f"{time.monotonic() - began:.0f} s", flush=True)
    return {run: dict(sorted(file.results[run].items())) for run in experiment.runs if run in file.results}


def train(
    make: Callable[[], Recipe], seed: int, data_dir: Path, *callbacks: Callback, **trainer: Any
) -> tuple[Recipe, MNIST]:
    """A recipe with the first weights of a seed, trained on MNIST in the order of that seed; and the data.

    Args:
        make: Makes the recipe.
        seed: Seed of the first weights and of the order of the samples.
        data_dir: Folder with MNIST's files.
        callbacks: Beside the regime's.
        trainer: Arguments of the Trainer.
    """
    torch.manual_seed(seed)
    recipe = make()
    data = MNIST(recipe, data_dir=data_dir, seed=seed)
    with spoken_plainly():
        # Where ghosts have the size of the small batch, they are meant to be that batch.
        warnings.filterwarnings("ignore", message=".*plain BatchNorm")
        Trainer(
            max_epochs=recipe.epochs,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **trainer,
        ).fit(recipe, data)
    return recipe, data
