"""What a command that trains is asked for; what cannot work by its name or option is refused without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace

from ..catalogue import recipe_file, summaries
from ..hyperparameters import check_hyperparameters
from ..lookup import lookup
from .options import Parser, add_hyperparameters, add_settings, defaults_on
from .settings import Settings
from .words import read_words


class Asked(NamedTuple):
    """What to train, the options that are not their defaults, and the steps that advise measures in."""

    settings: Settings
    changed: dict[str, Any]
    steps: int | None


def ask(command: str, told: str, typed: Sequence[str]) -> Asked:
    """Read what is asked of a command.

    Args:
        command: Its name.
        told: What it does.
        typed: The words after it.

    Raises:
        ValueError: Names the option, its value and the fix.
    """
    recipe, names, options = read_words(command, typed)
    parser, hyperparameters = Parser(prog=f"lightning-gap {command}", description=told), list[str]()
    add_settings(parser, command)
    if recipe is not None:
        file = recipe_file(recipe)
        hyperparameters = add_hyperparameters(parser, file)
        parser.set_defaults(defaults_on(file, options.get("--data")))
    given = parser.parse_args([*names, *(name if text is None else f"{name}={text}" for name, text in options.items())])
    if recipe is None:
        raise ValueError(f"no recipe is named; write lightning-gap {command} RECIPE, see `lightning-gap list`")
    values, defaults = _plain(given), _plain(parser.get_defaults())
    for name in values["trainer"]:
        lookup("argument of the Trainer", name, _trainer_arguments())
    longest = values["trainer"].pop("max_epochs", None)
    if longest is not None and "epochs" in hyperparameters:
        if values["epochs"] not in (defaults["epochs"], longest):
            raise ValueError(f"epochs={values['epochs']} and trainer.max_epochs={longest} contradict; give one of them")
        values["epochs"] = longest
    check_hyperparameters(recipe, {name: values[name] for name in hyperparameters})
    regimes = values.get("regimes", [values.get("regime", "small")])
    for name in regimes:
        lookup("regime", name, file.regimes)
    if not recipe.endswith(".py"):  # a file of the user's own may make its own optimizer
        lookup("optimizer", values["optimizer"], summaries("optimizers.py", "OPTIMIZERS"))
    settings: dict[str, Any] = {field.name: given[field.name] for field in fields(Settings) if field.name in given}
    settings |= {"regimes": tuple(regimes), "trainer": values["trainer"]}
    settings |= {"hyperparameters": {name: values[name] for name in hyperparameters}}
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    return Asked(Settings(**settings), changed, changed.pop("steps", values.get("steps")))


def _trainer_arguments() -> list[str]:
    """Names of the arguments of Lightning's Trainer, read from its file."""
    file = Path(str(distribution("lightning").locate_file("lightning/pytorch/trainer/trainer.py")))
    text = file.read_text(encoding="utf-8")
    return re.findall(r"^ {8}(\w+): ", text[text.index("def __init__(") : text.index(") -> None:")], re.MULTILINE)


def _plain(value: Any) -> Any:
    """What was parsed, as YAML has it: objects as class_path and init_args."""
    if isinstance(value, Namespace | Mapping):
        items = (vars(value) if isinstance(value, Namespace) else value).items()
        return {name: _plain(inner) for name, inner in items}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value
