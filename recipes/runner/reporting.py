"""The command `lightning-gap report`: show what results folders hold, as far as their runs are finished."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console

from .examples import shown_examples
from .options import Parser
from .printing import knowing
from .saved_settings import read_settings


def main(words: Sequence[str], told: str) -> int:
    """Write a report of the folders that are named.

    Args:
        words: After the command.
        told: What it does.

    Returns:
        The exit status.

    Raises:
        ValueError: Names a folder or file that cannot be shown, and the fix.
        OSError: If a folder is not there, or ``--output`` cannot be written to.
    """
    parser = Parser(prog="lightning-gap report", description=told, examples=shown_examples("report"))
    parser.add_argument("folders", nargs="+", type=str, help="Results folders of compare or run, wherever they are.")
    parser.add_argument(
        "--output",
        type=str,
        help="Folder for the report, new or empty; by default one in results, named after the time.",
    )
    given = parser.parse_args(list(words))
    folders = [_named("folder", folder) for folder in given.folders]
    for index, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:index]]:
            raise ValueError(f"folder={str(folder)!r} is named twice; name each folder once")
    settings = [read_settings(folder) for folder in folders]
    output = _default_output() if given.output is None else _named("output", given.output)
    with _claimed(output):
        from ..reports import write_report  # which needs torch; what is refused so far does not
        from ..reports.comparison import comparison_report
        from .comparisons import Comparison, resume_command
        from .telling import saying

        comparisons = [Comparison.read(folder, found) for folder, found in zip(folders, settings, strict=True)]
        report = comparison_report(comparisons)
        with saying(Console(), "drawing the figures of the report"):
            files = write_report(report, output)
    with knowing(f"the report is written to {output}"):
        for comparison in comparisons:
            print(f"{comparison.title}: {comparison.sentence or f'{len(comparison.runs)} finished runs'}")
            if comparison.unfinished:
                print(f"  not finished: {comparison.unfinished_runs}. Resume with\n    {resume_command(comparison)}")
        print(f"Written to {output}: report.html, report.md and {len(files) - 2} files of tables and figures")
    return 0


def _named(option: str, folder: str) -> Path:
    if not folder:
        raise ValueError(f"{option}: got '', the name of no folder; for the current folder write .")
    return Path(folder)


def _default_output() -> Path:
    stamp = datetime.now(tz=timezone.utc).strftime("%Y%m%d-%H%M%S")
    return Path("results") / f"report-{stamp}-{secrets.token_hex(3)}"


@contextmanager
def _claimed(output: Path) -> Iterator[None]:
    """A folder that is there, empty and can be written to; if the block fails, it is taken away again as it was.

    Raises:
        FileExistsError: If there is something in it, or it is no folder.
        OSError: If it cannot be written to.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        kind = "a link" if output.is_symlink() else "no folder"
        raise FileExistsError(f"output={str(output)!r} is {kind}; choose another --output")
    if output.exists() and any(path.suffix != ".partial" for path in output.iterdir()):
        raise FileExistsError(
            f"output={str(output)!r} is not empty and nothing in it is overwritten; choose a new --output"
        )
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        _remove(made)
        raise _unwritable(output, error) from error
    try:
        yield
    except BaseException:
        _remove(made)
        raise


def _unwritable(output: Path, error: OSError) -> OSError:
    return OSError(f"output={str(output)!r} cannot be written to ({error.strerror}); choose another --output")


def _remove(made: Sequence[Path]) -> None:
    """Folders that are empty, the innermost first."""
    for folder in made:
        with suppress(OSError):
            folder.rmdir()
