"""The options of a command, made from the signatures of a recipe and of the settings of a run, without torch."""

from __future__ import annotations

import re
import sys
from difflib import get_close_matches
from inspect import isclass
from typing import Any, NoReturn

import docstring_parser
from jsonargparse import ArgumentParser

from ..catalogue import RecipeFile, read_docstring
from ..datasets import DATASETS
from ..lookup import lookup
from .settings import Settings

_NOT_ADVISED = {"trials", "epsilon", "measure_every_n_epochs", "workers", "threads", "output"}


class Parser(ArgumentParser):
    """Refuses in one line, as everything else here does."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        told = re.sub(r'Parser key "([\w.]+)":', r"--\1:", " ".join(message.split())).rstrip(".")
        unknown = re.search(r"unrecognized arguments: (--[\w.]+)", told)
        near = get_close_matches(unknown[1], self._option_string_actions, cutoff=0.5) if unknown else []
        told += f"; did you mean {' or '.join(near)}?" if near else ""
        print(f"{self.prog.replace(' [options]', '')}: error: {told}; see --help", file=sys.stderr)
        sys.exit(2)


def add_settings(parser: Parser, command: str) -> None:
    """Add every setting of a run that a command takes."""
    described = _described(Settings.__doc__)
    parser.add_argument("--config", action="config", help="YAML file of options, as --print_config writes it.")
    parser.add_argument("--recipe", type=str, help="The same as the first word after the command.")
    if command == "run":
        parser.add_argument("--regime", type=str, required=True, help="Training regime of the recipe.")
    elif command == "compare":
        parser.add_argument("regimes", nargs="*", type=str, help=described["regimes"])
    else:
        parser.add_argument("--steps", type=int, default=300, help="Steps in which the gradient noise is measured.")
    parser.add_argument("--data", type=str, help=described["data"])
    parser.add_argument("--download", action="store_true", help=described["download"])
    if command != "advise":
        parser.add_argument("--resume", action="store_true", help=described["resume"])
    skipped = {"recipe", "regimes", "data", "download", "resume", "hyperparameters"}
    parser.add_class_arguments(Settings, skip=skipped | (_NOT_ADVISED if command == "advise" else set()))


def add_hyperparameters(parser: Parser, file: RecipeFile) -> list[str]:
    """Add every hyperparameter of a recipe, and give their names."""
    if isclass(file.signature):
        return list(parser.add_class_arguments(file.signature, skip={"network", "regime"}, instantiate=False))
    texts = _described(read_docstring("recipe.py", "Recipe")) | _described(file.docstring)
    arguments = "".join(f"    {name}: {text}\n" for name, text in texts.items())
    file.signature.__doc__ = f"Hyperparameters.\n\nArgs:\n{arguments}"
    return list(parser.add_function_arguments(file.signature, skip={"self", "regime"}))


def defaults_on(file: RecipeFile, data: str | None) -> dict[str, Any]:
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
