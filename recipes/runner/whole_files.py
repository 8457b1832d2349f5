"""Files that are written all or nothing, beside the file and then renamed, and read only as they were written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_gap.trainer.checkpoint_file import check_bytes

from ..recipe_check import in_one_line
from .records import record


def save_whole(content: Any, file: Path) -> None:
    """Save with torch.

    Raises:
        OSError: As `write_whole`.
    """
    _whole(file, lambda partial: torch.save(content, partial))


def load_whole(file: Path, **options: Any) -> Any:
    """What `save_whole` saved, tensors and plain values only.

    Args:
        file: The file.
        options: Of `torch.load`.

    Raises:
        ValueError: If a bit of it is not as it was saved.
        Exception: Whatever torch raises of a file that is no such file.
    """
    check_bytes(file)
    return torch.load(file, weights_only=True, **options)


def write_record(file: Path, content: Mapping[str, Any]) -> None:
    """Write names and values for `read_record`.

    Raises:
        OSError: As `write_whole`.
    """
    write_whole(file, record(content))


def write_whole(file: Path, text: str) -> None:
    """Write a text.

    Raises:
        OSError: If it cannot be written, for instance because the disk is full; what was there is as it was.
    """
    _whole(file, lambda partial: partial.write_text(text, encoding="utf-8"))


def _whole(file: Path, write: Callable[[Path], object]) -> None:
    partial = file.with_name(f"{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(file)
    except (OSError, RuntimeError) as error:  # torch's own type, where the disk is full
        partial.unlink(missing_ok=True)
        raise OSError(
            f"{str(file)!r} cannot be written ({in_one_line(error)}); make room, and resume with --resume, or "
            "with the same command of reproduce"
        ) from error
