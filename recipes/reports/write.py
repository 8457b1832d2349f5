"""Write a report, whole or not at all."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .csv_files import write_curves, write_table
from .file_names import Section, sections
from .markdown import markdown
from .page import page
from .parts import Chart, Report, Table
from .pictures import inline, write_png


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``report.html``, which needs no other file, ``report.md``, and the numbers and figures as files.

    Everything is written beside its place first. If that fails, for instance on a full disk, an earlier report in the
    folder stays as it is. What a command left that was killed meanwhile is removed.

    Args:
        report: What is shown.
        folder: Made if it is not there. Files of the same names are replaced, and what an earlier report in it has
            beside it is removed.

    Returns:
        Paths of ``report.html`` and ``report.md``, then those of each part's files, named after its chapter and title.

    Raises:
        OSError: If the folder cannot be written to.
    """
    try:
        return _write_whole(report, folder)
    except OSError as error:
        raise OSError(
            f"output={str(folder)!r} cannot be written to ({error.strerror}); make room, or choose another --output"
        ) from error


def _write_whole(report: Report, folder: Path) -> list[Path]:
    shown = sections(report)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _linked_from(folder / "report.md")
    for left in folder.glob(".report-*.partial"):
        shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=".report-", suffix=".partial", dir=folder))
    try:
        pictures = _write_parts(shown, partial)
        parts = sorted(partial.iterdir())
        (partial / "report.md").write_text(markdown(report, shown, folder), encoding="utf-8")
        (partial / "report.html").write_text(page(report, shown, pictures, folder), encoding="utf-8")
        files = [file.replace(folder / file.name) for file in (*parts, partial / "report.md", partial / "report.html")]
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for name in earlier.difference(file.name for file in files):
        (folder / name).unlink(missing_ok=True)
    return [*reversed(files[-2:]), *files[:-2]]


def _linked_from(report: Path) -> set[str]:
    """Names of the tables and figures beside a report; none where there is no report."""
    if not report.exists():
        return set()
    return set(re.findall(r"\]\(([\w.-]+\.(?:csv|png))\)", report.read_text(encoding="utf-8", errors="replace")))


def _write_parts(shown: Sequence[Section], folder: Path) -> dict[str, str]:
    """The files of tables and figures; gives the address of each figure's picture by its name."""
    pictures = {}
    for section in shown:
        for name, part in section.parts:
            if isinstance(part, Table):
                write_table(folder / f"{name}.csv", part)
            elif isinstance(part, Chart):
                write_png(part.figure, folder / f"{name}.png")
                pictures[name] = inline(part.figure, folder / f"{name}.png")
                if part.curves:
                    write_curves(folder / f"{name}.csv", part.curves)
    return pictures
