"""Files of a data set that are there and may be read; or an error of one line that says what to do."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def explained_permissions(data_dir: Path) -> Iterator[None]:
    """Say which file may not be read or written, and what to do about it.

    Raises:
        PermissionError: In place of the system's own.
    """
    try:
        yield
    except PermissionError as error:
        raise PermissionError(
            f"no permission to use {str(error.filename or data_dir)!r}; give this user the permission (chmod, chown) "
            "or pass another --data_dir; the data set digits needs no files"
        ) from None


def is_file(path: Path) -> bool:
    """Whether there is such a file; unlike `Path.is_file`, an error in every Python where that cannot be told.

    Raises:
        PermissionError: If a folder above it may not be searched.
    """
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether there is such a folder.

    Raises:
        PermissionError: If a folder above it may not be searched.
    """
    return stat.S_ISDIR(_mode(path))


def lacks(data_dir: Path, title: str) -> str:
    """The beginning of an error that goes on with what to put there.

    Raises:
        ValueError: If it is a file, into which nothing can be put.
    """
    if is_file(data_dir):
        raise ValueError(f"data_dir={str(data_dir)!r} is a file; pass the folder that holds {title}")
    return f"data_dir={str(data_dir)!r} {f'has no {title}' if is_folder(data_dir) else 'does not exist'}"


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
