"""What a measurement cannot put back, and what stands in its place until it is over."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import Executor
from functools import partial
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from .object_parts import is_left_alone, is_logger, slots_of

_STEPPED = (io.IOBase, threading.Thread, socket.socket, subprocess.Popen, Executor, BaseProcess, SimpleQueue)


# Whose objects keep their state where Python cannot see it.
_OF_LIBRARIES_IN_C = frozenset(
    {"_hashlib", "_blake2", "_sqlite3", "sqlite3", "_ctypes", "multiprocessing.sharedctypes"}
)


class CannotBePutBackError(ValueError):
    """The loss comes from something whose state cannot be put back after a measurement."""


class Steppable:
    """Tells what can be stepped and not be set back: iterators, files, threads, and what holds one."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}
        self._asked: list[Any] = []  # alive, so that an id stays theirs

    def __call__(self, value: Any) -> bool:
        """Whether ``value`` is or holds such an object, and cannot be given a stand-in inside of it."""
        if isinstance(value, Tensor | nn.Module | str | int | float | bytes | type | None):
            return False
        if is_logger(type(value)):
            return True
        if is_left_alone(value):
            return False
        if id(value) not in self._known:
            self._asked.append(value)
            self._known[id(value)] = False  # met again inside itself
            try:
                self._known[id(value)] = self._is(value)
            except RecursionError:  # a chain of objects so long that none of them is taken for a file or a thread
                self._known[id(value)] = False
        return self._known[id(value)]

    def _is(self, value: Any) -> bool:
        if isinstance(value, _STEPPED):
            return value not in (sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
        if type(value).__module__ in _OF_LIBRARIES_IN_C:
            return True
        plain_iterator = isinstance(value, Iterator) and not hasattr(value, "__dict__")
        if plain_iterator or isinstance(value, AsyncGenerator | Coroutine):
            return True
        if isinstance(value, tuple | set | frozenset):
            return any(map(self, value))
        if isinstance(value, MethodType):
            return self(value.__self__)
        if isinstance(value, partial):
            return any(map(self, (value.func, *value.args, *value.keywords.values())))
        if isinstance(value, FunctionType | list | dict):
            return False  # a stand-in can take the place of what it holds
        held = [
            *getattr(value, "__dict__", {}).values(),
            *(getattr(value, slot, None) for slot in slots_of(type(value))),
        ]
        return any(self(part) or self._in_container(part, set()) for part in held)

    def _in_container(self, value: Any, met: set[int]) -> bool:
        if not isinstance(value, dict | list) or id(value) in met:
            return False
        met.add(id(value))
        parts = list(value.values() if isinstance(value, dict) else value)
        return any(self(part) or self._in_container(part, met) for part in parts)


class StandIn:
    """Raises, whatever is done with it; the object itself is not touched."""

    __slots__ = ("_kind", "_name")

    def __init__(self, name: str, own: Any) -> None:
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_kind", type(own).__name__)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        name, kind = (object.__getattribute__(self, slot) for slot in ("_name", "_kind"))
        raise CannotBePutBackError(
            f"training_step uses {name}, a {kind}, whose state cannot be put back after a measurement; pass "
            "loss_fn=..., a function of (module, batch) that leaves it alone"
        )

    __getattr__ = __setattr__ = __delattr__ = _refuse
    __call__ = __iter__ = __next__ = __enter__ = __exit__ = __len__ = __contains__ = _refuse
    __getitem__ = __setitem__ = __delitem__ = __bool__ = _refuse
