"""Random generators, left as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .. import _private

random_states: Callable[[], dict[str, Any]] = _private.collect_random_states
"""The states of torch's, NumPy's and Python's generators."""

set_random_states: Callable[[dict[str, Any]], None] = _private.set_random_states
"""Put the generators in these states."""


def generator_at(*place: int) -> torch.Generator:
    """A generator for one place in a run: the same numbers when it is resumed, or when a pass is taken once more."""
    return torch.Generator().manual_seed(hash(place) % 2**63)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Put torch's, NumPy's and Python's generators back at the end, also after an exception."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)
