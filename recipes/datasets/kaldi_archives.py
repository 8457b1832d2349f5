"""Kaldi's archives of matrices and of integer vectors, read with `kaldiio`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What a Kaldi object begins with: the binary mark, or text. Anything else is none, and kaldiio unpickles some of it.
_BEGINNING = re.compile(rb"\0B|[ \[\n\d-]")


def read_index(scp: Path) -> dict[str, str]:
    """Where each utterance's features lie, by its name, from a feats.scp; "path:offset" as it stands there.

    Raises:
        ValueError: If a line is none of a name and a place in an archive, or an utterance stands there twice.
    """
    places: dict[str, str] = {}
    for number, line in enumerate(scp.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        name, place = (*line.split(maxsplit=1), "", "")[:2]
        if not re.fullmatch(r"[^|]+:\d+", place.strip()):
            raise ValueError(
                f"{str(scp)!r}, line {number}: expected an utterance and archive:offset, got {line.strip()!r}; a "
                "command or a range is not read, write plain archives with copy-feats scp:OLD ark,scp:NEW.ark,NEW.scp"
            )
        if name in places:
            raise ValueError(f"{str(scp)!r}, line {number}: utterance {name!r} a second time; list it once")
        places[name] = place.strip()
    return places


def read_matrix(scp: Path, name: str, place: str) -> NDArray[Any]:
    """One utterance's features.

    A relative path is looked up from the current folder, as Kaldi does, and then from the folder that ``scp`` is in.

    Raises:
        FileNotFoundError: If there is no such archive.
        ValueError: If there is no whole matrix at this place.
    """
    written, _, offset = place.rpartition(":")
    archive = next((path for path in (Path(written), scp.parent / written) if path.is_file()), None)
    if archive is None:
        raise FileNotFoundError(
            f"{str(scp)!r}: the archive {written!r} of utterance {name!r} is not there, neither from the current "
            f"folder nor from {str(scp.parent)!r}; put it there or correct the path"
        )
    with archive.open("rb") as file:
        file.seek(int(offset))
        return _read(file, archive, name)


def read_archive(ark: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every utterance's name and value, in the archive's order.

    Raises:
        ValueError: If the archive is broken.
    """
    from kaldiio.matio import read_token  # type: ignore[import-untyped]

    name = "at the beginning"
    with ark.open("rb") as file:
        while True:
            try:
                found = read_token(file)
            except UnicodeDecodeError as error:
                raise _broken(ark, f"after {name!r}", error) from None
            if found is None:
                return
            name = found
            yield name, _read(file, ark, name)


def _read(file: Any, archive: Path, name: str) -> NDArray[Any]:
    from kaldiio.matio import read_kaldi

    beginning = file.peek(2)[:2]
    try:
        if not _BEGINNING.match(beginning):
            raise ValueError(f"{beginning!r} begins no matrix or vector")
        return np.asarray(read_kaldi(file))
    except Exception as error:  # of many types, because kaldiio leaves the checking to what it calls
        raise _broken(archive, f"at {name!r}", error) from None


def _broken(archive: Path, where: str, error: Exception) -> ValueError:
    reason = " ".join(f"{type(error).__name__} {error}".split())
    return ValueError(
        f"{str(archive)!r} is broken or cut short {where} ({reason}); write it again with Kaldi, or copy it again"
    )
