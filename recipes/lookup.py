"""Find a name among those that are known, or refuse it with the nearest; without importing torch."""

from __future__ import annotations

import sys
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
    raise ValueError(f"unknown {kind} {shown(name)}; {hint}known: {', '.join(names)}")


def shown(value: object) -> str:
    """A value in an error, cut where nobody would read on."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > sys.float_info.max:
        return "one with over 300 digits"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
