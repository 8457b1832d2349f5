"""The command `lightning-gap`: list what there is, run one regime, compare several, advise a batch size, copy."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_gap import __version__

from ..catalogue import RecipeFile, copy_recipe, load_recipe, recipe_file, summaries
from ..hyperparameters import check_hyperparameters
from ..lookup import lookup
from .listing import print_list, print_recipe
from .options import Parser, Words, command_parser, settings_parser, trainer_arguments
from .settings import Settings
from .stopping import exit_status, stoppable

if TYPE_CHECKING:
    from .plan import Plan

_COMMANDS = {
    "list": "Show recipes, data sets, regimes and what else has names; of one recipe its hyperparameters.",
    "run": "Train one regime of a recipe.",
    "compare": "Train several regimes from the same weights and compare them.",
    "advise": "Measure a recipe's gradient noise and advise a batch size.",
    "copy": "Write a recipe's file into a folder, to be edited and run.",
    "experiment": "Make the runs of a paper's table or figure and show it.",
}


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    given = list(sys.argv[1:] if args is None else args)
    command = given[0] if given and given[0] in _COMMANDS else None
    if command is None:
        parser = Parser(prog="lightning-gap", description="Large batches in Lightning without the generalization gap.")
        parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
        commands = parser.add_subcommands()
        for name, told in _COMMANDS.items():
            commands.add_subcommand(name, Parser(), help=told)
        parser.parse_args(given)  # ends in help, version or an error
        return 2
    made: list[Plan] = []
    try:
        with stoppable():
            return _do(command, Words(given[1:]), made)
    except BrokenPipeError:  # of who reads the first lines only
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OverflowError as error:  # of a whole number that no float holds, where a float is wanted
        print(f"lightning-gap {command}: error: an option's number is too large: {error}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"lightning-gap {command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit) as stop:
        status = exit_status(stop)
        if status is None:
            raise
        _say_what_is_kept(command, made)
        return status


def _do(command: str, words: Words, made: list[Plan]) -> int:
    """Refuse what can be refused by the words alone, and only then import torch."""
    if command == "list":
        name = command_parser(command, [("recipe", "?")], _COMMANDS[command]).parse_args(words.all).recipe
        print_list() if name is None else print_recipe(recipe_file(name))
        return 0
    if command == "copy":
        asked = command_parser(command, [("recipe", None), ("folder", None)], _COMMANDS[command]).parse_args(words.all)
        if not asked.folder:
            raise ValueError("folder: got '', the name of no folder; for the current folder write .")
        print(f"written: {copy_recipe(asked.recipe, Path(asked.folder))}")
        return 0
    if command == "experiment":
        from ..experiments.command import main as make_experiment

        return make_experiment(words.all)
    name = words.recipe()
    file = None if name is None else recipe_file(name)
    parser = settings_parser(command, _COMMANDS[command], file, words)
    given = parser.parse_args(words.options(name))
    if file is None:
        raise ValueError(f"no recipe is named; write lightning-gap {command} RECIPE, see `lightning-gap list`")
    settings = _settings(command, given, file, parser)
    if command == "advise":
        from .advising import advise_batch_size

        return advise_batch_size(settings, given.steps, words.options(name)[:-1], made)
    from .runs import execute

    return execute(settings, made)


def _settings(command: str, given: Any, file: RecipeFile, parser: Parser) -> Settings:
    values = parser.plain(given)
    trainer = values["trainer"]
    for name in trainer:
        lookup("argument of the Trainer", name, trainer_arguments())
    hyperparameters = {name: values[name] for name in parser.hyperparameters}
    longest = trainer.pop("max_epochs", None)
    if longest is not None and "epochs" in hyperparameters:
        if hyperparameters["epochs"] not in (parser.get_default("epochs"), longest):
            raise ValueError(
                f"epochs={hyperparameters['epochs']} and trainer.max_epochs={longest} contradict; give one of them"
            )
        hyperparameters["epochs"] = longest
    check_hyperparameters(file.name, hyperparameters)
    regimes = (values["regimes"] or []) if command == "compare" else [values.get("regime", "small")]
    for name in regimes:
        lookup("regime", name, load_recipe(file.name).regimes if file.regimes is None else file.regimes)
    if not file.name.endswith(".py"):  # a file of the user's own may make its own optimizer
        lookup("optimizer", hyperparameters["optimizer"], summaries("optimizers.py", "OPTIMIZERS"))
    settings = {field.name: values[field.name] for field in fields(Settings) if field.name in values}
    settings |= {"recipe": file.name, "regimes": tuple(regimes), "data": parser.data}
    settings |= {"trainer": trainer, "hyperparameters": hyperparameters}
    for name, value in settings.items():
        if name in ("data_dir", "output") and value is not None:
            if not value:  # perhaps a variable of the shell that is not set
                raise ValueError(f"{name}: got '', the name of no folder; for the current folder write .")
            settings[name] = Path(value)
        elif name == "epsilon":
            settings[name] = tuple(value)
    return Settings(**settings)


def _say_what_is_kept(command: str, made: list[Plan]) -> None:
    from .stopping import kept

    if os.environ.get("LOCAL_RANK", "0") == "0":
        told = "stopped; nothing is kept" if command == "advise" else kept(made[0] if made else None)
        print(f"lightning-gap {command}: {told}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
