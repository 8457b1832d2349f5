"""Checks of arguments that several callbacks take."""

from __future__ import annotations

from numbers import Integral


def check_counts(**counts: int) -> None:
    """Raise the one error that names the argument if a count is not a whole number of at least 1."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")
