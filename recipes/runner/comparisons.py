"""What a results folder holds: the results of the runs that are finished, and which are not."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..gap import Gap, gaps, what_to_look_at
from .run_result import RESULT, RunResult
from .saved_settings import CONFIG


@dataclass(frozen=True)
class Comparison:
    """The finished runs of a folder.

    Attributes:
        folder: Where it is now.
        settings: That its runs were made with, as `config.yaml` has them.
        results: By regime and seed; regimes without a finished run are not among them.
        unfinished: Trials that are not finished, by regime.
    """

    folder: Path
    settings: Mapping[str, Any]
    results: Mapping[str, Mapping[int, RunResult]]
    unfinished: Mapping[str, Sequence[int]]

    @classmethod
    def read(cls, folder: Path, settings: Mapping[str, Any]) -> Comparison:
        """What is in a folder.

        Args:
            folder: Of `compare` or `run`.
            settings: As `read_settings` gives them.

        Raises:
            ValueError: If no run is finished, or a result cannot be read.
        """
        results: dict[str, dict[int, RunResult]] = {}
        unfinished: dict[str, list[int]] = {}
        for regime in settings["regimes"]:
            for trial in range(1, settings["trials"] + 1):
                file = folder / "runs" / regime / f"trial-{trial}" / RESULT
                if file.exists():
                    found = RunResult.load(file, settings["epsilon"])
                    results.setdefault(regime, {})[settings["seed"] + trial - 1] = found
                else:
                    unfinished.setdefault(regime, []).append(trial)
        comparison = cls(folder, settings, results, unfinished)
        if not results:
            raise ValueError(
                f"folder={str(folder)!r} has no finished run to show; finish it with: {resume_command(comparison)}"
            )
        return comparison

    @property
    def title(self) -> str:
        """Recipe, data and regimes."""
        return f"{self.recipe} on {self.settings['data']}: {', '.join(self.results)}"

    @property
    def recipe(self) -> str:
        """Its name, of a user's file without the folder."""
        return Path(self.settings["recipe"]).name

    @property
    def runs(self) -> dict[str, Path]:
        """Folders of the finished runs by name."""
        first = self.settings["seed"] - 1
        return {
            f"{regime}, trial {seed - first}": self.folder / "runs" / regime / f"trial-{seed - first}"
            for regime, seeds in self.results.items()
            for seed in seeds
        }

    @cached_property
    def gaps(self) -> dict[str, Gap]:
        """To ``small``, by regime."""
        return gaps(
            {name: {seed: one.test_accuracy for seed, one in each.items()} for name, each in self.results.items()}
        )

    @property
    def unfinished_runs(self) -> str:
        """Which they are, in words; an empty text where there are none."""
        return "; ".join(
            f"{name} trial{'s' * (len(trials) > 1)} {', '.join(map(str, trials))}"
            for name, trials in self.unfinished.items()
        )

    @property
    def sentence(self) -> str:
        """What to look at; an empty one where there is nothing to compare with."""
        return what_to_look_at(self.gaps)


def resume_command(comparison: Comparison) -> str:
    """The command that finishes the runs of a folder, for a shell in the current folder."""
    folder = comparison.folder
    return shlex.join(
        ["lightning-gap", "compare", "--config", str(folder / CONFIG), "--output", str(folder), "--resume"]
    )
