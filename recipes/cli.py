"""The command `lightning-gap`: list what there is, run one regime, compare several, advise a batch size."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from jsonargparse import ArgumentParser
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from lightning_gap.logging.tables import Row, cells
from lightning_gap.recipes.advice import advise, measure_noise, show
from lightning_gap.recipes.catalogue import RECIPES
from lightning_gap.recipes.comparison import Plan, Settings, make_plan, run_all
from lightning_gap.recipes.datasets import DATASETS
from lightning_gap.recipes.regimes import REGIMES
from lightning_gap.recipes.results import (
    claim_folder,
    columns,
    rows,
    tensorboard_command,
    terms,
    write_figure,
    write_table,
)

_ADVICE = {"recipe", "data", "data_dir", "seed", "small_batch_size", "learning_rate", "accelerator"}
_NOT_FOR_ADVICE = {field.name for field in fields(Settings)} - _ADVICE


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = _parser()
    given = parser.parse_args(args)
    command = given.subcommand
    if command == "list":
        print_list()
        return 0
    values = given[command]
    chosen = {field.name: values[field.name] for field in fields(Settings) if field.name in values}
    chosen["regimes"] = tuple(values["regimes"]) if command == "compare" else (values.get("regime", "small"),)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    try:
        made = make_plan(Settings(**chosen))
        if command == "advise":
            return _advise(made, values["steps"])
        claim_folder(made)
    except (ValueError, TypeError, OSError) as error:
        print(f"lightning-gap {command}: error: {error}", file=sys.stderr)
        return 2
    return _execute(made)


def print_list() -> None:
    """Print every recipe, data set and regime with one line on each."""
    console = Console()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    groups = {
        "recipes": {name: f"{recipe.summary}; on {', '.join(recipe.numbers)}" for name, recipe in RECIPES.items()},
        "data sets": {name: _first_line(load) for name, load in DATASETS.items()},
        "regimes": {name: _first_line(regime) for name, regime in REGIMES.items()},
    }
    for group, entries in groups.items():
        table.add_row(f"[bold]{group}[/bold]")
        for name, line in entries.items():
            table.add_row(f"  {name}", line)
    console.print(table)


def _execute(made: Plan) -> int:
    console = Console(highlight=False)
    try:
        outcomes = run_all(made, console.print)
    except (KeyboardInterrupt, SystemExit):
        console.print(f"stopped; go on with the same command and --output {made.output} --resume")
        raise
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
        f"{settings.recipe} on {settings.data}: {steps} steps of {made.numbers.small_batch_size} samples"
    ):
        measurements = measure_noise(made, steps)
    show(console, made, measurements, advise(measurements, len(made.splits.train[1]) - made.numbers.validation_size))
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
    parser = ArgumentParser(
        prog="lightning-gap", description="Large batches in Lightning without the generalization gap."
    )
    commands = parser.add_subcommands()
    commands.add_subcommand("list", ArgumentParser(), help="Show recipes, data sets and regimes.")
    run = _settings_parser(skip={"trials"})
    run.add_argument("--regime", type=str, required=True, help="Training regime, as `lightning-gap list` names it.")
    commands.add_subcommand("run", run, help="Train one regime of a recipe.")
    compare = _settings_parser(skip=set())
    compare.add_argument("regimes", nargs="+", type=str, help="Training regimes; the first two also share a figure.")
    commands.add_subcommand("compare", compare, help="Train several regimes from the same weights and compare them.")
    advice = ArgumentParser()
    advice.add_class_arguments(Settings, as_positional=True, skip=_NOT_FOR_ADVICE)
    advice.add_argument(
        "--steps", type=int, default=300, help="Optimizer steps in which the gradient noise is measured."
    )
    commands.add_subcommand("advise", advice, help="Measure a recipe's gradient noise and advise a batch size.")
    return parser


def _settings_parser(skip: set[str]) -> ArgumentParser:
    parser = ArgumentParser()
    parser.add_class_arguments(Settings, as_positional=True, skip={"regimes", "resume", *skip})
    parser.add_argument("--resume", action="store_true", help="Go on in --output; finished runs are kept.")
    return parser


def _first_line(documented: Any) -> str:
    return str(documented.__doc__).strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
