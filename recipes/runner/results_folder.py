"""The folder of a comparison: claimed before anything is trained; it can be resumed only with the same settings."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml

from .checkpoints import newest_checkpoint
from .plan import Plan
from .run_result import RESULT, WEIGHTS, RunResult

CONFIG = "config.yaml"
_MAY_CHANGE = {"regimes", "trials", "workers", "data_dir", "download", "num_workers", "output", "resume"}
_TRAINER_MAY_CHANGE = {"accelerator", "devices", "num_nodes", "strategy"}
_UNREADABLE = (OSError, EOFError, KeyError, RuntimeError, UnpicklingError, ValueError)  # what a damaged file ends in


def claim_folder(plan: Plan) -> None:
    """Write the configuration into the results folder, which no other run can then claim, or refuse the folder.

    In a folder that is resumed it names every regime that was ever asked of it, and the most trials.

    Raises:
        FileExistsError: If the folder holds another run and ``resume`` was not asked for.
        FileNotFoundError: If there is nothing to resume.
        NotADirectoryError: If the folder is a file, a device or a link, or has a link in it.
        ValueError: If the run to resume was made with other settings; shows both. Or if one of its files is damaged.
    """
    folder, file = plan.output, plan.output / CONFIG
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        kind = "a link" if folder.is_symlink() else "no folder"
        raise NotADirectoryError(f"output={str(folder)!r} is {kind}; choose another --output")
    if not plan.settings.resume:
        if folder.exists() and any(not path.name.endswith(".partial") for path in folder.iterdir()):
            raise FileExistsError(_not_empty(folder))
        folder.mkdir(parents=True, exist_ok=True)
        partial = _written(folder, _plain(plan))
        try:
            os.link(partial, file)  # whole, and of two that try only one succeeds
        except FileExistsError as error:
            raise FileExistsError(_not_empty(folder)) from error
        finally:
            partial.unlink()
        return
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    if links:
        raise NotADirectoryError(
            f"output={str(folder)!r} has a link, {links[0].name!r}, through which nothing is written"
        )
    if not file.exists():
        raise FileNotFoundError(f"output={str(folder)!r} has no {CONFIG} to resume from; leave out --resume")
    stored, asked = _stored(file), _plain(plan)
    there, here = _that_must_agree(stored), _that_must_agree(asked)
    differing = [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise ValueError(
            f"output={str(folder)!r} holds a run with other settings: {'; '.join(differing)}; "
            "resume with the same settings, or choose a new --output"
        )
    _check_files(plan)
    asked["regimes"] = list(dict.fromkeys([*stored["regimes"], *plan.settings.regimes]))
    asked["trials"] = max(stored["trials"], plan.settings.trials)
    _written(folder, asked).replace(file)  # all or nothing


def release_folder(plan: Plan) -> None:
    """Take a folder away again in which nothing was done."""
    done = any(found for kind in ("*.ckpt", RESULT) for found in plan.output.rglob(kind))
    if not plan.settings.resume and not done:
        shutil.rmtree(plan.output, ignore_errors=True)


def _written(folder: Path, config: Mapping[str, Any]) -> Path:
    partial = folder / f"config.{secrets.token_hex(4)}.partial"
    with partial.open("x", encoding="utf-8") as file:
        file.write(yaml.safe_dump({**config, "resume": False}, sort_keys=False))
    return partial


def _not_empty(folder: Path) -> str:
    return (
        f"output={str(folder)!r} is not empty and nothing in it is overwritten; "
        "resume that run by --resume, or choose a new --output"
    )


def _stored(file: Path) -> dict[str, Any]:
    try:
        stored = yaml.safe_load(file.read_text(encoding="utf-8"))
        kinds = {"regimes": list, "trials": int, "trainer": dict}
        whole = isinstance(stored, dict) and all(isinstance(stored.get(name), kind) for name, kind in kinds.items())
        whole = whole and all(isinstance(name, str) for name in stored["regimes"])
    except (yaml.YAMLError, UnicodeDecodeError):
        whole = False
    if not whole:
        raise ValueError(f"{str(file)!r} cannot be read as the settings of a run; choose a new --output")
    return dict(stored)


def _check_files(plan: Plan) -> None:
    """Read what each run left, before any of them goes on."""
    for run in plan.runs():
        if not run.result.exists():
            newest_checkpoint(run.folder)
            continue
        RunResult.load(run.result, plan.settings.epsilon)
        try:
            torch.load(run.folder / WEIGHTS, map_location="cpu", weights_only=True, mmap=True)
        except _UNREADABLE as error:
            raise ValueError(
                f"the weights {str(run.folder / WEIGHTS)!r} cannot be read ({type(error).__name__}); delete "
                f"{str(run.result)!r} to train that run again, or choose a new --output"
            ) from error


def _plain(plan: Plan) -> dict[str, Any]:
    """Settings as YAML can hold them, under the names of the command line's options."""
    plain = asdict(plan.settings)
    plain |= plain.pop("hyperparameters")
    return {k: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for k, v in plain.items()}


def _that_must_agree(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that is resumed may not change, the Trainer's arguments among the others."""
    kept = {k: v for k, v in config.items() if k not in _MAY_CHANGE and k != "trainer"}
    trainer = {f"trainer.{k}": v for k, v in config.get("trainer", {}).items() if k not in _TRAINER_MAY_CHANGE}
    return kept | trainer
