"""The command `lightning-gap`: list what there is, run one regime, compare several, advise a batch size, copy."""

from __future__ import annotations

import logging
import sys
import warnings
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import docstring_parser
from jsonargparse import SUPPRESS, ArgumentParser, Namespace
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from lightning_gap.logging.tables import Row, cells
from lightning_gap.recipes.advice import advise, measure_noise, show
from lightning_gap.recipes.catalogue import FILES, copy_recipe, recipe
from lightning_gap.recipes.comparison import CannotStartError, run_all
from lightning_gap.recipes.datasets import DATASETS
from lightning_gap.recipes.datasets.augmentations import AUGMENTATIONS
from lightning_gap.recipes.first_process import is_first_process
from lightning_gap.recipes.optimizers import OPTIMIZERS
from lightning_gap.recipes.plan import Plan, Settings, make_plan
from lightning_gap.recipes.recipe import Numbers
from lightning_gap.recipes.regimes import REGIMES
from lightning_gap.recipes.results import (
    columns,
    rows,
    tensorboard_command,
    write_figure,
    write_table,
)
from lightning_gap.recipes.results_folder import claim_folder, release_folder
from lightning_gap.recipes.stopping import exit_status, kept, stoppable
from lightning_gap.recipes.terms import terms

_FOLDERS = ("data_dir", "output")
_LIGHTNINGS_TALK = (
    "The '.*_dataloader' does not have many workers",
    "The number of training batches .* is smaller than the logging interval",
    "Total length of `list` across ranks is zero",
    "Checkpoint directory .* exists and is not empty",
    "`isinstance.treespec, LeafSpec.` is deprecated",
    "GPU available but not used",
    "It is recommended to use `self.log.*sync_dist=True",  # the means are of all processes already
)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = _parser()
    try:
        given = parser.parse_args(args)
    except OverflowError as error:  # of a whole number that no float holds, where a float is wanted
        parser.error(f"an option's number is too large: {error}")
    command = given.subcommand
    if command == "list":
        print_list()
        return 0
    with _spoken_plainly(), stoppable():
        return _run(given)


def _run(given: Namespace) -> int:
    command, made = given.subcommand, None
    try:
        if command == "copy":
            print(f"written: {copy_recipe(given.copy.recipe, given.copy.folder)}")
            return 0
        made = make_plan(_settings(given))
        if command == "advise":
            return _advise(made, given.advise.steps)
        if is_first_process():
            claim_folder(made)
        return _execute(made)
    except CannotStartError as error:
        if made is not None and is_first_process():
            release_folder(made)
        return _refused(command, error)
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _refused(command, error)
    except (KeyboardInterrupt, SystemExit) as stop:
        status: int | None = exit_status(stop)
        if status is None:
            raise
        if is_first_process():
            told = "stopped; nothing is kept" if command == "advise" else kept(made)
            print(f"lightning-gap {command}: {told}", file=sys.stderr)
        return status


