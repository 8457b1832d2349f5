"""One check and one message for arguments that count something."""

from __future__ import annotations


def check_counts(*, unit: str = "", **counts: int) -> None:
    """Raise if one of them is not a whole number of at least 1.

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
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            of_what = f" of {unit}" if unit else ""
            raise ValueError(f"{name} must be a whole number{of_what}, at least 1, got {value!r}")
