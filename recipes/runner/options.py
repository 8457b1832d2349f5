"""What a command that trains is asked for: options made from signatures, and refused without importing torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from enum import Enum
from importlib.metadata import distribution
from inspect import isclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import docstring_parser
from jsonargparse import ArgumentParser, Namespace

from ..catalogue import RecipeFile, read_docstring, recipe_file, summaries
from ..datasets import DATASETS
from ..hyperparameters import check_hyperparameters
from ..lookup import lookup
from .examples import shown_examples
from .settings import Settings
from .words import read_words

_NOT_TAKEN = {
    "advise": {"trials", "epsilon", "measure_every_n_epochs", "workers", "threads", "output"},
    "critical-batch": {"epsilon", "measure_every_n_epochs", "workers"},
}
_USAGE = {"run": "--regime REGIME ", "compare": "REGIME [REGIME ...] "}
_RECIPE = "Recipe, as `lightning-gap list` names it: required, as the first word after the command or here."


class Parser(ArgumentParser):
    """Refuses in one line, as everything else here does; its help ends with examples."""

    def __init__(self, *args: Any, examples: str = "", **options: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **options)
        self.examples = examples

    def format_help(self, *args: Any, **options: Any) -> str:
        return f"{super().format_help(*args, **options)}{self.examples}"

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        told = re.sub(r'Parser key "([\w.]+)"(?: element \d+)?:', r"--\1:", " ".join(message.split())).rstrip(".")
        missing = re.fullmatch(r"the following arguments are required: ([\w.]+)", told)
        if missing and f"--{missing[1]}" in self._option_string_actions:
            told = f"--{missing[1]} is required"
            told += ", for instance --regime small or --regime large" if missing[1] == "regime" else ""
        unknown = re.search(r"unrecognized arguments: (--[\w.]+)", told)
        if unknown and unknown[1] == "--regimes":
            told += "; regimes are words, for instance compare f1 small large"
            unknown = None
        near = get_close_matches(unknown[1], self._option_string_actions, cutoff=0.5) if unknown else []
        told += f"; did you mean {' or '.join(near)}?" if near else ""
        print(f"{self.prog.replace(' [options]', '')}: error: {told}; see --help", file=sys.stderr)
        sys.exit(2)


class Asked(NamedTuple):
    """What to train, the options that are not their defaults, and those of the command alone."""

    settings: Settings
    changed: dict[str, Any]
    own: dict[str, Any]


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
    if recipe is None and not {"-h", "--help", "--print_config"} & options.keys():
        raise ValueError(f"no recipe is named; write lightning-gap {command} RECIPE, see `lightning-gap list`")
    usage = f"lightning-gap {command} RECIPE {_USAGE.get(command, '')}[options]"
    parser = Parser(prog=f"lightning-gap {command}", usage=usage, description=told, examples=shown_examples(command))
    hyperparameters = list[str]()
    own = _add_settings(parser, command)
    if recipe is not None:
        file = recipe_file(recipe)
        hyperparameters = add_hyperparameters(parser, file)
        parser.set_defaults(_defaults_on(file, options.get("--data")))
    given = parser.parse_args([*names, *(name if text is None else f"{name}={text}" for name, text in options.items())])
    assert recipe is not None  # else --help or --print_config has ended the program
    values, defaults = _plain(given), _plain(parser.get_defaults())
    for name in values["trainer"]:
        lookup("argument of the Trainer", name, _trainer_arguments())
    longest = values["trainer"].pop("max_epochs", None)
    if longest is not None and "epochs" in hyperparameters:
        if "--epochs" in options and values["epochs"] != longest:
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
    changed = {name: value for name, value in values.items() if value != defaults[name] and name not in own}
    return Asked(Settings(**settings), changed, {name: values[name] for name in own})


def add_hyperparameters(parser: Parser, file: RecipeFile) -> list[str]:
    """Add every hyperparameter of a recipe, and give their names."""
    if isclass(file.signature):
        return list(parser.add_class_arguments(file.signature, skip={"network", "regime"}, instantiate=False))
    texts = _described(read_docstring("recipe.py", "Recipe")) | _described(file.docstring)
    arguments = "".join(f"    {name}: {text}\n" for name, text in texts.items())
    file.signature.__doc__ = f"Hyperparameters.\n\nArgs:\n{arguments}"
    return list(parser.add_function_arguments(file.signature, skip={"self", "regime"}))


def _add_settings(parser: Parser, command: str) -> tuple[str, ...]:
    """Add every setting of a run that a command takes, and its own options; give the names of those."""
    described = _described(Settings.__doc__)
    parser.add_argument("--config", action="config", help="YAML file of options, as --print_config writes it.")
    parser.add_argument("--recipe", type=str, help=_RECIPE)
    if command == "run":
        parser.add_argument("--regime", type=str, required=True, help="Training regime of the recipe.")
    elif command == "compare":
        parser.add_argument("regimes", nargs="*", type=str, help=described["regimes"])
    elif command == "advise":
        parser.add_argument("--steps", type=int, default=300, help="Steps in which the gradient noise is measured.")
    else:
        told = "Shares of the run after which it branches."
        parser.add_argument("--at", type=list[float], default=[0.1, 0.5], help=told)
        told = "Of the small batch, one branch each; 1 is the batch as it is."
        parser.add_argument("--factors", type=list[int], default=[1, 2, 4, 8, 16], help=told)
        told = "Samples that each branch trains on; by default a tenth of the run's."
        parser.add_argument("--samples", type=int, help=told)
        told = "How much higher a harmless branch's loss may be; the default is that of Merrill et al. (2025)."
        parser.add_argument("--tolerance", type=float, default=0.01, help=told)
    parser.add_argument("--data", type=str, help=described["data"])
    parser.add_argument("--download", action="store_true", help=described["download"])
    if command in ("run", "compare"):
        parser.add_argument("--resume", action="store_true", help=described["resume"])
    skipped = {"recipe", "regimes", "data", "download", "resume", "hyperparameters"}
    parser.add_class_arguments(Settings, skip=skipped | _NOT_TAKEN.get(command, set()))
    return {"advise": ("steps",), "critical-batch": ("at", "factors", "samples", "tolerance")}.get(command, ())


def _defaults_on(file: RecipeFile, data: str | None) -> dict[str, Any]:
    """Defaults that differ from a recipe's own: on a data set, by default the first, and of what names the two.

    Raises:
        ValueError: If the recipe has no such data set.
    """
    if not file.data_sets:
        raise ValueError(f"recipe={file.name!r} has no data_sets; name at least one, for instance {{'digits': {{}}}}")
    first = next(iter(file.data_sets))
    asked = lookup("data set", first if data is None else data, DATASETS)
    return {
        "recipe": file.name,
        "data": first,
        **file.data_sets[lookup(f"data set for {file.name}", asked, file.data_sets)],
    }


def _described(docstring: str | None) -> dict[str, str]:
    """Descriptions by the name of the argument or attribute."""
    found = docstring_parser.parse(docstring or "").params
    return {text.arg_name: " ".join((text.description or "").split()) for text in found}


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
