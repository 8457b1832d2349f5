"""Resolve the annotations of every public name, so that the reference shows what an alias stands for."""

from __future__ import annotations

import ast
import inspect
import sys
import typing
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any

import api_pages


def functions() -> Iterator[tuple[FunctionType, dict[str, Any]]]:
    """Each public function, and of each public class what makes it and the methods that its page shows.

    With the names in which to look up the annotations where a dataclass has them of the files of its bases.
    """
    for package in api_pages.AREAS:
        for name in api_pages.described(package):
            value = getattr(import_module(package), name)
            parts: list[Any] = [value]
            names: dict[str, Any] = {}
            if inspect.isclass(value):
                parts = [inspect.getattr_static(value, each) for each in ("__init__", *api_pages.methods_of(value))]
                for base in reversed(value.__mro__):
                    names |= vars(sys.modules[base.__module__])
            for part in parts:
                function = next((getattr(part, at) for at in ("__func__", "fget", "func") if hasattr(part, at)), part)
                if inspect.isfunction(function) and function.__module__.startswith("lightning_gap."):
                    yield function, names if function.__name__ == "__init__" else {}


def import_for_types(module: ModuleType) -> None:
    """Import what a module imports for the type checker alone."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), str(module.__file__), "exec"), vars(module))


def resolve() -> None:
    list(functions())  # imports them all
    modules = [module for name, module in sys.modules.items() if name.startswith("lightning_gap.")]
    for module in modules:
        with suppress(ImportError):  # of a name that a later module imports for the type checker alone
            import_for_types(module)
    for module in modules:
        import_for_types(module)
    for function, names in functions():
        function.__annotations__ = typing.get_type_hints(function, localns=names)
