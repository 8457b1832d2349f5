"""Fetch the files of a data set, or say at once how to do without."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path

_PATIENCE = 4.0  # seconds in which one of the servers must answer


def fetch(
    title: str, data_dir: Path, download: Callable[[Path], object], *, servers: Sequence[str], by_hand: str
) -> None:
    """Download into a folder, which is made if need be.

    Args:
        title: Name of the data set.
        data_dir: Where to.
        download: Does it, given the folder.
        servers: Addresses of which one must answer, asked before: a download waits for minutes in a blocked network.
        by_hand: What to do without.

    Raises:
        FileNotFoundError: If it fails.
        PermissionError: If the folder may not be written to.
    """
    errors = [_no_answer(server, _PATIENCE / len(servers)) for server in servers]
    if all(errors):
        raise FileNotFoundError(f"{title} cannot be downloaded, {servers[0]} does not answer ({errors[0]}): {by_hand}")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        download(data_dir)
    except PermissionError:
        raise
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(f"the download of {title} failed ({reason}): {by_hand}") from None


def _no_answer(server: str, seconds: float) -> str:
    """Why a server did not answer; nothing if it did, also with a refusal."""
    try:
        with urllib.request.urlopen(urllib.request.Request(server, method="HEAD"), timeout=seconds):
            return ""
    except urllib.error.HTTPError as answer:
        answer.close()
        return ""
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__
