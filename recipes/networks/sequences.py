"""One check and one message for arguments that hold several counts."""

from __future__ import annotations

from contextlib import suppress

from lightning_gap.functional._validation import each, refusal, whole_number


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
        with suppress(ValueError):
            if len(each(name, values, whole_number)) == len(example):
                continue
        rule = f"must be {len(example)} whole numbers, each at least 1"
        raise ValueError(refusal(name, rule, values, f"for instance {list(example)}"))
