"""The folder of a comparison: claimed before anything is trained; it can be resumed only with the same settings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_gap.recipes.checkpoints import newest_checkpoint
from lightning_gap.recipes.plan import Plan
from lightning_gap.recipes.training import OUTCOME, UNREADABLE, WEIGHTS, Outcome

CONFIG = "config.yaml"
_MAY_CHANGE = {"regimes", "trials", "data_dir", "download", "num_workers", "output", "resume"}
_TRAINER_MAY_CHANGE = {"accelerator", "devices", "num_nodes", "strategy"}


def claim_folder(plan: Plan) -> None:
    """Write the resolved configuration into the results folder, or refuse the folder.

    In a folder that is resumed it names every regime that was ever asked of it, and the most trials.

    Raises:
        FileExistsError: If the folder holds another run and ``resume`` was not asked for.
        FileNotFoundError: If there is nothing to resume.
        NotADirectoryError: If the folder is a file or a device.
        ValueError: If the run to resume was made with other settings; shows both. Or if one of its files is damaged.
    """
    folder, file = plan.output, plan.output / CONFIG
    partial = file.with_suffix(".partial")
    asked = _plain(plan)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"output={str(folder)!r} is no folder; choose another --output")
    if plan.settings.resume:
        if not file.exists():
            raise FileNotFoundError(f"output={str(folder)!r} has no {CONFIG} to resume from; leave out --resume")
        stored = _stored(file)
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
    elif folder.exists() and any(path != partial for path in folder.iterdir()):
        raise FileExistsError(
            f"output={str(folder)!r} is not empty and nothing in it is overwritten; "
            "resume that run by --resume, or choose a new --output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial.write_text(yaml.safe_dump(asked | {"resume": False}, sort_keys=False), encoding="utf-8")
    partial.replace(file)  # all or nothing


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
    for name in plan.settings.regimes:
        for trial in range(1, plan.settings.trials + 1):
            folder = plan.run_folder(name, trial)
            if (folder / OUTCOME).exists():
                Outcome.load(folder / OUTCOME, plan.settings.epsilon)
                _check_weights(folder)
            else:
                newest_checkpoint(folder)


def _check_weights(folder: Path) -> None:
    try:
        torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True, mmap=True)
    except UNREADABLE as error:
        raise ValueError(
            f"the weights {str(folder / WEIGHTS)!r} cannot be read ({type(error).__name__}); delete "
            f"{str(folder / OUTCOME)!r} to train that run again, or choose a new --output"
        ) from error


def release_folder(plan: Plan) -> None:
    """Take a folder away again in which nothing was done."""
    done = any(found for kind in ("*.ckpt", OUTCOME) for found in plan.output.rglob(kind))
    if not plan.settings.resume and not done:
        shutil.rmtree(plan.output, ignore_errors=True)


def _plain(plan: Plan) -> dict[str, object]:
    """Settings as YAML can hold them, under the names of the command line's options."""
    plain = asdict(plan.settings)
    plain |= plain.pop("numbers")
    return {k: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for k, v in plain.items()}


def _that_must_agree(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that goes on may not change, the Trainer's arguments among the others."""
    kept = {k: v for k, v in config.items() if k not in _MAY_CHANGE and k != "trainer"}
    trainer = {f"trainer.{k}": v for k, v in config.get("trainer", {}).items() if k not in _TRAINER_MAY_CHANGE}
    return kept | trainer
