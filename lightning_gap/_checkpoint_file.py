"""Read a file of a user's that should hold weights; whatever else it is ends in one line that names it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """What `torch.save` has written, tensors on the CPU; nothing that is in the file is run.

    Raises:
        ValueError: If it is a folder, damaged, or holds more than tensors and plain values; in one line.
        FileNotFoundError: If No such file.
    """
    if os.path.isdir(path):
        raise ValueError("it is a folder, and no file of one process; a sharded checkpoint is to be joined first")
    if not os.path.isfile(path):
        raise FileNotFoundError("No such file")
    if os.path.getsize(path) == 0:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an archive of another kind, which is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of whatever type the bytes lead to
        foreign = re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(error))
        if foreign is not None:
            raise ValueError(
                f"it holds a {foreign[1]}, and only tensors and plain values are read, hyper-parameters included"
            ) from error
        raise ValueError(f"it is damaged or was not written by torch.save ({told(error)})") from error


def told(error: BaseException, most: int = 160) -> str:
    """An error in one short line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:most]}{'...' * (len(words) > most)}" if words else type(error).__name__


def weights_in(stored: Any) -> Mapping[str, Any]:
    """The weights by name in a Lightning checkpoint.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(stored, Mapping):
        raise ValueError(f"it holds a {type(stored).__name__}, no checkpoint")
    if "state_dict" not in stored:
        keys = listed(map(str, stored)) or "nothing"
        raise ValueError(f"it holds no state_dict but {keys}: it is no checkpoint of Lightning's")
    weights = stored["state_dict"]
    if not isinstance(weights, Mapping):
        raise ValueError(f"its state_dict is a {type(weights).__name__}, not weights by name")
    return weights


def load_weights(weights: Mapping[str, Any], module: nn.Module, *, strict: bool) -> None:
    """Put weights by name into a module.

    Args:
        weights: By name.
        module: Where they go.
        strict: Whether the names must be the module's own, or some of them may.

    Raises:
        ValueError: If they are of another architecture, or a run that had diverged saved them; in one line.
    """
    parameters = dict(module.named_parameters())
    for name in parameters.keys() & weights.keys():
        if isinstance(weights[name], Tensor) and not bool(torch.isfinite(weights[name]).all()):
            raise ValueError(f"its {name} is not finite: the run that saved it had diverged")
    if not strict and not module.state_dict().keys() & weights.keys():  # which torch would take for a fit
        raise ValueError(f"no name is the module's: it holds {listed(map(str, weights)) or 'nothing'}")
    try:
        module.load_state_dict(weights, strict=strict)
    except Exception as error:  # of whatever type the module's own way to load raises
        raise ValueError(told(error, most=400)) from error


def stored_beside(path: str | os.PathLike[str]) -> str:
    """What a folder holds in place of a checkpoint that is not there."""
    folder = Path(path).parent
    try:
        found = sorted(other.name for other in folder.glob("*.ckpt")) if folder.is_dir() else []
    except OSError:
        found = []
    return f"{folder} holds {', '.join(found) or 'no checkpoint'}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first of them in order, and how many more."""
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")
