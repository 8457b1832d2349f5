"""Tables of repeated trials: mean ± standard deviation, as CSV and as Markdown."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..functional._validation import each, real_number, set_plain, text, whole_number

Row = Mapping[str, str | Sequence[float]]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: Where its values are found in a row: a text, or one number per trial.
        title: Heading, with the unit.
        digits: Digits after the point.
    """

    key: str
    title: str
    digits: int = 0

    def __post_init__(self) -> None:
        set_plain(
            self,
            key=text("key", self.key),
            title=text("title", self.title),
            digits=whole_number("digits", self.digits, 0),
        )


def mean_and_std(values: Sequence[float], digits: int = 0) -> str:
    """``mean ± sample standard deviation``; of one value the value, of none or of NaN a dash.

    Example:
        >>> mean_and_std([1.0, 2.0, 3.0], 1), mean_and_std([2.0], 1), mean_and_std([])
        ('2.0 ± 1.0', '2.0', '-')
    """
    digits = whole_number("digits", digits, 0)
    values = each("values", values, lambda name, value: real_number(name, value, finite=False))
    mean, std = _moments(values)
    if math.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if len(values) > 1 else "")


def cells(columns: Sequence[Column], row: Row) -> list[str]:
    """The row as text, one cell for each column."""
    values = [(row[column.key], column.digits) for column in columns]
    return [value if isinstance(value, str) else mean_and_std(value, digits) for value, digits in values]


def write_csv(path: Path, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Write full-precision numbers for programs: ``<key>`` is the mean over trials, ``<key>_std`` the deviation."""
    if not rows:
        raise ValueError(f"rows is empty; there is nothing to write to {path}")
    names = [
        name
        for column in columns
        for name in ((column.key,) if isinstance(rows[0][column.key], str) else (column.key, f"{column.key}_std"))
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            values = [row[column.key] for column in columns]
            writer.writerow(x for value in values for x in ((value,) if isinstance(value, str) else _moments(value)))


def write_markdown(path: Path, columns: Sequence[Column], rows: Sequence[Row], *, title: str, terms: str) -> None:
    """Write the table for people, under a title, with the terms it was found under below it."""
    lines = [f"# {title}", "", _line(column.title for column in columns), _line("---" for _ in columns)]
    lines += [_line(cells(columns, row)) for row in rows]
    path.write_text("\n".join([*lines, "", terms, ""]), encoding="utf-8")


def _line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _moments(values: Sequence[float]) -> tuple[float, float]:
    if not values or any(math.isnan(value) for value in values):
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan
