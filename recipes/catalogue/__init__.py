"""The recipes, a file each, found by listing this folder; or one of a user's own files."""

from __future__ import annotations

from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from traceback import extract_tb

from lightning_gap.recipes.recipe import Recipe, chosen

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
    spec = spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(f"recipe={name!r} is no file; `lightning-gap copy f1 .` writes one to begin with")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # of whatever type the user's own code fails with
        places = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else places[-1] if places else None
        raise ValueError(f"recipe={name!r}, line {line}: {type(error).__name__}: {error}") from error
    own = getattr(module, "RECIPE", None)
    if not isinstance(own, Recipe):
        raise ValueError(f"recipe={name!r} defines no RECIPE; see what `lightning-gap copy f1 .` writes")
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
