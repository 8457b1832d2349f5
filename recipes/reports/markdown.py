"""A report as Markdown that reads well unbuilt, its figures as files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from . import agreement
from .file_names import Section
from .links import relative
from .parts import Chart, Numbers, Part, Remark, Report, Table


def markdown(report: Report, shown: Sequence[Section], folder: Path) -> str:
    """The text of ``report.md``.

    Args:
        report: What is shown.
        shown: Its sections.
        folder: Where the file will be, for the links to the runs.
    """
    lines = [f"# {_inline(report.title)}", ""]
    if any(agreement.counted(part) for section in shown for _, part in section.parts if isinstance(part, Table)):
        lines += [*(f"- {mark.text}: {told}." for mark, told in agreement.MARKS.items()), ""]
    lines += _terms(report.terms)
    for section in shown:
        lines += [f"## {_inline(section.chapter.title)}", ""]
        for name, part in section.parts:
            lines += _part(name, part)
        lines += _terms(section.chapter.terms)
    if report.runs:
        lines += ["## Runs", ""]
        lines += [f"- [{_inline(name)}](<{relative(run, folder)}>)" for name, run in report.runs.items()]
    return "\n".join(lines).rstrip() + "\n"


def _part(name: str, part: Part) -> Iterator[str]:
    if isinstance(part, Remark):
        yield from (_inline(part.text), "")
        return
    yield from (f"### {_inline(part.title)}", "")
    if isinstance(part, Chart):
        yield from (f"![{_inline(part.describes)}]({name}.png)", "")
        curves = f"The curves: [{name}.csv]({name}.csv)" if part.curves else ""
        notes = [_inline(part.note), curves]
    else:
        yield _line(part.head)
        yield _line("---:" if right else "---" for right in part.numeric)
        yield from (_line(map(_cell, row)) for row in part.rows)
        yield ""
        notes = [_inline(part.note), agreement.counted(part), f"In full precision: [{name}.csv]({name}.csv)"]
    for note in filter(None, notes):
        yield from (note, "")


def _cell(cell: str | Numbers) -> str:
    if isinstance(cell, str):
        return cell
    if cell.paper is None:
        return cell.text
    marks = ", ".join(mark.text for mark in agreement.marks(cell))
    return f"{cell.text}; paper {cell.paper.text(cell.digits)}" + (f" {marks}" if marks else "")


def _terms(terms: Mapping[str, str]) -> list[str]:
    if not terms:
        return []
    return [_line(("terms", "")), _line(("---", "---")), *map(_line, terms.items()), ""]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_inline(cell).replace("|", "\\|") for cell in cells) + " |"


def _inline(text: str) -> str:
    """On one line, and with no character that Markdown takes for markup, but code in backticks."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_\[\]<>])", r"\\\1", part) for part in parts)
