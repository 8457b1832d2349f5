"""A report as one HTML page that needs nothing else: readable on a phone, light, dark and printed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from . import agreement
from .file_names import Section
from .links import relative
from .parts import Chart, Numbers, Part, Remark, Report, Table
from .stylesheet import STYLESHEET


def page(report: Report, shown: Sequence[Section], pictures: Mapping[str, str], folder: Path) -> str:
    """The text of ``report.html``.

    Args:
        report: What is shown.
        shown: Its sections.
        pictures: Address of each figure's picture by the name of its part.
        folder: Where the file will be, for the links to the runs.
    """
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(report.title)}</title>",
        f"<style>{STYLESHEET}</style>",
        "</head>",
        "<body>",
        "<main>",
        f"<h1>{_text(report.title)}</h1>",
        *_contents(shown),
        *_reading(shown),
        *_terms("Terms", report.terms),
    ]
    for section in shown:
        lines += [f'<section aria-labelledby="{section.name}">']
        lines += [f'<h2 id="{section.name}">{_text(section.chapter.title)}</h2>']
        for name, part in section.parts:
            lines += _part(name, part, pictures)
        lines += [*_terms("Terms of these numbers", section.chapter.terms), "</section>"]
    return "\n".join([*lines, *_runs(report.runs, folder), "</main>", "</body>", "</html>", ""])


def _contents(shown: Sequence[Section]) -> Iterator[str]:
    yield '<nav aria-label="Contents">'
    yield "<ol>"
    for section in shown:
        yield f'<li><a href="#{section.name}">{_text(section.chapter.title)}</a>'
        titled = [(name, part) for name, part in section.parts if not isinstance(part, Remark)]
        if titled:
            yield "<ul>"
            yield from (f'<li><a href="#{name}">{_text(part.title)}</a></li>' for name, part in titled)
            yield "</ul>"
        yield "</li>"
    yield "</ol>"
    yield "</nav>"


def _reading(shown: Sequence[Section]) -> Iterator[str]:
    """How to read a cell of a table, as far as there are such cells."""
    tables = [part for section in shown for _, part in section.parts if isinstance(part, Table)]
    if not any(isinstance(cell, Numbers) for table in tables for row in table.rows for cell in row):
        return
    yield '<details class="reading" open>'
    yield "<summary>How to read a number</summary>"
    yield (
        "<p><b>1.9 ± 0.2</b> is mean ± sample standard deviation over the seeds, <b>1.9 [1.2, 2.6]</b> the mean with "
        "its 95 % interval: of differences, paired by seed. A number without either is of one seed, <b>-</b> is none."
        "</p>"
    )
    if any(map(agreement.counted, tables)):
        yield "<p>Where a paper has the number, it stands below ours, with marks:</p>"
        yield "<dl>"
        yield from (f"<dt>{_mark(mark)}</dt><dd>{told}</dd>" for mark, told in agreement.MARKS.items())
        yield "</dl>"
    yield "</details>"


def _part(name: str, part: Part, pictures: Mapping[str, str]) -> Iterator[str]:
    if isinstance(part, Remark):
        yield f'<p class="remark">{_text(part.text)}</p>'
        return
    yield f'<h3 id="{name}">{_text(part.title)}</h3>'
    if isinstance(part, Chart):
        yield "<figure>"
        yield f'<img src="{pictures[name]}" alt="{escape(part.describes)}">'
        files = [f"{name}.png", *[f"{name}.csv"] * bool(part.curves)]
        yield f"<figcaption>{_text(part.note)} {_files(files)}</figcaption>"
        yield "</figure>"
    else:
        yield from _table(name, part)


def _table(name: str, table: Table) -> Iterator[str]:
    align = [' class="number"' if right else "" for right in table.numeric]
    yield f'<div class="scroll" role="region" aria-labelledby="{name}" tabindex="0">'
    yield "<table>"
    heads = (f'<th scope="col"{kind}>{_text(title)}</th>' for title, kind in zip(table.head, align, strict=True))
    yield f"<thead><tr>{''.join(heads)}</tr></thead>"
    yield "<tbody>"
    for first, *others in table.rows:
        cells = (f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(others, align[1:], strict=True))
        yield f'<tr><th scope="row">{_unbroken(_cell(first))}</th>{"".join(cells)}</tr>'
    yield "</tbody>"
    yield "</table>"
    yield "</div>"
    if table.note:
        yield f'<p class="note">{_text(table.note)}</p>'
    told = agreement.counted(table)
    if told:
        yield f'<p class="counted">{told}</p>'
    yield f'<p class="files">{_files([f"{name}.csv"])}</p>'


def _cell(cell: str | Numbers) -> str:
    if isinstance(cell, str):
        return _text(cell)
    if cell.paper is None:
        return cell.text
    marks = "".join(f"<br>{_mark(mark)}" for mark in agreement.marks(cell))
    return f"{cell.text}<small>paper {cell.paper.text(cell.digits)}{marks}</small>"


def _mark(mark: agreement.Mark) -> str:
    return f'<span class="{mark.kind}">{mark.text}</span>'


def _terms(title: str, terms: Mapping[str, str]) -> Iterator[str]:
    if terms:
        rows = "".join(f'<tr><th scope="row">{_text(k)}</th><td>{_text(v)}</td></tr>' for k, v in terms.items())
        yield f'<details class="terms" open><summary>{title}</summary><table>{rows}</table></details>'


def _runs(runs: Mapping[str, Path], folder: Path) -> Iterator[str]:
    if runs:
        links = "".join(f'<li><a href="{relative(run, folder)}">{_text(name)}</a></li>' for name, run in runs.items())
        yield f'<details class="runs"><summary>Folders of the {len(runs)} runs</summary><ul>{links}</ul></details>'


def _files(names: Sequence[str]) -> str:
    return '<span class="files">' + ", ".join(f'<a href="{name}">{name}</a>' for name in names) + "</span>"


def _unbroken(html: str) -> str:
    """Text whose words with a hyphen stay on one line, as the names of regimes do."""
    return re.sub(r"[\w.]+(?:-[\w.]+)+", r'<span class="whole">\g<0></span>', html)


def _text(text: str) -> str:
    """Escaped, with what is in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
