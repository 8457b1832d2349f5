"""What a report is made of: tables whose numbers stand beside a paper's, figures, and the terms of all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_gap.logging import mean_and_std

from ..intervals import Interval, mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Published:
    """A paper's number: mean, and standard deviation where it has one.

    Attributes:
        mean: The number.
        deviation: Standard deviation over the paper's trials.
        comparable: False beside ours of another data set or of a first look: it is shown, and no mark says how near
            they are.
    """

    mean: float
    deviation: float | None = None
    comparable: bool = True

    def text(self, digits: int) -> str:
        """As a table has it."""
        return f"{self.mean:.{digits}f}" + ("" if self.deviation is None else f" ± {self.deviation:.{digits}f}")


@dataclass(frozen=True)
class Numbers:
    """One quantity in a table: a value for each seed, and what the paper has for it.

    Attributes:
        values: One for each seed.
        digits: After the point.
        paper: The paper's value, if it has one.
        differences: Whether they are differences paired by seed: shown with their interval, and agreeing with the
            paper in direction or not. Others are shown as mean ± sample standard deviation.
        interval: The 95 % interval where it is not that of the mean by Student's t.
    """

    values: tuple[float, ...]
    digits: int = 2
    paper: Published | None = None
    differences: bool = False
    interval: Interval | None = None

    @property
    def found(self) -> Interval:
        """Mean, and its 95 % interval."""
        return mean_interval(self.values) if self.interval is None else self.interval

    @property
    def text(self) -> str:
        """As a table has it."""
        if self.interval is None and not self.differences:
            return mean_and_std(self.values, self.digits)
        mean, low, high = self.found
        if math.isnan(mean):
            return "-"
        ends = "" if math.isnan(low) else f" [{low:.{self.digits}f}, {high:.{self.digits}f}]"
        return f"{mean:.{self.digits}f}{ends}"

    @property
    def same_direction(self) -> bool | None:
        """Whether a difference has the sign of the paper's; None where there is none, or our interval covers zero."""
        if (
            self.paper is None
            or not self.paper.comparable
            or not self.differences
            or not self.found.sign
            or not self.paper.mean
        ):
            return None
        return self.found.sign * self.paper.mean > 0

    @property
    def paper_within(self) -> bool | None:
        """Whether the paper's value lies in our 95 % interval; None where one of the two is missing."""
        if self.paper is None or not self.paper.comparable or math.isnan(self.found.low):
            return None
        return self.found.covers(self.paper.mean)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Heading.
        head: Of each column, with the unit.
        rows: As many cells as columns, the first one a name.
        note: What a reader must know of it, in a sentence or two.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Numbers]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"a row of {self.title!r} has {len(row)} cells for {len(self.head)} columns: {row}")

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether there are numbers in it, which stand to the right."""
        return [
            index > 0 and any(isinstance(row[index], Numbers) or _is_number(str(row[index])) for row in self.rows)
            for index in range(len(self.head))
        ]


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").replace(" ", ""))
    except ValueError:
        return text == "-"
    return True


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        title: Heading.
        figure: Drawing, with units on its axes.
        describes: What is to be seen on it, in words, for whoever cannot see it.
        note: What a reader must know of it.
        curves: The numbers that are drawn, by name, for programs; the first is the horizontal axis.
    """

    title: str
    figure: Figure
    describes: str
    note: str = ""
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Remark:
    """A paragraph: what was found, in words."""

    text: str


Part = Table | Chart | Remark


@dataclass(frozen=True)
class Chapter:
    """One experiment's parts.

    Attributes:
        name: As the command line has it; names its files.
        title: What it shows, and of which paper.
        parts: In order.
        terms: What its numbers were found with, by name.
    """

    name: str
    title: str
    parts: Sequence[Part]
    terms: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """All that is shown on one page.

    Attributes:
        title: Heading.
        chapters: In order.
        terms: What holds for all chapters, by name.
        runs: Folders of the runs by their names.
    """

    title: str
    chapters: Sequence[Chapter]
    terms: Mapping[str, str]
    runs: Mapping[str, Path] = field(default_factory=dict)
