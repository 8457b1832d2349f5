"""What a Trainer left in a logger's folder: curves, hparams.yaml, and a checkpoint beside them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..runner.records import read_record
from .checkpoint import facts_of_checkpoint
from .curves import read_curves
from .facts import Facts, Reading, facts_of_curves

HPARAMS = "hparams.yaml"
RESULT = "result.json"  # of `lightning_gap.recipes.compare`
_NAMES = {
    "base_batch_size": ("base_batch_size", "small_batch_size"),
    "weight_decay": ("weight_decay", "wd"),
    "ema_decay": ("ema_decay",),
    "clip": ("gradient_clip_val",),
}
_LEAST = {"base_batch_size": 1, "weight_decay": 0, "ema_decay": 0, "clip": 0}
_MOST = 1e15  # no number of a run, and what a float still tells from the next one


class _PlainLoader(yaml.SafeLoader):
    """Reads a hyperparameter that is an object as None: nothing of a file is run."""


def _none(*_: object) -> None:
    return None


_PlainLoader.add_multi_constructor("", _none)


def facts_of_logs(folder: Path, root: Path) -> Facts:
    """All that can be read of one run.

    Args:
        folder: Holds its logs.
        root: What was asked for; names the run.

    Raises:
        ValueError: If a file is damaged.
    """
    found = facts_of_curves(read_curves(folder)) | _of_hparams(folder / HPARAMS)
    seen = _of_result(folder / RESULT)  # of a batch that grows the first size alone
    found |= {name: read for name, read in seen.items() if "batch_size" not in name or name not in found}
    checkpoints = sorted((*folder.glob("*.ckpt"), *folder.glob("checkpoints/*.ckpt")), key=lambda p: p.stat().st_mtime)
    if checkpoints:
        saved = facts_of_checkpoint(checkpoints[-1])
        for name in ("steps", "epochs"):  # of the best epoch it has fewer than the run
            if name in saved and name in found and saved[name].value < found[name].value:
                del saved[name]
        found |= saved
    name = folder.resolve().name if folder == root else str(folder.relative_to(root))
    return Facts(name=name, **found)


def _of_hparams(file: Path) -> dict[str, Reading]:
    if not file.is_file():
        return {}
    try:
        saved = yaml.load(file.read_text(encoding="utf-8"), Loader=_PlainLoader)  # a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no such date
        raise ValueError(f"{str(file)!r} is damaged: it is no YAML; move it away, or name another folder") from error
    flat: Mapping[str, Any] = saved if isinstance(saved, Mapping) else {}
    found = dict[str, Reading]()
    for fact, names in _NAMES.items():
        for name in names:
            value = flat.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if _LEAST[fact] <= value <= _MOST:
                found[fact] = Reading(float(value), f"{file.name}: {name}")
            else:
                warnings.warn(f"{str(file)!r}: {name} is {value}: it is left out", stacklevel=2)
    return found


def _of_result(file: Path) -> dict[str, Reading]:
    """What `compare` saw of a run of the user's own module."""
    if not file.is_file():
        return {}
    try:
        seen = read_record(file)
        size = Reading(float(seen["batch_size"]), f"{file.name}: batch_size")
        others = {name: name for name in ("base_batch_size", "steps", "epochs", "accumulate", "weight_decay")}
        others |= {"decay_in_gradient": "decay_in_gradient", "batch_norm": "batch_norms", "clip": "gradient_clip"}
        found = {fact: Reading(float(seen[name]), f"{file.name}: {name}") for fact, name in others.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(file)!r} is damaged ({error!r}); move it away, or name another folder") from error
    return found | {"batch_size": size, "first_batch_size": size}
