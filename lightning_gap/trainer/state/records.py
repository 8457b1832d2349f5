"""The content of one Python object: a copy of what can change in place, and how to put it back."""

from __future__ import annotations

import random
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from operator import eq
from operator import is_ as _is
from types import CellType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from .object_parts import ClassAttributes, is_filled, slots_of, values_of_class

Record = Callable[[], str | None]
"""Lets an object hold again what it held when the record was made; returns the name of what it did not hold, if so."""

_NOTHING = object()


def records_of(name: str, value: Any) -> Iterator[Record]:
    """What of ``value``, which is found at ``name``, can change in place; not of what it holds."""
    if isinstance(value, Tensor):
        if value.device.type != "meta" and not is_lazy(value):
            yield _tensor(name, value)
        return
    if isinstance(value, np.ndarray):
        if value.flags.writeable and not isinstance(value, np.memmap):
            yield _state(name, value.copy, lambda saved: value.__setitem__(..., saved))
        return
    if isinstance(value, dict):
        yield _mapping(name, value)
    elif isinstance(value, list | set | deque | bytearray):
        yield _items(name, value)
    elif isinstance(value, torch.Generator | np.random.RandomState):
        yield _state(name, value.get_state, value.set_state)
    elif isinstance(value, np.random.BitGenerator | np.random.Generator):
        bits = value if isinstance(value, np.random.BitGenerator) else value.bit_generator
        yield _state(name, lambda: bits.state, lambda saved: setattr(bits, "state", saved))
    elif isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        yield _state(name, value.getstate, value.setstate, eq)
    elif isinstance(value, array):
        yield _state(name, lambda: value[:], lambda saved: value.__setitem__(slice(None), saved), eq)
    elif isinstance(value, CellType):
        yield _state(name, lambda: value.cell_contents if is_filled(value) else _NOTHING, lambda v: _fill(value, v))
    elif isinstance(value, ClassAttributes):
        yield _state(name, lambda: values_of_class(value.kind), lambda saved: _set_class(value.kind, saved))
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(value, Optimizer):
        yield _mapping(name, attributes, of_attributes=True)
    slots = slots_of(type(value))
    if slots:
        yield _state(name, lambda: _slots(value, slots), lambda saved: _set_slots(value, saved))


def _mapping(name: str, owner: dict[Any, Any], *, of_attributes: bool = False) -> Record:
    saved = dict(owner)

    def put_back() -> str | None:
        if len(owner) == len(saved) and all(map(_is, owner.values(), saved.values())) and all(map(_is, owner, saved)):
            return None
        keys = [key for key in {**saved, **owner} if owner.get(key, _NOTHING) is not saved.get(key, _NOTHING)]
        kind = OrderedDict if isinstance(owner, OrderedDict) else dict  # not a method of the user's own class
        if list(owner) != list(saved):
            kind.clear(owner)
        for key, value in saved.items():
            kind.__setitem__(owner, key, value)
        if not keys:
            return name  # the same in another order
        return f"{name}.{keys[0]}" if of_attributes else f"{name}[{keys[0]!r}]"

    return put_back


def _items(name: str, owner: Any) -> Record:
    saved = list(owner)

    def put_back() -> str | None:
        if len(owner) == len(saved) and all(map(_is, owner, saved)):
            return None
        if isinstance(owner, list):
            list.__setitem__(owner, slice(None), saved)
        elif isinstance(owner, set):
            set.clear(owner)
            set.update(owner, saved)
        elif isinstance(owner, deque):
            deque.clear(owner)
            deque.extend(owner, saved)
        else:  # bytearray
            owner[:] = bytes(saved)
        return name

    return put_back


def _tensor(name: str, owner: Tensor) -> Record:
    saved, requires_grad = owner.detach().clone(), owner.requires_grad

    @torch.no_grad()
    def put_back() -> str | None:
        changed = owner.requires_grad != requires_grad
        if changed:
            owner.requires_grad_(requires_grad)
        if owner.is_nested or (owner.shape == saved.shape and owner.dtype == saved.dtype):
            if same_tensor(owner, saved):
                return name if changed else None
            owner.copy_(saved)
        else:  # the step has put another size in its place
            owner.data = saved.clone()
        return name

    return put_back


def _state(
    name: str, read: Callable[[], Any], write: Callable[[Any], object], same: Callable[[Any, Any], bool] | None = None
) -> Record:
    """Of something with a state to read and to set, as random generators have it."""
    saved, same = read(), same or _same

    def put_back() -> str | None:
        if same(read(), saved):
            return None
        write(saved)
        return name

    return put_back


def same_tensor(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one shape hold the same, NaN where NaN was; sparse and nested ones too."""
    if first.is_nested:
        return all(map(same_tensor, first.unbind(), second.unbind()))
    if first.layout != torch.strided:
        first, second = first.to_dense(), second.to_dense()
    if torch.equal(first, second):
        return True
    if first.is_complex():
        first, second = torch.view_as_real(first), torch.view_as_real(second)
    return first.is_floating_point() and bool(torch.isclose(first, second, 0.0, 0.0, equal_nan=True).all())


def _same(first: Any, second: Any) -> bool:
    """Whether two states are equal; objects that hold no state of their own are, if they are one and the same."""
    if first is second:
        return True
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_same(value, second[key]) for key, value in first.items())
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if hasattr(first, "tobytes") and hasattr(second, "tobytes"):  # arrays
        return bool(first.shape == second.shape and first.tobytes() == second.tobytes())
    return isinstance(first, int | float | str | bytes) and type(first) is type(second) and first == second


def _fill(cell: CellType, value: Any) -> None:
    if value is _NOTHING:
        del cell.cell_contents
    else:
        cell.cell_contents = value


def _slots(value: Any, slots: list[str]) -> dict[str, Any]:
    return {slot: getattr(value, slot) for slot in slots if hasattr(value, slot)}


def _set_slots(value: Any, saved: dict[str, Any]) -> None:
    for slot in _slots(value, slots_of(type(value))).keys() - saved.keys():
        object.__delattr__(value, slot)
    for slot, content in saved.items():
        object.__setattr__(value, slot, content)


def _set_class(kind: type, saved: dict[str, Any]) -> None:
    for key in values_of_class(kind).keys() - saved.keys():
        delattr(kind, key)
    for key, value in saved.items():
        if vars(kind).get(key, _NOTHING) is not value:
            setattr(kind, key, value)
