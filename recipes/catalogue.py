"""What recipes there are and what their files say, read without running them; and the class in a file, which is run."""

from __future__ import annotations

import ast
import collections.abc
import copy
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from .lookup import lookup

if TYPE_CHECKING:
    from .recipe import Recipe

_FOLDER = Path(__file__).parent
_PROGRAM = """

if __name__ == "__main__":  # python THIS_FILE run --regime small, or compare small large
    import sys

    from lightning_gap.recipes.runner.cli import main

    command, *options = sys.argv[1:] or ["--help"]
    sys.exit(main([command, __file__, *options] if options else [command]))
"""
_EXAMPLE = "`lightning-gap copy f1 .` writes one to begin with"


@dataclass(frozen=True)
class RecipeFile:
    """What a recipe's file says, as far as it can be read without running it.

    Attributes:
        name: As the command line has it.
        path: The file.
        summary: First line of the class's docstring.
        docstring: The whole of it.
        data_sets: What differs on each data set, the first being the default; None where only running it tells.
        regimes: First line of the docstring of each regime; None where only running it tells.
        signature: A function with the hyperparameters as keyword arguments; None where only running it tells.
    """

    name: str
    path: Path
    summary: str
    docstring: str
    data_sets: Mapping[str, Mapping[str, Any]] | None
    regimes: Mapping[str, str] | None
    signature: Callable[..., None] | None


@cache
def bundled() -> dict[str, Path]:
    """The file of each recipe here: those with a subclass of ``Recipe``."""
    found = {}
    for path in sorted(_FOLDER.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "(Recipe):" in text and _classes(ast.parse(text)):
            found[path.stem.replace("_", "-")] = path
    return found


def summaries(file: str, table: str) -> dict[str, str]:
    """The first docstring line of each function in a dict of functions, for instance ``REGIMES`` of ``regimes.py``."""
    tree = ast.parse((_FOLDER / file).read_text(encoding="utf-8"))
    return _summaries(tree, _assigned(tree.body)[table])


def read_docstring(file: str, name: str) -> str:
    """The docstring of a class in a file of this folder."""
    tree = ast.parse((_FOLDER / file).read_text(encoding="utf-8"))
    found = next(part for part in tree.body if isinstance(part, ast.ClassDef) and part.name == name)
    return ast.get_docstring(found) or ""


def recipe_file(name: str) -> RecipeFile:
    """The recipe with this name, or the one in the file of this name, for instance a copy that was edited.

    Raises:
        ValueError: If there is none with this name, or the file does not parse, or has two recipes.
        FileNotFoundError: If there is no such file.
    """
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"recipe={name!r} is no file; {_EXAMPLE}")
    else:
        path = bundled()[lookup("recipe", name, bundled())]
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise ValueError(f"recipe={name!r}{line}: {type(error).__name__}: {error}") from error
    classes = _classes(tree)
    if len(classes) > 1:
        raise ValueError(f"recipe={name!r} has {len(classes)} recipes, {_named(classes)}; leave one of them")
    if not classes:  # perhaps it inherits from another
        return RecipeFile(name, path, "", "", None, None, None)
    (found,) = classes
    assigned, docstring = _assigned(found.body), ast.get_docstring(found) or ""
    return RecipeFile(
        name,
        path,
        docstring.partition("\n")[0],
        docstring,
        _evaluated(assigned["data_sets"]) if "data_sets" in assigned else None,
        _regimes(tree, assigned.get("regimes")),
        _signature(found),
    )


def load_recipe(name: str) -> type[Recipe]:
    """The class of a recipe, its file run.

    Raises:
        ValueError: If the file fails, has no recipe or two; names the line.
        FileNotFoundError: If there is no such file.
    """
    from .recipe import Recipe

    file = recipe_file(name).path
    module = _run(name, file) if name.endswith(".py") else import_module(f".{file.stem}", __package__)
    own = [
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Recipe) and found.__module__ == module.__name__
    ]
    if len(own) != 1:
        has = f"has {len(own)} recipes, {_named(own)}; leave one of them" if own else f"has no recipe; {_EXAMPLE}"
        raise ValueError(f"recipe={name!r} {has}")
    return own[0]


