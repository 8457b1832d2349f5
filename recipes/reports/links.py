"""Addresses of folders as a page has them, which hold when page and folders are moved together."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote


def relative(target: Path, folder: Path) -> str:
    """From a folder to a target, as a link has it; a whole one where the two are on different drives."""
    try:
        return quote(Path(os.path.relpath(target, folder)).as_posix())
    except ValueError:
        return target.absolute().as_uri()
