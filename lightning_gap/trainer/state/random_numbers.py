"""Random generators, left as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import _private


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Put torch's, NumPy's and Python's generators back at the end, also after an exception."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def random_states() -> dict[str, Any]:
    """The states of torch's, NumPy's and Python's generators."""
    states: dict[str, Any] = _private.collect_random_states()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Put the generators in these states."""
    _private.set_random_states(states)