def _refused(command: str, error: Exception) -> int:
    print(f"lightning-gap {command}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def print_list() -> None:
    """Print every recipe, data set, regime, augmentation and optimizer with one line on each."""
    console = Console()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    recipes = {name: recipe(name) for name in sorted(FILES)}
    groups: dict[str, Mapping[str, str]] = {
        "recipes": {name: f"{found.summary}; on {', '.join(found.numbers)}" for name, found in recipes.items()},
        "data sets": {name: _first_line(load) for name, load in DATASETS.items()},
        "regimes": {name: _first_line(regime) for name, regime in REGIMES.items()},
        "augmentations": {name: _first_line(augmentation) for name, augmentation in AUGMENTATIONS.items()},
        "optimizers": {name: _first_line(optimizer) for name, optimizer in OPTIMIZERS.items()},
    }
    for group, entries in groups.items():
        table.add_row(f"[bold]{group}[/bold]")
        for name, line in entries.items():
            table.add_row(f"  {name}", line)
    console.print(table)


@contextmanager
def _spoken_plainly() -> Iterator[None]:
    """A line for each warning, and Lightning's talk of workers, loggers and devices left out."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            for message in _LIGHTNINGS_TALK:
                warnings.filterwarnings("ignore", message=message)
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            yield
    finally:
        logger.setLevel(level)


def _plain(value: Any) -> Any:
    """As YAML has it: objects as class_path and init_args."""
    if isinstance(value, Namespace | dict):
        return {name: _plain(inner) for name, inner in (vars(value) if isinstance(value, Namespace) else value).items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value


def _settings(given: Namespace) -> Settings:
    values = given[given.subcommand]
    found = {field.name: values[field.name] for field in fields(Settings) if field.name in values}
    found["regimes"] = tuple(values.get("regimes") or (values.get("regime", "small"),))
    found["numbers"] = {field.name: values[field.name] for field in fields(Numbers) if field.name in values}
    found["trainer"] = _plain(values["trainer"])
    return Settings(**found)


def _execute(made: Plan) -> int:
    first = is_first_process()
    console = Console(highlight=False, quiet=not first)
    outcomes = run_all(made, console.print)
    if not first:
        return 0
    table = rows(made, outcomes)
    write_table(made, table)
    written = ["table.csv", "table.md"]
    if len(outcomes) > 1:
        written.append(write_figure(made).name)
    _show(console, made, table)
    console.print(terms(made))
    console.print(f"\nWritten to {made.output}: {', '.join(written)}, config.yaml\nOpen the logs with:", soft_wrap=True)
    console.print(f"    {tensorboard_command(made)}", soft_wrap=True)
    return 0


def _advise(made: Plan, steps: int) -> int:
    console = Console(highlight=False)
    settings = made.settings
    with console.status(
        f"{settings.recipe} on {made.data_name}: {steps} steps of {made.numbers.small_batch_size} samples"
    ):
        measurements = measure_noise(made, steps)
    show(console, made, measurements, advise(measurements, len(made.splits.train) - made.numbers.validation_size))
    return 0


def _show(console: Console, made: Plan, table: Sequence[Row]) -> None:
    """Print the table on its side, a column for each regime: it then fits any terminal."""
    by_regime = [cells(columns(made), row) for row in table]
    shown = Table(
        Column("", no_wrap=True),
        *(Column(regime[0], justify="right") for regime in by_regime),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for index, column in enumerate(columns(made)[1:], start=1):
        shown.add_row(column.title, *(regime[index] for regime in by_regime))
    console.print(shown)


def _parser() -> ArgumentParser:
    parser = _Parser(prog="lightning-gap", description="Large batches in Lightning without the generalization gap.")
    commands = parser.add_subcommands()
    commands.add_subcommand("list", _Parser(), help="Show recipes, data sets, regimes and what else has names.")
    run = _settings_parser(skip={"trials"})
    run.add_argument("--regime", type=str, required=True, help="Training regime, as `lightning-gap list` names it.")
    commands.add_subcommand("run", run, help="Train one regime of a recipe.")
    compare = _settings_parser(skip=set())
    compare.add_argument("regimes", nargs="+", type=str, help="Training regimes; the first two also share a figure.")
    commands.add_subcommand("compare", compare, help="Train several regimes from the same weights and compare them.")
    advice = _settings_parser(skip={"trials", "epsilon", "measure_every_n_epochs", "output"}, resumes=False)
    advice.add_argument(
        "--steps", type=int, default=300, help="Optimizer steps in which the gradient noise is measured."
    )
    commands.add_subcommand("advise", advice, help="Measure a recipe's gradient noise and advise a batch size.")
    copying = _Parser()
    copying.add_argument("recipe", type=str, help="Recipe, as `lightning-gap list` names it.")
    copying.add_argument("folder", type=_Folder(), help="Where its file goes; no file is overwritten.")
    commands.add_subcommand("copy", copying, help="Write a recipe's file into a folder, to be edited and run.")
    return parser


def _settings_parser(skip: set[str], *, resumes: bool = True) -> ArgumentParser:
    """Every setting, and every number of a recipe, as an option."""
    parser = _Parser()
    taken = {"regimes", "numbers", "download", "resume", *skip}
    parser.add_class_arguments(Settings, as_positional=True, skip={*_FOLDERS, *taken})
    described = {text.arg_name: text.description for text in docstring_parser.parse(Settings.__doc__ or "").params}
    for name in _FOLDERS:
        if name not in taken:
            default = next(field.default for field in fields(Settings) if field.name == name)
            parser.add_argument(f"--{name}", type=_Folder(), default=default, help=described[name])
    parser.add_argument("--download", action="store_true", help="Download the data set if it is not in --data_dir.")
    told = {text.arg_name: text.description for text in docstring_parser.parse(Numbers.__doc__ or "").params}
    for name, kind in get_type_hints(Numbers).items():
        help_text = f"{told[name]} The recipe's own by default."
        # Epochs as they were typed: jsonargparse would make a whole number of 1.5.
        typed = dict[float, float] if name == "learning_rate_steps" else kind
        parser.add_argument(f"--{name}", type=typed, default=SUPPRESS, help=help_text)
    if resumes:
        parser.add_argument("--resume", action="store_true", help="Go on in --output; finished runs are kept.")
    return parser


class _Folder:
    """Type of an option that names a folder.

    No name, perhaps a variable of the shell that is not set, would be the current folder to Path.
    """

    def __call__(self, text: str) -> Path:
        if not text:
            raise ArgumentTypeError("got '', the name of no folder; for the current folder write .")
        return Path(text)

    def __repr__(self) -> str:  # in --help
        return "Path"


class _Parser(ArgumentParser):
    """Refuses in one line, as everything else here does."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"{self.prog.replace(' [options]', '')}: error: {' '.join(message.split())}; see --help", file=sys.stderr)
        sys.exit(2)


def _first_line(documented: Any) -> str:
    return str(documented.__doc__).strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
