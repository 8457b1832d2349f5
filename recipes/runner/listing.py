"""What `lightning-gap list` prints, read from the files without importing torch."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..catalogue import RecipeFile, bundled, recipe_file, summaries
from ..datasets import DATASETS
from .options import Parser, add_hyperparameters


def print_list() -> None:
    """Every recipe, data set, regime, augmentation and optimizer, with one line on each."""
    recipes = {name: recipe_file(name) for name in bundled()}
    _print(
        {
            "recipes": {name: found.summary.rstrip(".") for name, found in recipes.items()},
            "data sets": {name: DATASETS.summary(name) for name in DATASETS},
            "regimes": summaries("regimes.py", "REGIMES"),
            "augmentations": summaries("datasets/augmentations.py", "AUGMENTATIONS"),
            "optimizers": summaries("optimizers.py", "OPTIMIZERS"),
        }
    )
    print("\n`lightning-gap list RECIPE` shows a recipe's hyperparameters.")


def print_recipe(file: RecipeFile) -> None:
    """A recipe's hyperparameters, its regimes, and what differs on each data set.

    Raises:
        ValueError: If it has no hyperparameters.
    """
    parser = Parser()
    hyperparameters = {name: _text(parser.get_default(name)) for name in add_hyperparameters(parser, file)}
    if not hyperparameters:
        raise ValueError(f"recipe={file.name!r} has no hyperparameters; name them in the signature of its __init__")
    groups: dict[str, Mapping[str, str]] = {file.summary or file.name: hyperparameters}
    for name, differs in file.data_sets.items():
        groups[f"on {name}"] = {key: _text(value) for key, value in differs.items()} or {"": "as above"}
    _print(groups | {"regimes": file.regimes})


def _print(groups: Mapping[str, Mapping[str, str]]) -> None:
    console = Console(highlight=False)
    width = max(len(name) for entries in groups.values() for name in entries)
    for group, entries in groups.items():
        console.print(f"[bold]{escape(group)}[/bold]", soft_wrap=True)
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(overflow="fold", min_width=min(width + 2, console.width // 2))
        table.add_column()
        for name, line in entries.items():
            table.add_row(f"  {escape(name)}", escape(line))
        console.print(table)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
