"""Tables and curves as CSV, in full precision, for programs."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from . import agreement
from .parts import Numbers, Table

_NUMBERS = ("mean", "sd", "low", "high", "paper_mean", "paper_sd", "direction", "paper_value")


def write_table(path: Path, table: Table) -> None:
    """A line for each cell: where it is, its text, and of numbers all there is to them.

    The columns are ``line`` (of the table, from 1), ``row`` (its first cell), ``column``, ``text`` (as the page has
    it), ``mean``, ``sd`` (sample standard deviation), ``low`` and ``high`` (ends of the 95 % interval), ``paper_mean``,
    ``paper_sd``, ``direction``, ``paper_value`` (the marks in words), and ``value_1``, ``value_2``, ...: one for each
    seed, in the order in which the terms name the seeds. What there is not is empty; what is not a number is ``nan``.
    """
    cells = [cell for row in table.rows for cell in row]
    seeds = max((len(cell.values) for cell in cells if isinstance(cell, Numbers)), default=0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["line", "row", "column", "text", *_NUMBERS, *(f"value_{k + 1}" for k in range(seeds))])
        for line, row in enumerate(table.rows, start=1):
            name = row[0].text if isinstance(row[0], Numbers) else row[0]
            for column, cell in zip(table.head, row, strict=True):
                text, numbers = (cell.text, _numbers(cell)) if isinstance(cell, Numbers) else (cell, [])
                written = [line, name, column, text, *numbers]
                writer.writerow(written + [""] * (4 + len(_NUMBERS) + seeds - len(written)))


def write_curves(path: Path, curves: Mapping[str, Sequence[float]]) -> None:
    """A column for each curve; those that are shorter end in empty cells."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(curves)
        writer.writerows(zip_longest(*curves.values(), fillvalue=""))


def _numbers(cell: Numbers) -> list[float | str]:
    found, paper = cell.found, cell.paper
    several = len(cell.values) > 1 and all(map(math.isfinite, cell.values))
    return [
        found.mean,
        statistics.stdev(cell.values) if several else "",
        found.low,
        found.high,
        "" if paper is None else paper.mean,
        "" if paper is None or paper.deviation is None else paper.deviation,
        "" if (mark := agreement.direction(cell)) is None else mark.words,
        "" if (mark := agreement.value(cell)) is None else mark.words,
        *cell.values,
    ]
