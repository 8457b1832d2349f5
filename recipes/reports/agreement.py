"""Where our numbers agree with a paper's: a mark for each, and a line that counts them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .parts import Numbers, Table


@dataclass(frozen=True)
class Mark:
    """A sign with its words, so that it can be read without colour.

    Attributes:
        sign: One character.
        words: What it says.
        kind: Names its colour: ``yes``, ``no`` or ``open``.
    """

    sign: str
    words: str
    kind: str

    @property
    def text(self) -> str:
        """Sign and words."""
        return f"{self.sign} {self.words}"


SAME = Mark("✓", "same direction", "yes")
OPPOSITE = Mark("✗", "opposite direction", "no")
CANNOT_TELL = Mark("?", "direction cannot be told", "open")
INSIDE = Mark("●", "inside", "yes")
OUTSIDE = Mark("○", "outside", "open")
MARKS = {
    SAME: "our 95 % interval lies on the same side of zero as the paper's number",
    OPPOSITE: "it lies on the other side of zero",
    CANNOT_TELL: "our interval covers zero, or there is none: more seeds are needed",
    INSIDE: "the paper's number lies inside our 95 % interval",
    OUTSIDE: "it lies outside",
}


def direction(numbers: Numbers) -> Mark | None:
    """Whether a difference has the sign of the paper's; None where there are not two to compare."""
    paper = numbers.paper
    if paper is None or not paper.comparable or not numbers.differences or not paper.mean:
        return None
    same = numbers.same_direction
    return CANNOT_TELL if same is None else SAME if same else OPPOSITE


def value(numbers: Numbers) -> Mark | None:
    """Whether the paper's number lies in our 95 % interval; None where one of the two is missing."""
    within = numbers.paper_within
    return None if within is None else INSIDE if within else OUTSIDE


def marks(numbers: Numbers) -> list[Mark]:
    """Both, where they are."""
    return [mark for mark in (direction(numbers), value(numbers)) if mark is not None]


def counted(table: Table) -> str:
    """How many numbers of a table agree with the paper's, in a line; an empty one where the paper has none.

    Example:
        >>> from .parts import Published
        >>> gap = Numbers((1.0, 1.2, 1.1), paper=Published(1.15), differences=True)
        >>> counted(Table("Gap", ["network", "gap"], [["F1", gap]]))
        'Direction: 1 of 1 as in the paper. 1 of 1 numbers of the paper lies inside our 95 % interval.'
    """
    shown = [cell for row in table.rows for cell in row if isinstance(cell, Numbers) and cell.paper is not None]
    beside = [cell for cell in shown if cell.paper is not None and cell.paper.comparable]
    told = []
    if len(beside) < len(shown):
        told.append("The paper's numbers without a mark are of other data, or of runs far longer than ours.")
    if not beside:
        return " ".join(told)
    directions = Counter(mark for cell in beside if (mark := direction(cell)) is not None)
    if directions:
        parts = [f"{directions[SAME]} of {directions.total()} as in the paper"]
        parts += [f"{directions[OPPOSITE]} opposite"] * bool(directions[OPPOSITE])
        parts += [f"{directions[CANNOT_TELL]} cannot be told"] * bool(directions[CANNOT_TELL])
        told.append(f"Direction: {', '.join(parts)}.")
    values = Counter(mark for cell in beside if (mark := value(cell)) is not None)
    missing = len(beside) - values.total()
    if values:
        lie = "lies" if values[INSIDE] == 1 else "lie"
        told.append(
            f"{values[INSIDE]} of {values.total()} numbers of the paper {lie} inside our 95 % interval"
            + (f"; for {missing} we have no interval." if missing else ".")
        )
    else:
        told.append("One seed has no interval: what the paper's numbers are beside cannot be told.")
    return " ".join(told)
