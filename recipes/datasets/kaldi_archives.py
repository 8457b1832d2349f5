"""Kaldi's archives of matrices and of integer vectors, binary, compressed or text.

Read here, because no library for it can be depended on: `kaldiio` is licensed for evaluation only, `kaldi_io` runs a
shell when it is imported and checks what it reads by assertions, and `kaldi_native_io` 1.23 ends the process where a
damaged header announces too much, and takes a file of something else for an archive without utterances.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_LONGEST_NAME = 4096
_LONGEST_HEADER = 22

# Of each token after the binary mark: the header that follows and the type of an element. Each size of the header, and
# each element of an integer vector, comes after a byte that says that it has four.
_PLAIN: dict[bytes, tuple[str, np.dtype[Any]]] = {
    b"FM ": ("<bibi", np.dtype("<f4")),
    b"DM ": ("<bibi", np.dtype("<f8")),
    b"FV ": ("<bi", np.dtype("<f4")),
    b"DV ": ("<bi", np.dtype("<f8")),
    b"": ("<bi", np.dtype([("size", "i1"), ("value", "<i4")])),  # an integer vector, which has no token
}

# Of each token of a compressed matrix: the bytes of a column's header and the type of an element.
_COMPRESSED = {b"CM ": (8, "<u1"), b"CM2 ": (0, "<u2"), b"CM3 ": (0, "<u1")}


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
        return _read(file, archive, name, int(offset))


def read_archive(ark: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every utterance's name and value, in the archive's order.

    Raises:
        ValueError: If the archive is broken.
    """
    where = "at the beginning"
    with ark.open("rb") as file:
        while True:
            try:
                name = _next_name(file)
            except ValueError as error:
                raise _broken(ark, where, error) from None
            if not name:
                return
            where = f"after {name!r}"
            yield name, _read(file, ark, name, file.tell())


def _next_name(file: BinaryIO) -> str:
    """Up to the space after it; empty at the archive's end."""
    byte = file.read(1)
    while byte.isspace():
        byte = file.read(1)
    name = b""
    while byte and not byte.isspace() and len(name) < _LONGEST_NAME:
        name += byte
        byte = file.read(1)
    if name and byte not in (b" ", b"\t"):
        raise ValueError(f"{name[:40]!r} is no utterance's name with a space after it")
    return name.decode()


def _read(file: BinaryIO, archive: Path, name: str, offset: int) -> NDArray[Any]:
    try:
        file.seek(offset)
        with np.errstate(all="ignore"):  # a number too large becomes infinite, which the caller refuses
            return _value(file)
    except (ValueError, struct.error, OverflowError) as error:
        raise _broken(archive, f"at {name!r}", error) from None


def _value(file: BinaryIO) -> NDArray[Any]:
    """The matrix or vector that begins here."""
    start = file.tell()
    head = file.read(_LONGEST_HEADER)
    file.seek(start)
    if not head.startswith(b"\0B"):
        return _text(file)
    for token, (column, level) in _COMPRESSED.items():
        if head.startswith(token, 2):
            return _compressed(file, len(token), column, np.dtype(level))
    token = next(token for token in _PLAIN if head.startswith(token, 2))
    header, element = _PLAIN[token]
    numbers = struct.unpack_from(header, head, 2 + len(token))
    if set(numbers[::2]) != {4} or min(numbers[1::2]) < 0:
        raise ValueError(f"{head!r} begins no matrix or vector")
    beginning = 2 + len(token) + struct.calcsize(header)
    whole = _bytes(file, beginning + math.prod(numbers[1::2]) * element.itemsize)
    values: NDArray[Any] = np.frombuffer(whole, element, offset=beginning).reshape(numbers[1::2])
    if token:
        return values
    if (values["size"] != 4).any():
        raise ValueError("an element has not four bytes")
    integers: NDArray[np.int32] = values["value"]
    return integers


def _text(file: BinaryIO) -> NDArray[Any]:
    line = file.readline()
    if re.fullmatch(rb"[\s\d-]*\n", line):
        return np.array(line.split(), dtype=np.int32)
    if not line.lstrip().startswith(b"["):
        raise ValueError(f"{line[:40]!r} begins no matrix and is no line of whole numbers")
    rows = [line.split(b"[", 1)[1]]
    while b"]" not in rows[-1]:
        rows.append(file.readline())
        if not rows[-1]:
            raise ValueError("the matrix has no ]")
    if rows[-1].split(b"]", 1)[1].strip():
        raise ValueError(f"{rows[-1][:40]!r} goes on after the matrix's ]")
    rows[-1] = rows[-1].split(b"]", 1)[0]
    return np.array([row.split() for row in rows if row.strip()], dtype=np.float32)


def _compressed(file: BinaryIO, token: int, column: int, element: np.dtype[Any]) -> NDArray[np.float32]:
    """Elements are levels between a least and a largest value, of the matrix or of a column's quartiles."""
    low, extent, rows, columns = struct.unpack("<ffii", _bytes(file, 2 + token + 16)[2 + token :])
    if min(rows, columns) < 0:
        raise ValueError(f"the matrix has {rows} rows and {columns} columns")
    headers = np.frombuffer(_bytes(file, column * columns), "<u2").reshape(columns, column // 2)
    levels = np.frombuffer(_bytes(file, rows * columns * element.itemsize), element)
    if column:  # column after column, and linear between its minimum, quartiles and maximum
        scaled = np.empty((rows, columns))
        for i, four in enumerate(headers):
            scaled[:, i] = np.interp(levels[i * rows : (i + 1) * rows], (0, 64, 192, 255), four / 65535)
    else:
        scaled = levels.reshape(rows, columns) / np.iinfo(element).max
    matrix: NDArray[np.float32] = (low + extent * scaled).astype(np.float32)
    return matrix


def _bytes(file: BinaryIO, size: int) -> bytes:
    """As many, or a ValueError, before there is memory for more than the file has."""
    left = os.fstat(file.fileno()).st_size - file.tell()
    if size > left:
        raise ValueError(f"{size} bytes are announced and {left} left")
    return file.read(size)


def _broken(archive: Path, where: str, error: Exception) -> ValueError:
    reason = " ".join(f"{type(error).__name__} {error}".split())
    return ValueError(
        f"{str(archive)!r} is broken or cut short {where} ({reason}); write it again with Kaldi, or copy it again"
    )
