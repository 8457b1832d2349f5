"""Names and values as JSON, with a checksum that tells whether they are as they were written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SUM = "sha256"  # of what stands beside it


def record(content: Mapping[str, Any]) -> str:
    """The text of a record."""
    return json.dumps({**content, _SUM: _checksum(content)}, indent=1)


def read_record(file: Path) -> dict[str, Any]:
    """What a record holds; JSON without a checksum is read too, as an older version wrote it.

    Raises:
        ValueError: If it is no JSON, holds no names, or is not as it was written.
    """
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it holds no names")
    said = found.pop(_SUM, None)
    if said not in (None, _checksum(found)):
        raise ValueError("it was altered since it was written: its checksum is another")
    return found


def _checksum(content: Mapping[str, Any]) -> str:
    read_again = json.loads(json.dumps(content))  # so that tuples and numbers as names are what JSON makes of them
    return hashlib.sha256(json.dumps(read_again, sort_keys=True).encode()).hexdigest()
