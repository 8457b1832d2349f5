"""A name for each part of a report, for its files and for links on the page."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from .parts import Chapter, Chart, Part, Remark, Report

_LONGEST = 80  # file systems take 255 bytes; a listing takes less


@dataclass(frozen=True)
class Section:
    """A chapter, with a name for itself and for each of its parts that has a title.

    Attributes:
        chapter: As it is.
        name: No other section or part has it.
        parts: With their names; an empty one where a part has no title.
    """

    chapter: Chapter
    name: str
    parts: Sequence[tuple[str, Part]]


def sections(report: Report) -> list[Section]:
    """All chapters, no two names alike, in any case of letters."""
    taken = set[str]()
    found = []
    for chapter in report.chapters:
        name = _free(slug(chapter.name) or "chapter", taken)
        parts = [("" if isinstance(part, Remark) else _free(_stem(name, part), taken), part) for part in chapter.parts]
        found.append(Section(chapter, name, parts))
    return found


def slug(text: str) -> str:
    """Lower-case letters, digits and hyphens that a text is made of; an empty one where it has none.

    Example:
        >>> slug("Table 2: accuracy, in % (F1 à C4)")
        'table-2-accuracy-in-f1-a-c4'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower())[:_LONGEST].strip("-")


def _stem(name: str, part: Part) -> str:
    kind = "figure" if isinstance(part, Chart) else "table"
    title = "" if isinstance(part, Remark) else part.title
    return f"{name}-{slug(title) or kind}"[:_LONGEST].rstrip("-")


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free)
    return free
