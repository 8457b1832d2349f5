"""What recipes there are and what their files say, read without running them; and the class in a file, which is run."""

from __future__ import annotations

import ast
import collections.abc
import re
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from inspect import cleandoc
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
    """What a recipe's file says.

    Attributes:
        name: As the command line has it.
        docstring: Of the class.
        data_sets: What differs on each data set, the first being the default.
        regimes: First line of the docstring of each regime.
        signature: Has the hyperparameters beside ``self`` and ``regime``; the class itself where the file was run.
    """

    name: str
    docstring: str
    data_sets: Mapping[str, Mapping[str, Any]]
    regimes: Mapping[str, str]
    signature: Callable[..., Any]

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.docstring.partition("\n")[0]


@cache
def bundled() -> dict[str, Path]:
    """The file of each recipe here: those with a subclass of ``Recipe``."""
    subclass = re.compile(r"^class \w+\(Recipe\):", re.MULTILINE)
    files = (path for path in sorted(_FOLDER.glob("*.py")) if subclass.search(path.read_text(encoding="utf-8")))
    return {path.stem.replace("_", "-"): path for path in files}


def summaries(file: str, table: str) -> dict[str, str]:
    """The first docstring line of each function in a dict of functions, for instance ``REGIMES`` of ``regimes.py``."""
    tree = _parsed(_FOLDER / file)
    return _summaries(tree, _assigned(tree.body)[table])


def read_docstring(file: str, name: str) -> str:
    """The docstring of a class in a file of this folder."""
    found = next(part for part in _parsed(_FOLDER / file).body if isinstance(part, ast.ClassDef) and part.name == name)
    return ast.get_docstring(found) or ""


def recipe_file(name: str) -> RecipeFile:
    """The recipe with this name, or the one in the file of this name, for instance a copy that was edited.

    Its file is read, which needs no torch, and run only where it cannot be read: its class inherits from another
    recipe, or makes its data sets or regimes in another way than by a dict.

    Raises:
        ValueError: If there is none with this name, or the file does not parse or, run, has no recipe or two.
        FileNotFoundError: If there is no such file.
    """
    path = _path(name)
    try:
        tree = _parsed(path)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        told = error.msg if isinstance(error, SyntaxError) else error
        raise ValueError(f"recipe={name!r}{line}: {type(error).__name__}: {told}") from error
    classes = [part for part in tree.body if isinstance(part, ast.ClassDef) and _is_recipe(part)]
    if len(classes) == 1:
        assigned, docstring = _assigned(classes[0].body), ast.get_docstring(classes[0]) or ""
        data_sets = _evaluated(assigned.get("data_sets", ast.Constant(None)))
        regimes, signature = _regimes(tree, assigned.get("regimes")), _signature(classes[0])
        if isinstance(data_sets, dict) and regimes is not None and signature is not None:
            return RecipeFile(name, docstring, data_sets, regimes, signature)
    recipe = load_recipe(name)
    lines = {regime: cleandoc(make.__doc__ or "").partition("\n")[0] for regime, make in recipe.regimes.items()}
    return RecipeFile(name, cleandoc(recipe.__doc__ or ""), recipe.data_sets, lines, recipe)


def load_recipe(name: str) -> type[Recipe]:
    """The class of a recipe, its file run.

    Raises:
        ValueError: If the file fails, has no recipe or two; names the line.
        FileNotFoundError: If there is no such file.
    """
    from .recipe import Recipe

    path = _path(name)
    module = _run(name, path) if name.endswith(".py") else import_module(f".{path.stem}", __package__)
    classes = [found for found in vars(module).values() if isinstance(found, type) and issubclass(found, Recipe)]
    own = [found for found in classes if found.__module__ == module.__name__]
    if len(own) != 1:
        named = " and ".join(found.__name__ for found in own)
        has = f"has {len(own)} recipes, {named}; leave one of them" if own else f"has no recipe; {_EXAMPLE}"
        raise ValueError(f"recipe={name!r} {has}")
    return own[0]


