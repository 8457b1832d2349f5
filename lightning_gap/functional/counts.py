"""The check of several counts at once, for callers that keep the values as they were given."""

from __future__ import annotations

from ._validation import whole_number


def check_counts(*, unit: str = "", **counts: int) -> None:
    """Raise if one of them is not a plain whole number of at least 1; `whole_number` takes NumPy's and makes it plain.

    Args:
        unit: What is counted, for the message: ``"samples"``.
        counts: Values by the name of the argument.

    Raises:
        ValueError: Names the argument and its value.

    Example:
        >>> check_counts(draws=3)
        >>> check_counts(unit="samples", batch_size=0)
        Traceback (most recent call last):
        ValueError: batch_size must be a whole number of samples, at least 1, got 0
    """
    for name, value in counts.items():
        whole_number(name, value, unit=unit)
        if not isinstance(value, int):
            raise ValueError(f"{name} must be a plain int, got {value!r}; pass int({name})")
