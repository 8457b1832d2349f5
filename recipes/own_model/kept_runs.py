"""Finished runs in a folder, found again by a later call with the same settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..runner.records import read_record
from ..runner.results_folder import locked
from ..runner.whole_files import write_record

COMPARISON, RUN = "comparison.json", "result.json"


@dataclass(frozen=True)
class OwnRun:
    """What was seen of a run.

    Attributes:
        value: Of the metric.
        batch_size: Samples per optimizer step in the first epoch.
        base_batch_size: The small batch's.
        steps: Optimizer steps taken.
        epochs: Epochs trained.
        accumulate: Micro-batches in a step.
        batch_norms: BatchNorm layers with running statistics.
        weight_decay: The optimizer's, the largest of its groups.
        gradient_clip: Limit of the gradient's norm, 0 for none.
        decay_in_gradient: 1 where ADAM gets the decay as part of the gradient, else 0.
        seconds: Wall time of fit.
    """

    value: float
    batch_size: int
    base_batch_size: int
    steps: int
    epochs: int
    accumulate: int
    batch_norms: int
    weight_decay: float
    gradient_clip: float
    decay_in_gradient: int
    seconds: float


@contextmanager
def kept_in(folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Hold a folder for runs with these settings; no other call works in it meanwhile.

    Raises:
        BlockingIOError: If another call works in it.
        FileExistsError: If the folder has something else in it.
        ValueError: If it has runs with other settings; shows both.
    """
    file = folder / COMPARISON
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"folder={str(folder)!r} is no folder; choose another")
    if folder.exists() and not file.exists() and any(path.name != ".lock" for path in folder.iterdir()):
        raise FileExistsError(f"folder={str(folder)!r} has something else in it; choose a new folder")
    asked = json.loads(json.dumps(settings))
    with locked(folder):
        if file.exists():
            there = _read(file)
            differing = [
                f"{name} is {there.get(name)!r} there and {asked.get(name)!r} here"
                for name in {**there, **asked}
                if there.get(name) != asked.get(name)
            ]
            if differing:
                raise ValueError(
                    f"folder={str(folder)!r} has runs with other settings: {'; '.join(differing)}; use the same "
                    "settings, or choose a new folder"
                )
        else:
            write_record(file, asked)
        yield


def load(folder: Path) -> OwnRun | None:
    """A finished run; None where there is none.

    Raises:
        ValueError: If the file is damaged.
    """
    if not (folder / RUN).exists():
        return None
    found = _read(folder / RUN)
    try:
        return OwnRun(**found)
    except TypeError as error:
        raise ValueError(
            f"{str(folder / RUN)!r} is no result of this version ({error}); delete it to train again"
        ) from error


def save(run: OwnRun, folder: Path) -> None:
    """Keep a finished run, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / RUN, asdict(run))


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_record(file)
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is damaged ({error}); delete it, or choose a new folder") from error
