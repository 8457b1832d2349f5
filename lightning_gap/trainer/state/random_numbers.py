"""Random generators, left as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .._private import collect_random_states, set_random_states


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Put torch's, NumPy's and Python's generators back at the end, also after an exception."""
    states: dict[str, Any] = collect_random_states()
    try:
        yield
    finally:
        set_random_states(states)