def copy_recipe(name: str, folder: Path) -> Path:
    """Write a recipe's file into a folder, made into a program, and say where it is.

    Raises:
        ValueError: If there is no recipe with this name.
        FileExistsError: If the folder has a file of this name; it is left as it is.
    """
    file = bundled()[lookup("recipe", name, bundled())]
    target = folder / file.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as written:
            written.write(file.read_text(encoding="utf-8") + _PROGRAM)
    except FileExistsError as error:
        raise FileExistsError(f"{target} exists already and is not overwritten; choose another folder") from error
    return target


def _run(name: str, file: Path) -> Any:
    # No name of a module that is in use, and none with a dot: jsonargparse imports a class's module by its name.
    spec = spec_from_file_location(f"lightning_gap_recipe_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickles look their own module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # of whatever type the user's own code fails with
        places = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f", line {places[-1]}" if places else ""
        raise ValueError(f"recipe={name!r}{where}: {type(error).__name__}: {error}") from error
    return module


def _classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [
        found
        for found in tree.body
        if isinstance(found, ast.ClassDef) and any(ast.unparse(base).split(".")[-1] == "Recipe" for base in found.bases)
    ]


def _named(classes: list[Any]) -> str:
    return " and ".join(getattr(found, "name", None) or found.__name__ for found in classes)


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    found = {}
    for statement in body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.expr):
            found[target.id] = value
    return found


def _regimes(tree: ast.Module, table: ast.expr | None) -> dict[str, str] | None:
    """Those of all recipes, unless the class has a dict of its own."""
    ours = summaries("regimes.py", "REGIMES")
    if table is None:
        return ours
    if not isinstance(table, ast.Dict):
        return None
    shared = [value for key, value in zip(table.keys, table.values, strict=True) if key is None]
    if any(not isinstance(value, ast.Name) or value.id != "REGIMES" for value in shared):
        return None
    return (ours if shared else {}) | _summaries(tree, table)


def _summaries(tree: ast.Module, table: ast.expr) -> dict[str, str]:
    lines = {
        part.name: (ast.get_docstring(part) or "").partition("\n")[0]
        for part in tree.body
        if isinstance(part, ast.FunctionDef)
    }
    entries = zip(table.keys, table.values, strict=True) if isinstance(table, ast.Dict) else ()
    return {str(_evaluated(key)): lines.get(ast.unparse(value), "") for key, value in entries if key is not None}


def _signature(recipe: ast.ClassDef) -> Callable[..., None] | None:
    """A function of the hyperparameters, every one by keyword, with their annotations and defaults."""
    init = next((part for part in recipe.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    if init is None or init.args.kwarg or init.args.vararg:
        return None
    given = copy.deepcopy(init.args)
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
    defaults += given.defaults
    named = [(a, d) for a, d in zip(positional, defaults, strict=True) if a.arg not in ("self", "regime")]
    keywords = [*named, *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    for argument, _ in keywords:
        if argument.arg == "learning_rate_steps":  # epochs as they were typed: an int would be made of 1.5
            argument.annotation = ast.parse("dict[float, float] | None", mode="eval").body
    arguments = ast.arguments([], [], None, [a for a, _ in keywords], [d for _, d in keywords], None, [])
    namespace: dict[str, Any] = {**vars(typing), **vars(collections.abc), "typing": typing}
    try:
        exec(f"def {recipe.name}({ast.unparse(arguments)}) -> None: ...", namespace)
    except Exception:  # a name that only running the file defines
        return None
    made: Callable[..., None] = namespace[recipe.name]
    return made


def _evaluated(expression: ast.expr) -> Any:
    try:
        return ast.literal_eval(expression)
    except ValueError:
        return None
