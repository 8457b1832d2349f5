"""Checks of arguments that several callbacks take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, TypeVar

from torch import Tensor

from ..functional._validation import function, whole_number

Function = TypeVar("Function", bound=Callable[..., Any])


def check_batches(**given: Iterable[Any] | None) -> None:
    """Raise if batches come as one batch, or as an iterator, which would be used up by the first fit."""
    for name, batches in given.items():
        if isinstance(batches, Iterator):
            raise ValueError(
                f"{name} is a {type(batches).__name__}, which can be read once only; pass a list of batches"
            )
        one = isinstance(batches, Tensor | str | bytes | Mapping | Set) or hasattr(batches, "__array__")
        if batches is not None and (one or not _can_be_read(batches)):
            raise ValueError(f"{name} must be a list of batches, got a {type(batches).__name__}; pass {name}=[batch]")


def optional_whole_number(name: str, value: object, least: int = 1, *, hint: str = "") -> int | None:
    """The value as a plain int, or None; raise if it is neither."""
    return None if value is None else whole_number(name, value, least, hint=hint)


def optional_function(name: str, value: Function | None, takes: str = "(module, batch)") -> Function | None:
    """Give back a function or None; raise if it is neither."""
    return None if value is None else function(name, value, takes)


def _can_be_read(batches: Any) -> bool:
    return isinstance(batches, Iterable) or hasattr(batches, "__getitem__")
