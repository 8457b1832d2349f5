"""The recipes, a file each, found by listing this folder; or one of a user's own files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from traceback import extract_tb

from lightning_gap.recipes.recipe import Numbers, Recipe, chosen

_PROGRAM = """

if __name__ == "__main__":  # python THIS_FILE run --regime small, or compare small large
    import sys

    from lightning_gap.recipes.cli import main

    command, *options = sys.argv[1:] or ["--help"]
    sys.exit(main([command, __file__, *options] if options else [command]))
"""

FILES: dict[str, str] = {found.name.replace("_", "-"): found.name for found in iter_modules(__path__)}


def recipe(name: str) -> Recipe:
    """The recipe with this name, or the one in the file of this name, for instance a copy that was edited.

    Raises:
        ValueError: If there is none with this name, or the file holds no ``RECIPE``.
        FileNotFoundError: If there is no such file.
    """
    if not name.endswith(".py"):
        found: Recipe = import_module(f"{__name__}.{FILES[chosen('recipe', name, FILES)]}").RECIPE
        return found
    file = Path(name)
    spec = spec_from_file_location(f"{__name__}.own.{file.stem}", file)  # no name of a module that is in use
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(f"recipe={name!r} is no file; `lightning-gap copy f1 .` writes one to begin with")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickles look their own module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # of whatever type the user's own code fails with
        places = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else places[-1] if places else None
        where = "" if line is None else f", line {line}"
        raise ValueError(f"recipe={name!r}{where}: {type(error).__name__}: {error}") from error
    return _checked(name, getattr(module, "RECIPE", None))


def _checked(name: str, own: object) -> Recipe:
    """What a user's file calls its recipe, if it is one."""
    example = "see what `lightning-gap copy f1 .` writes"
    if own is None:
        raise ValueError(f"recipe={name!r} defines no RECIPE; {example}")
    if not isinstance(own, Recipe):
        raise ValueError(f"recipe={name!r}: RECIPE must be a Recipe, got a {type(own).__name__}; {example}")
    if not callable(own.network):
        raise ValueError(
            f"recipe={name!r}: network must be a function of input shape and classes, got {own.network!r}; {example}"
        )
    if not isinstance(own.numbers, Mapping) or not own.numbers:
        raise ValueError(
            f"recipe={name!r}: numbers must be a dict with Numbers for at least one data set, got {own.numbers!r}; "
            f"{example}"
        )
    for data, numbers in own.numbers.items():
        if not isinstance(data, str):
            raise ValueError(f"recipe={name!r}: numbers must go by names of data sets, got {data!r}; {example}")
        if not isinstance(numbers, Numbers):
            raise ValueError(f"recipe={name!r}: numbers[{data!r}] must be Numbers, got {numbers!r}; {example}")
    return own


def copy_recipe(name: str, folder: Path) -> Path:
    """Write a recipe's file into a folder, made into a program, and say where it is.

    Raises:
        ValueError: If there is no recipe with this name.
        FileExistsError: If the folder has a file of this name; it is left as it is.
    """
    file = FILES[chosen("recipe", name, FILES)]
    text = (Path(__file__).parent / f"{file}.py").read_text(encoding="utf-8")
    target = folder / f"{file}.py"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as written:
            written.write(text + _PROGRAM)
    except FileExistsError as error:
        raise FileExistsError(f"{target} exists already and is not overwritten; choose another folder") from error
    return target
