"""What Lightning hands to `optimizer_step` to be called: the pass over a batch, with zeroed gradients and backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import _private


@contextmanager
def same_result(closure: Any) -> Iterator[None]:
    """Let the result of another call inside the block not replace that of the first, which Lightning hands on."""
    first = _private.read(closure, "_result")
    try:
        yield
    finally:
        _private.write(closure, "_result", first)