def copy_recipe(name: str, folder: Path) -> Path:
    """Write a recipe's file into a folder, made into a program, and say where it is.

    Raises:
        ValueError: If there is no recipe with this name.
        FileExistsError: If the folder has a file of this name; it is left as it is.
        OSError: If the file cannot be written; then there is none.
    """
    file = bundled()[lookup("recipe", name, bundled())]
    target = folder / file.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as written:
            written.write(file.read_text(encoding="utf-8") + _PROGRAM)
    except FileExistsError as error:
        raise FileExistsError(f"{target} exists already and is not overwritten; choose another folder") from error
    except OSError as error:  # a full disk, say: half a file would be in the way of the next try
        target.unlink(missing_ok=True)
        raise OSError(f"{str(target)!r} cannot be written ({error}); make room, or choose another folder") from error
    return target


def _path(name: str) -> Path:
    if not name.endswith(".py"):
        return bundled()[lookup("recipe", name, bundled())]
    if not Path(name).is_file():
        raise FileNotFoundError(f"recipe={name!r} is no file; {_EXAMPLE}")
    return Path(name)


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())


def _is_recipe(part: ast.ClassDef) -> bool:
    return any(ast.unparse(base).split(".")[-1] == "Recipe" for base in part.bases)


def _run(name: str, file: Path) -> Any:
    # No name of a module that is in use, and none with a dot: jsonargparse imports a class's module by its name.
    spec = spec_from_file_location("lightning_gap_recipe_" + re.sub(r"\W", "_", file.stem), file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickles look their own module up
    beside = str(file.resolve().parent)  # whose modules `python FILE` finds, too
    sys.path.insert(0, beside)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # of whatever type the user's own code fails with
        places = [frame.lineno for frame in extract_tb(error.__traceback__) if Path(frame.filename) == file.resolve()]
        where = f", line {places[-1]}" if places else ""
        raise ValueError(f"recipe={name!r}{where}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(beside)
    return module


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    found = {}
    for statement in body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.expr):
            found[target.id] = value
    return found


def _regimes(tree: ast.Module, table: ast.expr | None) -> dict[str, str] | None:
    """Those of all recipes, unless the class has a dict of its own; None where it is no plain dict."""
    ours = summaries("regimes.py", "REGIMES")
    if table is None:
        return ours
    shared = (
        [ast.unparse(value) for key, value in zip(table.keys, table.values, strict=True) if key is None]
        if isinstance(table, ast.Dict)
        else [""]
    )
    named = isinstance(table, ast.Dict) and all(key is None or isinstance(_evaluated(key), str) for key in table.keys)
    if set(shared) - {"REGIMES"} or not named:
        return None
    own = {name: line or ours.get(name, "") for name, line in _summaries(tree, table).items()}  # imported from ours
    return (ours if shared else {}) | own


def _summaries(tree: ast.Module, table: ast.expr) -> dict[str, str]:
    lines = {
        part.name: (ast.get_docstring(part) or "").partition("\n")[0]
        for part in tree.body
        if isinstance(part, ast.FunctionDef)
    }
    entries = zip(table.keys, table.values, strict=True) if isinstance(table, ast.Dict) else ()
    return {str(_evaluated(key)): lines.get(ast.unparse(value), "") for key, value in entries if key is not None}


def _signature(recipe: ast.ClassDef) -> Callable[..., None] | None:
    """Its ``__init__`` with annotations and defaults, and without a body; None where only running the file tells."""
    init = next((part for part in recipe.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    if init is None or init.args.kwarg or init.args.vararg:
        return None
    bare = ast.FunctionDef(recipe.name, init.args, [ast.Expr(ast.Constant(...))], [], lineno=0)
    namespace: dict[str, Any] = {**vars(typing), **vars(collections.abc), "typing": typing}
    try:
        exec(ast.unparse(bare), namespace)
    except Exception:  # a name that only running the file defines
        return None
    made: Callable[..., None] = namespace[recipe.name]
    if "learning_rate_steps" in made.__annotations__:  # epochs as they were typed: an int would be made of 1.5
        made.__annotations__["learning_rate_steps"] = dict[float, float] | None
    return made


def _evaluated(expression: ast.expr) -> Any:
    try:
        return ast.literal_eval(expression)
    except ValueError:
        return None
