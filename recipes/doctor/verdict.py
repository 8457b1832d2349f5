"""What is told of one cause: it applies, it does not, or it cannot be told from what is there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Applies:
    """A cause that applies.

    Attributes:
        number: What was read, in words.
        source: Where.
        fix: A line of code or an option.
    """

    number: str
    source: str
    fix: str


@dataclass(frozen=True)
class Absent:
    """A cause that does not apply, with the number that tells."""

    number: str


@dataclass(frozen=True)
class Unknown:
    """What cannot be told, and what to add to the run or the command so that it can."""

    add: str


Verdict = Applies | Absent | Unknown
