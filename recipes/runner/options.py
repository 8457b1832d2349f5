"""The options of a command, made from the signature of a recipe and the settings of a run, without importing torch."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import docstring_parser
import yaml
from jsonargparse import ArgumentParser, Namespace

from ..catalogue import RecipeFile, bundled, load_recipe, read_docstring
from ..datasets import DATASETS
from ..lookup import lookup
from .settings import Settings

_FOLDERS = {"data_dir", "output"}
_NOT_ADVISED = {"trials", "epsilon", "measure_every_n_epochs", "workers", "threads"}

_FLAGS = ("-h", "--help", "--resume", "--download", "--print_config")  # options without a value


class Words:
    """The words after a command, some of which decide what the others mean.

    Args:
        words: As typed. ``--network.NAME`` is ``--NAME``: so a network's options were called once.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.all = [re.sub(r"^--network\.", "--", word) for word in words]
        self.config: dict[str, Any] = {}
        file = self.value("config")
        if file is not None:
            try:
                found = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise ValueError(f"config={file!r} is no YAML: {error}") from error
            self.config = found if isinstance(found, dict) else {}

    def value(self, option: str) -> str | None:
        """Of the last ``--option value`` or ``--option=value``; of none, what the configuration file has."""
        found = None
        for word, following in zip(self.all, [*self.all, ""][1:], strict=True):
            if word == f"--{option}" and following:
                found = following
            elif word.startswith(f"--{option}="):
                found = word.partition("=")[2]
        return self.config.get(option) if found is None and option != "config" else found

    def recipe(self) -> str | None:
        """The first word that is no option and no option's value, else what the configuration names.

        Where the configuration names one, a first word that is no recipe is left to be a regime.
        """
        before, configured = "", self.value("recipe")
        for word in self.all:
            flag = before in _FLAGS or "=" in before
            if not word.startswith("-") and (flag or not before.startswith("-")):
                is_recipe = configured is None or word.endswith(".py") or word in bundled()
                return word if is_recipe else configured
            before = word
        return configured

    def options(self, recipe: str | None) -> list[str]:
        """All words but the recipe's name, which comes last, as an option, to override what a file says."""
        if recipe is None:
            return self.all
        words = list(self.all)
        if recipe in words:
            words.remove(recipe)
        return [*words, f"--recipe={recipe}"]


class Parser(ArgumentParser):
    """Refuses in one line, as everything else here does."""

    data: str | None = None
    hyperparameters: tuple[str, ...] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **options)

    def plain(self, given: Namespace) -> dict[str, Any]:
        """What was parsed, as YAML has it: objects as class_path and init_args."""
        found: dict[str, Any] = _plain(given)
        return found

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        told = re.sub(r'Parser key "([\w.]+)":', r"--\1:", " ".join(message.split())).rstrip(".")
        unknown = re.search(r"unrecognized arguments: (--[\w.]+)", told)
        near = get_close_matches(unknown[1], self._option_string_actions, cutoff=0.5) if unknown else []
        told += f"; did you mean {' or '.join(near)}?" if near else ""
        print(f"{self.prog.replace(' [options]', '')}: error: {told}; see --help", file=sys.stderr)
        sys.exit(2)


def command_parser(command: str, positionals: list[tuple[str, str | None]], told: str) -> Parser:
    """For a command that takes names only; ``?`` marks one that may be left out."""
    parser = Parser(prog=f"lightning-gap {command}", description=told)
    described = {
        "recipe": "Recipe, as `lightning-gap list` names it.",
        "folder": "Where its file goes; no file is overwritten.",
    }
    for name, count in positionals:
        parser.add_argument(name, type=str, nargs=count, help=described[name])
    return parser


def settings_parser(command: str, told: str, file: RecipeFile | None, words: Words) -> Parser:
    """For a command that trains: every setting of a run, and every hyperparameter of the recipe with its default."""
    parser = Parser(prog=f"lightning-gap {command}", description=told)
    parser.add_argument("--config", action="config", help="YAML file of options, as --print_config writes it.")
    parser.add_argument("--recipe", type=str, help="The same as the first word after the command.")
    described = _described(Settings.__doc__)
    if command == "run":
        parser.add_argument("--regime", type=str, required=True, help="Training regime of the recipe.")
    elif command == "compare":
        regimes = words.config.get("regimes")
        parser.add_argument("regimes", nargs="*", type=str, default=regimes, help=described["regimes"])
    else:
        parser.add_argument("--steps", type=int, default=300, help="Steps in which the gradient noise is measured.")
    skipped = {"recipe", "regimes", "data", "hyperparameters", "download", "resume", *_FOLDERS}
    skipped |= {"compare": set(), "run": {"trials", "workers"}}.get(command, _NOT_ADVISED)
    if file is not None:
        differs = _data_set(parser, file, words)
    parser.add_argument("--data", type=str, default=parser.data, help=described["data"])
    parser.add_class_arguments(Settings, skip=skipped)
    parser.add_argument("--data_dir", type=str, default="data", help=described["data_dir"])
    parser.add_argument("--download", action="store_true", help=described["download"])
    if command != "advise":
        parser.add_argument("--output", type=str, help=described["output"])
        parser.add_argument("--resume", action="store_true", help=described["resume"])
    if file is not None:
        _add_hyperparameters(parser, file, differs)
    return parser


@cache
def trainer_arguments() -> tuple[str, ...]:
    """Names of the arguments of Lightning's Trainer, read from its file."""
    found = find_spec("lightning")
    assert found is not None
    assert found.origin is not None
    file = Path(found.origin).parent / "pytorch" / "trainer" / "trainer.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    (trainer,) = (part for part in tree.body if isinstance(part, ast.ClassDef) and part.name == "Trainer")
    init = next(part for part in trainer.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
    return tuple(argument.arg for argument in [*init.args.args[1:], *init.args.kwonlyargs])


def _data_set(parser: Parser, file: RecipeFile, words: Words) -> Mapping[str, Any]:
    """What the recipe's hyperparameters are on the data set that is asked for, where they differ."""
    data_sets = load_recipe(file.name).data_sets if file.data_sets is None else file.data_sets
    asked = words.value("data")
    if not data_sets:
        raise ValueError(f"recipe={file.name!r} has no data_sets; name at least one, for instance {{'digits': {{}}}}")
    parser.data = lookup("data set", next(iter(data_sets)) if asked is None else asked, DATASETS)
    return data_sets[lookup(f"data set for {file.name}", parser.data, data_sets)]


def _add_hyperparameters(parser: Parser, file: RecipeFile, differs: Mapping[str, Any]) -> None:
    if file.signature is None:
        added = parser.add_class_arguments(load_recipe(file.name), skip={"regime"}, instantiate=False)
    else:
        shared, own = read_docstring("recipe.py", "Recipe"), file.docstring
        texts = _described(shared) | _described(own)
        file.signature.__doc__ = "Hyperparameters.\n\nArgs:\n" + "".join(f"    {n}: {t}\n" for n, t in texts.items())
        added = parser.add_function_arguments(file.signature)
    parser.hyperparameters = tuple(added)
    parser.set_defaults(dict(differs))


def _described(docstring: str | None) -> dict[str, str]:
    """Descriptions by the name of the argument or attribute."""
    found = docstring_parser.parse(docstring or "").params
    return {text.arg_name: " ".join((text.description or "").split()) for text in found}


def _plain(value: Any) -> Any:
    if isinstance(value, Namespace | Mapping):
        items = (vars(value) if isinstance(value, Namespace) else value).items()
        return {name: _plain(inner) for name, inner in items}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value
