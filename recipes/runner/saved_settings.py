"""The settings that a results folder keeps of its runs, read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from .settings import Settings

CONFIG = "config.yaml"
_KINDS: Mapping[str, tuple[type, ...]] = {
    "recipe": (str,),
    "data": (str,),
    "regimes": (list,),
    "trials": (int,),
    "seed": (int,),
    "trainer": (dict,),
    "epsilon": (list,),
}


def read_settings(folder: Path) -> dict[str, Any]:
    """What `compare` or `run` wrote into its folder, wherever that is now.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing that a command wrote in it.
        NotADirectoryError: If it is no folder.
        ValueError: If the file is damaged or another version wrote it.
    """
    if not folder.exists():
        raise FileNotFoundError(f"folder={str(folder)!r} does not exist; name the --output of a compare or run")
    if not folder.is_dir():
        raise NotADirectoryError(f"folder={str(folder)!r} is no folder; name the --output of a compare or run")
    file = folder / CONFIG
    if not file.is_file():
        inner = [str(found.parent) for found in sorted(folder.glob(f"*/{CONFIG}"))]
        hint = f"did you mean {' or '.join(map(repr, inner[:3]))}? " if inner else ""
        if (folder / "report" / "report.html").is_file():
            hint = f"reproduce wrote its report to {str(folder / 'report')!r}, and the same command writes it anew; "
        raise FileNotFoundError(
            f"folder={str(folder)!r} is no results folder, it has no {CONFIG}; {hint}name the --output of a compare or "
            "run"
        )
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(file)!r} cannot be read as the settings of a run; name another folder") from error
    wrong = _wrong(found)
    if wrong:
        raise ValueError(
            f"{str(file)!r} holds no settings as this version writes them: {wrong}; make the report with the version "
            "that made the runs, or name another folder"
        )
    return dict(found)


def _wrong(found: Any) -> str:
    """The first setting that is not as it should be; an empty text where all are."""
    if not isinstance(found, dict):
        return f"it is {found!r:.60}"
    for field in fields(Settings):
        if field.name not in found and field.name != "hyperparameters":
            return f"{field.name} is missing"
    for name, kinds in _KINDS.items():
        if type(found[name]) not in kinds:
            return f"{name} is {found[name]!r:.60}"
    if not found["regimes"] or not all(isinstance(name, str) for name in found["regimes"]):
        return f"regimes is {found['regimes']!r:.60}"
    if found["trials"] < 1:
        return f"trials is {found['trials']}"
    if not all(type(size) in (int, float) and size > 0 for size in found["epsilon"]):
        return f"epsilon is {found['epsilon']!r:.60}"
    return ""
