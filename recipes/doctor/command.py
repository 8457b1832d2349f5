"""The command `lightning-gap doctor`: name the known causes of a gap that apply to a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..runner.examples import shown_examples
from ..runner.options import Parser
from ..runner.quiet import spoken_plainly
from .diagnosis import diagnose
from .folders import read_folder


def main(words: Sequence[str], told: str) -> int:
    """Print what applies to each run of a folder; nothing is trained or written.

    Args:
        words: After the command.
        told: What it does.

    Returns:
        The exit status.

    Raises:
        ValueError: Names a folder, file or option that cannot be used, and the fix.
        OSError: If the folder is not there, or cannot be read.
    """
    parser = Parser(prog="lightning-gap doctor", description=told, examples=shown_examples("doctor"))
    parser.add_argument(
        "folder",
        type=str,
        help="Results of compare or run, a run of reproduce, or a logger's folder with one run or several.",
    )
    parser.add_argument(
        "--base_batch_size",
        type=int,
        help="Batch size that the learning rate was tuned for, samples; by default as read.",
    )
    given = parser.parse_args(list(words))
    base = given.base_batch_size
    if base is not None and base < 1:
        raise ValueError(f"base_batch_size must be a whole number of samples, at least 1, got {base}")
    if not given.folder:
        raise ValueError("folder: got '', the name of no folder; for the current folder write .")
    with spoken_plainly():
        found = read_folder(Path(given.folder))
    if found.small:
        print(f"Compared with {found.small.name}, batch {found.small.batch_size or 'unknown'}.")
    for diagnosis in diagnose(found.runs, small=found.small, base_batch_size=base):
        print(f"\n{diagnosis}")
    return 0
