"""The scalars that a run logged, from TensorBoard's event files or from CSVLogger's metrics.csv; without torch."""

from __future__ import annotations

import csv
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

EVENTS, METRICS = "*tfevents*", "metrics.csv"
_LONGEST_SCALAR = 65_536  # bytes; longer records are pictures and text


@dataclass(frozen=True)
class Curve:
    """One logged quantity.

    Attributes:
        points: Pairs of x, as the logger has it, and value, in the order of x; finite ones alone.
        source: File and name, for a reader who wants to look.
    """

    points: tuple[tuple[float, float], ...]
    source: str

    @property
    def values(self) -> tuple[float, ...]:
        """Without x."""
        return tuple(value for _, value in self.points)


def log_files(folder: Path) -> list[Path]:
    """Those directly in a folder."""
    return sorted(path for path in (*folder.glob(EVENTS), *folder.glob(METRICS)) if path.is_file())


def read_curves(folder: Path) -> dict[str, Curve]:
    """All scalars of the files directly in a folder, by name.

    Several event files, as a resumed run leaves them, are one run: at one x the newer file holds.

    Raises:
        ValueError: If a file is damaged; names it.
        OSError: If a file cannot be read.
    """
    points: dict[str, dict[float, float]] = {}
    sources: dict[str, str] = {}
    for file in log_files(folder):
        for name, x, value in _csv_scalars(file) if file.name == METRICS else _event_scalars(file):
            points.setdefault(name, {})[x] = value
            sources[name] = f"{file.name}: {name}"
    return {
        name: Curve(tuple((x, value) for x, value in sorted(found.items()) if math.isfinite(value)), sources[name])
        for name, found in points.items()
        if any(map(math.isfinite, found.values()))
    }


def _event_scalars(file: Path) -> Iterator[tuple[str, float, float]]:
    """By the framing of TFRecord: length, its checksum, the event, its checksum."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import masked_crc32c

    content, place = file.read_bytes(), 0
    while place + 12 <= len(content):
        header = content[place : place + 8]
        (length,) = struct.unpack("<Q", header)
        if struct.unpack("<I", content[place + 8 : place + 12])[0] != masked_crc32c(header):
            raise _damaged(file, f"no record begins at byte {place}")
        record = content[place + 12 : place + 12 + length]
        checksum = content[place + 12 + length : place + 16 + length]
        if len(checksum) < 4:
            return  # the run was killed, or is still writing
        place += 16 + length
        if length > _LONGEST_SCALAR:
            continue
        if struct.unpack("<I", checksum)[0] != masked_crc32c(record):
            raise _damaged(file, f"the record that ends at byte {place} does not match its checksum")
        try:
            event = Event.FromString(record)
        except DecodeError as error:
            raise _damaged(file, f"the record that ends at byte {place} is no event") from error
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                yield value.tag, float(event.step), float(value.simple_value)


def _csv_scalars(file: Path) -> Iterator[tuple[str, float, float]]:
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(file, str(error)) from error
    for number, row in enumerate(rows, start=2):
        yield from _cells(file, number, row)


def _cells(
    file: Path, number: int, row: Mapping[str | None, str | list[str] | None]
) -> Iterator[tuple[str, float, float]]:
    try:
        x = float(str(row["step"]))
        for name, cell in row.items():
            if name and name != "step" and cell:
                yield name, x, float(str(cell))
    except (KeyError, ValueError) as error:
        raise _damaged(file, f"line {number} has no number where one is due ({error})") from error


def _damaged(file: Path, why: str) -> ValueError:
    return ValueError(f"{str(file)!r} is damaged: {why}; move it away, or name another folder")
