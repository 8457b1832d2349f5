"""One check and one message for arguments that hold several counts."""

from __future__ import annotations


def check_sequences(example: tuple[int, ...], **sequences: object) -> None:
    """Raise if one of them is not a list or tuple of as many whole numbers of at least 1 as the example has.

    Args:
        example: A value that is accepted, for the message.
        sequences: Values by the name of the argument; YAML makes lists of them.

    Raises:
        ValueError: Names the argument, its value and one to give instead.

    Example:
        >>> check_sequences((384, 192), dense=[7, 6])
        >>> check_sequences((384, 192), dense=[7])
        Traceback (most recent call last):
        ValueError: dense must be 2 whole numbers, each at least 1, got [7]; for instance [384, 192]
    """
    for name, values in sequences.items():
        counts = list(values) if isinstance(values, (list, tuple)) else []
        whole = all(isinstance(count, int) and not isinstance(count, bool) and count >= 1 for count in counts)
        if len(counts) != len(example) or not whole:
            raise ValueError(
                f"{name} must be {len(example)} whole numbers, each at least 1, got {values!r}; "
                f"for instance {list(example)}"
            )
