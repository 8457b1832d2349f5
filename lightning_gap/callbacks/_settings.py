"""The settings of a callback or a loader as plain values, to be compared between processes and with a checkpoint."""

from __future__ import annotations

import functools
import inspect
import os
import zlib
from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from ..trainer.state.object_parts import is_filled
from ..trainer.stated_batches import length as length_of

MANY = 64  # values of a list that are compared one by one


def settings_of(owner: object, *, code: bool = False) -> dict[str, Any]:
    """What an object was made with: the arguments of `__init__`, of base classes too, kept under their own names.

    Numbers, strings, lists, dicts and data classes come as they are; functions, methods and classes by name; tensors
    and batches by shape, data sets and loaders by class and length. Modules and other objects come by class alone: what
    they hold may change while they train, so that it tells nothing of what they were made with. All of it is plain, so
    that a checkpoint that holds it can be loaded with ``weights_only=True``.

    Args:
        owner: A callback, or a loader.
        code: Tell functions of one name apart by what they do, which is the same in processes of one run, but not in
            another version of Python.
    """
    # All of them: one's own may pass **kwargs.
    made_by = [vars(kind)["__init__"] for kind in type(owner).__mro__ if "__init__" in vars(kind)]
    names = [name for init in made_by for name in inspect.signature(init).parameters if name != "self"]
    return {name: _plain(getattr(owner, name), code) for name in dict.fromkeys(names) if hasattr(owner, name)}


def refuse_half_made(callback: object) -> None:
    """Raise if an `__init__` of this package has not run, because that of a user's subclass did not call it.

    Each keeps its arguments under their own names; those that are missing tell.

    Raises:
        TypeError: Names the class that must call it.
    """
    package, caller = __name__.partition(".")[0], type(callback)
    for kind in type(callback).__mro__:
        if "__init__" not in vars(kind):
            continue
        if kind.__module__.partition(".")[0] == package:
            _, *names = inspect.signature(vars(kind)["__init__"]).parameters
            for name in names:
                described = inspect.isdatadescriptor(inspect.getattr_static(type(callback), name, None))
                if name not in vars(callback) and not described:
                    raise TypeError(
                        f"{caller.__name__}.__init__ must call super().__init__(...): {kind.__name__} has no {name} yet"
                    )
        caller = kind


def _plain(value: Any, code: bool) -> Any:
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):  # subclasses too: enumerations, NumPy's
        if isinstance(value, kind):
            return "nan" if value != value else kind(value)
    if isinstance(value, Mapping):
        plain = [(_plain(key, code), _plain(inner, code)) for key, inner in value.items()]
        return {key if isinstance(key, Hashable) else str(key): inner for key, inner in plain}
    if isinstance(value, list | tuple):
        if all(_is_data(inner) for inner in value) and value:
            return f"{len(value)} batches, the first {_shape(value[0])} and the last {_shape(value[-1])}"
        shown = [_plain(inner, code) for inner in value[:MANY]]
        return shown if len(value) <= MANY else [*shown, f"... {len(value)} values"]
    if isinstance(value, set | frozenset):
        return sorted(str(_plain(inner, code)) for inner in value)
    if _is_data(value):
        return _shape(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, torch.Generator):
        return f"generator of seed {value.initial_seed()}"
    return _object(value, code)


def _object(value: Any, code: bool) -> Any:
    name = type(value).__qualname__
    if isinstance(value, torch.nn.Module):
        return name
    if isinstance(value, functools.partial):
        named = {key: _argument(inner, code) for key, inner in value.keywords.items()}
        return [_plain(value.func, code), [_argument(inner, code) for inner in value.args], named]
    if inspect.ismethod(value):
        return value.__qualname__ + (
            f" ({_digest(value.__func__):08x})" if code and inspect.isfunction(value.__func__) else ""
        )
    if inspect.isfunction(value):
        return value.__name__ + (f" ({_digest(value):08x})" if code else "")
    if inspect.isclass(value) or inspect.isroutine(value):
        return value.__name__
    if is_dataclass(value):
        return {"class": name, **{f.name: _plain(getattr(value, f.name), code) for f in fields(value) if f.init}}
    length = length_of(value)
    if hasattr(value, "item") and length is None:  # a number of NumPy's
        return _plain(value.item(), code)
    return name if length is None else f"{name} of length {length}"


def _argument(value: Any, code: bool) -> Any:
    """An argument of a `functools.partial`: where it is an object that may change, by its class."""
    if value is None or isinstance(value, str | int | float | os.PathLike) or inspect.isroutine(value):
        return _plain(value, code)
    return type(value).__qualname__


def _is_data(value: Any) -> bool:
    """Whether it is a tensor, an array, or a batch of them."""
    if isinstance(value, Tensor) or (hasattr(value, "shape") and hasattr(value, "dtype") and value.shape != ()):
        return True
    if isinstance(value, Mapping):
        return any(map(_is_data, value.values()))
    return isinstance(value, list | tuple) and any(map(_is_data, value))


def _shape(value: Any) -> Any:
    if hasattr(value, "shape"):
        return f"{type(value).__name__} of {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return {str(key): _shape(inner) for key, inner in value.items()}
    return [_shape(inner) for inner in value] if isinstance(value, list | tuple) else type(value).__name__


def _digest(function: Any) -> int:
    cells = [cell.cell_contents for cell in function.__closure__ or () if is_filled(cell)]
    plain = [_plain(inner, False) for inner in (*cells, *(function.__defaults__ or ()))]
    return zlib.crc32(repr((_code(function.__code__), plain)).encode())


def _code(code: CodeType) -> tuple[Any, ...]:
    inner = [_code(const) if isinstance(const, CodeType) else repr(const) for const in code.co_consts]
    return code.co_code, code.co_names, inner
