"""Checks of arguments that several callbacks take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Integral
from typing import Any


def check_counts(**counts: int) -> None:
    """Raise the one error that names the argument if a count is not a whole number of at least 1."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")


def check_batches(**given: Iterable[Any] | None) -> None:
    """Raise if batches come as an iterator, which would be used up by the first fit."""
    for name, batches in given.items():
        if isinstance(batches, Iterator):
            raise ValueError(
                f"{name} is a {type(batches).__name__}, which can be read once only; pass a list of batches"
            )


def check_functions(**given: object) -> None:
    """Raise the one error that names the argument if something is neither a function nor None."""
    for name, function in given.items():
        if function is not None and not callable(function):
            raise ValueError(f"{name} must be a function or None, got {function!r}")
