"""Find a name among those that are known, or refuse it with the nearest."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def lookup(kind: str, name: object, known: Iterable[str]) -> str:
    """Give ``name`` back if it is known.

    Args:
        kind: What the names are of, for the message.
        name: What was asked for.
        known: All names.

    Raises:
        ValueError: If it is not known; offers the nearest names.
    """
    names = list(known)
    if isinstance(name, str) and name in names:
        return name
    near = get_close_matches(name, names, cutoff=0.5) if isinstance(name, str) else []
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"unknown {kind} {name!r}; {hint}known: {', '.join(names)}")
