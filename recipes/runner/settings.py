"""What the command line is asked for; checked without importing torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEEDS = 2**31


@dataclass(frozen=True)
class Settings:
    """What to train on what, and where the results go.

    Args:
        recipe: As `lightning-gap list` names it, or a file that `lightning-gap copy` wrote.
        regimes: Training regimes of the recipe; the first two also share a figure.
        data: Data set; by default the recipe's first.
        data_dir: Folder that holds the data set's files.
        download: Download the data set into ``data_dir`` if it is not there.
        num_workers: Processes that read images of a set that does not fit in memory; one for each core by default.
        trials: Repetitions, each with initial weights and data order of its own.
        seed: Seed of the first trial; the k-th uses seed + k - 1.
        trainer: Arguments of Lightning's Trainer, for instance {"devices": 2, "precision": "bf16-mixed"}.
        epsilon: Half-widths of the sharpness box, relative to ``|x_i| + 1``.
        measure_every_n_epochs: How often the monitors log; a tenth of the epochs by default. A regime with more epochs
            logs as many times.
        workers: Runs that train side by side, each in a process of its own.
        threads: CPU threads of each run; by default all that torch takes, shared among the workers. Sums round
            differently with another number of threads.
        output: Folder for the results, new or empty; by default one named after recipe, data set and time.
        resume: Resume the runs in ``output``: those that are finished are kept, others continue from their last
            checkpoint.
        hyperparameters: Of the recipe, all of them.
    """

    recipe: str
    regimes: tuple[str, ...]
    data: str
    data_dir: Path = Path("data")
    download: bool = False
    num_workers: int | None = None
    trials: int = 1
    seed: int = 0
    trainer: Mapping[str, Any] = field(default_factory=dict)
    epsilon: tuple[float, ...] = (1e-3, 5e-4)
    measure_every_n_epochs: int | None = None
    workers: int = 1
    threads: int | None = None
    output: Path | None = None
    resume: bool = False
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what contradicts itself or is out of range.

        Raises:
            ValueError: Names the setting, its value and the fix.
        """
        if self.resume and self.output is None:
            raise ValueError("resume needs the folder of the run to resume; pass --output")
        if not self.regimes:
            raise ValueError("regimes must name at least one regime, got none; see `lightning-gap list`")
        twice = [name for name in self.regimes if self.regimes.count(name) > 1]
        if twice:
            raise ValueError(f"regimes must name each regime once, got {twice[0]} {self.regimes.count(twice[0])} times")
        for name in ("trials", "measure_every_n_epochs", "workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {self.num_workers}")
        sizes = self.epsilon
        if not sizes or not all(0 < value < math.inf for value in sizes) or len(set(sizes)) < len(sizes):
            raise ValueError(f"epsilon must be different positive numbers, got {list(sizes)}; the paper: 1e-3 and 5e-4")
        if not 0 <= self.seed <= SEEDS - self.trials:
            raise ValueError(f"seed must be from 0 to {SEEDS - self.trials}, got {self.seed}")
