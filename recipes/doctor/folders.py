"""The runs that a folder holds: of a comparison, of `reproduce`, or of anyone's own Trainer with a logger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..runner.saved_settings import CONFIG
from .curves import log_files
from .facts import Facts
from .own_runs import RESULT, facts_of_logs
from .recipe_runs import RUN, facts_of_comparison, facts_of_reproduced

COMPARISON = "comparison.json"  # of `lightning_gap.recipes.compare`


@dataclass(frozen=True)
class Found:
    """What is in a folder.

    Attributes:
        runs: To be diagnosed.
        small: The small-batch run to compare them with, if there is one.
    """

    runs: Sequence[Facts]
    small: Facts | None = None


def read_folder(folder: Path) -> Found:
    """What can be read of the runs in a folder.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing in it that can be read.
        NotADirectoryError: If it is no folder.
        ValueError: If a file is damaged, or the folder holds many runs of different kinds.
    """
    if not folder.exists():
        raise FileNotFoundError(f"folder={str(folder)!r} does not exist; name the folder of a run's logs or results")
    if not folder.is_dir():
        raise NotADirectoryError(f"folder={str(folder)!r} is no folder; name the folder that it lies in")
    if (folder / CONFIG).is_file() and (folder / "runs").is_dir():
        return _with_small(*facts_of_comparison(folder))
    if (folder / RUN).is_file():
        return Found(*facts_of_reproduced(folder))
    reproduced = sorted(folder.glob(f"runs/*/{RUN}")) or sorted(folder.glob(f"*/{RUN}"))
    if reproduced:
        first = str(reproduced[0].parent)
        raise ValueError(f"folder={str(folder)!r} holds {len(reproduced)} runs of reproduce; name one, as {first!r}")
    if (folder / COMPARISON).is_file():
        runs = [replace(facts_of_logs(path, folder), name=path.parent.name) for path in _one_seed(folder)]
        return _with_small(runs, next((run for run in runs if run.name == "small"), None))
    return _with_smallest([facts_of_logs(path, folder) for path in _folders_with_logs(folder)])


def _one_seed(folder: Path) -> list[Path]:
    """Of every regime that `compare` trained a module of the user's own under, the finished run of the first seed.

    Raises:
        ValueError: If no run is finished.
    """
    finished = sorted(folder.glob(f"runs/*/seed-*/{RESULT}"), key=lambda file: int(file.parent.name[len("seed-") :]))
    if not finished:
        raise ValueError(f"folder={str(folder)!r} has no finished run; let one of them end first")
    return sorted({file.parent.parent: file.parent for file in reversed(finished)}.values())


def _folders_with_logs(folder: Path) -> list[Path]:
    holding = sorted({file.parent for file in (*folder.rglob("*tfevents*"), *folder.rglob("metrics.csv"))})
    found = [path for path in holding if log_files(path)]
    if not found:
        raise FileNotFoundError(
            f"folder={str(folder)!r} has no logs or results that can be read; name one with TensorBoard's event files, "
            "CSVLogger's metrics.csv, or the results of compare, run or reproduce"
        )
    return found


def _with_small(runs: Sequence[Facts], small: Facts | None) -> Found:
    others = [run for run in runs if run is not small]
    return Found(others, small) if others else Found(runs)


def _with_smallest(runs: Sequence[Facts]) -> Found:
    """The run with the smallest batch is what those with larger ones are compared with."""
    sizes = {run.name: run.batch_size.value for run in runs if run.batch_size}
    if not sizes or min(sizes.values()) == max(sizes.values()):
        return Found(runs)
    small = next(run for run in runs if sizes.get(run.name) == min(sizes.values()))
    return Found([run for run in runs if run is not small], small)
