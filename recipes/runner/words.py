"""The words after a command, sorted before its parser is made: the recipe and the data set decide the other options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..catalogue import bundled

_FLAGS = ("-h", "--help", "--resume", "--download", "--print_config")

Options = dict[str, str | None]  # as they are typed; None for a flag


def read_words(command: str, typed: Sequence[str]) -> tuple[str | None, list[str], Options]:
    """The recipe, the other names, and the options, those of a configuration file before those that are typed.

    The recipe is the first name. Where an option names one, a first name that is no recipe is left to be a regime.

    Args:
        command: Takes one regime as an option, or for `compare` several as names.
        typed: The words. ``--network.NAME`` is ``--NAME``: so a network's options were called once.

    Raises:
        ValueError: If the file cannot be read or has too many regimes, or a folder has no name.
    """
    names, options = _sorted([re.sub(r"^--network\.", "--", word) for word in typed])
    config = _read(options.get("--config"))
    regimes = config.pop("regimes", None) or []
    regimes = [regimes] if isinstance(regimes, str) else regimes
    if not isinstance(regimes, list) or not all(isinstance(name, str) for name in regimes):
        raise ValueError(f"regimes must be a list of names, got {regimes!r}; for instance [small, large]")
    if "--trainer.max_epochs" in options and "--epochs" not in options:  # two names of one thing
        config.pop("epochs", None)
    elif "--epochs" in options and isinstance(config.get("trainer"), dict):
        config["trainer"].pop("max_epochs", None)
    if command != "compare" and len(regimes) == 1:
        config["regime"] = regimes[0]
    elif command != "compare" and regimes and "--regime" not in options:
        raise ValueError(f"regimes={regimes} are several, and {command} takes one; name it by --regime")
    options = {**as_options(config), **options}
    for path in ("--config", "--output", "--data_dir"):
        if options.get(path) == "":  # perhaps a variable of the shell that is not set
            raise ValueError(f"{path[2:]}: got '', the name of no file or folder; for the current folder write .")
    options.pop("--config", None)
    recipe = options.get("--recipe")
    if names and (recipe is None or names[0].endswith(".py") or names[0] in bundled()):
        recipe = options["--recipe"] = names.pop(0)
    return recipe, names or ([*map(str, regimes)] if command == "compare" else []), options


def as_options(values: Mapping[str, Any]) -> Options:
    """Values as they are typed."""
    options: Options = {}
    for name, value in values.items():
        if isinstance(value, bool) and f"--{name}" in _FLAGS:
            options |= {f"--{name}": None} if value else {}
        elif value is not None or name not in ("recipe", "regime", "data"):  # which then are not named
            text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
            options[f"--{name}"] = value if isinstance(value, str) else text.removesuffix("...\n").strip()
    return options


def _sorted(words: Sequence[str]) -> tuple[list[str], Options]:
    """Names and options."""
    names, options, left = list[str](), Options(), list(words)
    while left:
        word = left.pop(0)
        option, equals, value = word.partition("=")
        if option == "--config" in options:
            raise ValueError("config is given twice; put all options into one file")
        if not word.startswith("-"):
            names.append(word)
        elif equals or word in _FLAGS or not left or left[0].startswith("--"):
            options[option] = value if equals else None
        else:
            options[option] = left.pop(0)
    return names, options


def _read(file: str | None) -> dict[str, Any]:
    try:
        found = yaml.safe_load(Path(file).read_bytes()) if file else {}
    except OSError as error:
        raise ValueError(f"config={file!r} cannot be read ({error.strerror}); name a YAML file of options") from error
    except yaml.YAMLError as error:
        raise ValueError(f"config={file!r} is no YAML: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"config={file!r} must hold options by name, got {found!r}; --print_config writes such a file")
    if "config" in found:
        raise ValueError(f"config={file!r} names another file, config={found['config']!r}; put all options into one")
    return found
