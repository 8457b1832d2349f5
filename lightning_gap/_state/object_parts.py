"""How Python objects are made up: what is inside of one, and where it can be replaced."""

from __future__ import annotations

import enum
import functools
import logging
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_LIBRARIES = ("torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "numpy", "lightning_gap")
_OF_LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric")
_SIMPLE = (
    *(bool, int, float, complex, str, bytes, range, slice, type, type(None), type(NotImplemented), type(...)),
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


def is_left_alone(value: Any) -> bool:
    """Whether nothing inside of ``value`` is looked at: it cannot change, is data, or belongs to Lightning."""
    if isinstance(value, _SIMPLE):
        return True
    if isinstance(value, Tensor | dict | list | nn.Module | Optimizer | ClassAttributes):
        return False
    bases = [f"{base.__module__}.{base.__qualname__}" for base in type(value).__mro__]
    if any(base in _DATA or base.startswith("lightning_gap.data.") for base in bases):
        return True
    if any(base.startswith(_OF_THE_RUN) for base in bases):  # a user's own one too
        return True
    return is_of(type(value), (*_OF_LIGHTNING, "lightning_gap"))


def is_of(kind: type | Callable[..., Any], libraries: tuple[str, ...]) -> bool:
    """Whether a class or function is defined in one of these packages."""
    return (kind.__module__ or "").partition(".")[0] in libraries


def parts_of(name: str, value: Any) -> Iterator[Part]:
    """What an object holds, one level deep."""
    if isinstance(value, Optimizer):
        yield Part(f"{name}.param_groups", value.param_groups)  # its state is as large as the weights
        return
    if isinstance(value, dict):
        yield from (Part(f"{name}[{key!r}]", part, value, key) for key, part in list(value.items()))
    elif isinstance(value, list | deque):
        yield from (Part(f"{name}[{i}]", part, value, i) for i, part in enumerate(list(value)))
    elif isinstance(value, tuple | set | frozenset):
        yield from (Part(f"{name}[...]", part) for part in value)
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
            yield Part(f"{name}.{key}", part, attributes, key)
    for slot in slots_of(type(value)):
        if hasattr(value, slot):
            yield Part(f"{name}.{slot}", getattr(value, slot), value, slot)
    if isinstance(attributes, dict):
        for kind in type(value).__mro__:
            if kind is not object and not is_of(kind, _LIBRARIES) and values_of_class(kind):
                yield Part(kind.__name__, class_attributes(kind))


@functools.cache
def class_attributes(kind: type) -> ClassAttributes:
    """One object for each class, so that it is met once."""
    return ClassAttributes(kind)


def values_of_class(kind: type) -> dict[str, Any]:
    """What the class itself holds besides methods, descriptors and what Python keeps there."""
    return {
        key: value
        for key, value in vars(kind).items()
        if not (key.startswith("__") and key.endswith("__"))
        and not key.startswith("_abc_")
        and not isinstance(value, types.FunctionType | staticmethod | classmethod | type)
        and not hasattr(type(value), "__get__")
    }


def slots_of(kind: type) -> list[str]:
    """Names of the slots of a user's class and its bases."""
    if is_of(kind, ("builtins", "collections", "torch", "numpy")):
        return []
    found = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    names = [name for slots in found for name in ((slots,) if isinstance(slots, str) else slots)]
    return [name for name in names if name not in ("__dict__", "__weakref__")]


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
