"""Random generators, left as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .. import _private

random_states: Callable[[], dict[str, Any]] = _private.collect_random_states
"""The states of torch's, NumPy's and Python's generators."""

set_random_states: Callable[[dict[str, Any]], None] = _private.set_random_states
"""Put the generators in these states."""


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Put torch's, NumPy's and Python's generators back at the end, also after an exception."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)
