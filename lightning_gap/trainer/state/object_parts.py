"""How Python objects are made up: what is inside of one, and where it can be replaced."""

from __future__ import annotations

import enum
import functools
import logging
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_LIBRARIES = ("torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "numpy", "lightning_gap")
_SIMPLE = (
    *(bool, int, float, complex, str, bytes, range, slice, type(None), type(NotImplemented), type(...)),
    *(types.ModuleType, types.BuiltinFunctionType, types.CodeType, enum.Enum, PurePath),
    *(weakref.ref, logging.Logger, logging.Handler, type(threading.Lock()), type(threading.RLock())),
    *(torch.dtype, torch.device, torch.layout, torch.Size, torch.Stream),
)
# Large, and read only: to remember a whole data set would take its memory once more.
_DATA = (
    "torch.utils.data.dataset.Dataset",
    "torch.utils.data.dataloader.DataLoader",
    "torch.utils.data.sampler.Sampler",
)
_OF_THE_RUN = tuple(
    f"{name}.{part}."
    for name in ("lightning.pytorch", "pytorch_lightning")
    for part in ("trainer", "loggers", "strategies", "profilers")
)
_EXACTLY = frozenset({bool, int, float, complex, str, bytes, type(None)})

T = TypeVar("T")


def _once_for_each_class(function: Callable[[type], T]) -> Callable[[type], T]:
    """Keep the answer for a class; mypy does not take a class for hashable."""
    return functools.cache(function)


class Part(NamedTuple):
    """Something that an object holds.

    Attributes:
        name: Where it is, for an error.
        value: What is held.
        holder: What `replace` can put another object into; None where nothing can.
        key: Where in the holder.
    """

    name: str
    value: Any
    holder: Any = None
    key: Any = None


class ClassAttributes:
    """The values, not the methods, that a class of the user's holds itself."""

    def __init__(self, kind: type) -> None:
        self.kind = kind


_FOLLOWED = (Tensor, dict, list, nn.Module, Optimizer, ClassAttributes)


def is_left_alone(value: Any) -> bool:
    """Whether nothing inside of ``value`` is looked at: it cannot change, is data, or belongs to Lightning."""
    if isinstance(value, type):
        return not is_users(value)
    if isinstance(value, _SIMPLE):
        return True
    return not isinstance(value, _FOLLOWED) and _class_is_left_alone(type(value))


@_once_for_each_class
def _class_is_left_alone(kind: type) -> bool:
    bases = [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__]
    if any(base in _DATA or base.startswith(("lightning_gap.data.", *_OF_THE_RUN)) for base in bases):
        return True  # a user's own one too
    return is_of(kind, ("lightning", "pytorch_lightning", "lightning_fabric", "lightning_gap"))


@_once_for_each_class
def is_logger(kind: type) -> bool:
    """Whether a class is one of Lightning's loggers, or a user's own one."""
    loggers = tuple(f"{name}.loggers." for name in ("lightning.pytorch", "pytorch_lightning"))
    return any(f"{base.__module__}.".startswith(loggers) for base in kind.__mro__)


@_once_for_each_class
def is_users(kind: type) -> bool:
    """Whether a class is defined by neither Python nor the libraries that a module is made of."""
    return not is_of(kind, (*_LIBRARIES, *sys.stdlib_module_names))


def is_simple(value: Any) -> bool:
    """Whether it is exactly one of the commonest things that cannot change, or a tuple of nothing else."""
    return type(value) in _EXACTLY or (type(value) is tuple and all(type(part) in _EXACTLY for part in value))


def is_of(kind: type | Callable[..., Any], libraries: tuple[str, ...]) -> bool:
    """Whether a class or function is defined in one of these packages."""
    return (kind.__module__ or "").partition(".")[0] in libraries


def parts_of(name: str, value: Any) -> Iterator[Part]:
    """What an object holds, one level deep, but for what cannot change."""
    if isinstance(value, Optimizer):
        yield from (Part(f"{name}.{part}", getattr(value, part)) for part in ("param_groups", "state"))
        return
    if isinstance(value, dict):
        items = [(key, part) for key, part in list(value.items()) if not is_simple(part)]
        yield from (Part(f"{name}[{key!r}]", part, value, key) for key, part in items)
    elif isinstance(value, list | deque):
        places = [(i, part) for i, part in enumerate(list(value)) if not is_simple(part)]
        yield from (Part(f"{name}[{i}]", part, value, i) for i, part in places)
    elif isinstance(value, tuple | set | frozenset):
        yield from (Part(f"{name}[...]", part) for part in value if not is_simple(part))
    elif isinstance(value, type):
        yield Part(value.__name__, class_attributes(value))
        return
    elif isinstance(value, types.MethodType):
        yield from (Part(name, value.__self__), Part(name, value.__func__))
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, types.CellType):
        if is_filled(value):
            yield Part(name, value.cell_contents, value, "cell_contents")
    elif isinstance(value, functools.partial):
        yield from (Part(name, value.func), Part(name, value.args), Part(name, value.keywords))
    elif isinstance(value, ClassAttributes):
        yield from (Part(f"{name}.{key}", part, value.kind, key) for key, part in values_of_class(value.kind).items())
        return
    yield from _parts_of_attributes(name, value)


def _parts_of_function(function: types.FunctionType) -> Iterator[Part]:
    if is_of(function, _LIBRARIES):
        return
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        yield Part(variable, cell)
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield Part(f"a default of {function.__qualname__}", default)


def _parts_of_attributes(name: str, value: Any) -> Iterator[Part]:
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(value, Tensor):
        for key, part in list(attributes.items()):
            if not is_simple(part):
                yield Part(f"{name}.{key}", part, attributes, key)
    for slot in slots_of(type(value)):
        if hasattr(value, slot):
            yield Part(f"{name}.{slot}", getattr(value, slot), value, slot)
    if hasattr(value, "__array_interface__") and value.dtype.hasobject:
        yield from (Part(f"{name}[...]", part) for part in value.flat)
    for kind in _users_classes(type(value)):
        yield Part(kind.__name__, class_attributes(kind))


@_once_for_each_class
def _users_classes(kind: type) -> list[type]:
    """Of a class and its bases those that a user has defined."""
    return [base for base in kind.__mro__ if is_users(base)]


@_once_for_each_class
def class_attributes(kind: type) -> ClassAttributes:
    """One object for each class, so that it is met once."""
    return ClassAttributes(kind)


def values_of_class(kind: type) -> dict[str, Any]:
    """What the class itself holds besides methods, descriptors and what Python keeps there; classes in it too."""
    return {
        key: value
        for key, value in vars(kind).items()
        if not (key.startswith("__") and key.endswith("__"))
        and not key.startswith("_abc_")
        and not isinstance(value, types.FunctionType | staticmethod | classmethod)
        and not hasattr(type(value), "__get__")
    }


@_once_for_each_class
def slots_of(kind: type) -> list[str]:
    """Names of the slots of a user's class and its bases, private ones as Python keeps them."""
    if is_of(kind, ("builtins", "collections", "torch", "numpy")):
        return []
    found: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            found.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def is_filled(cell: types.CellType) -> bool:
    """Whether the variable of a closure has been bound."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def replace(holder: Any, key: Any, value: Any) -> None:
    """Put another object where `parts_of` found one."""
    if isinstance(holder, dict | list | deque):
        holder[key] = value
    else:
        setattr(holder, key, value)
