"""What an import costs, beside that of Lightning."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator

from rows.row import Row

OURS = {
    "import lightning_gap": "import lightning_gap",
    "the same, and ask for a callback": "from lightning_gap import SharpnessMonitor",
}
LIGHTNING = "import lightning"


def rows(rounds: int, *, quick: bool) -> Iterator[Row]:  # noqa: ARG001
    """Processor time of an import in a fresh Python; names of ours are imported when they are first asked for."""
    turns = [[_seconds(line) for line in (*OURS.values(), LIGHTNING)] for _ in range(rounds)]
    *ours, lightning = zip(*turns, strict=True)
    for name, own in zip(OURS, ours, strict=True):
        shares = tuple(a / b for a, b in zip(own, lightning, strict=True))
        yield Row(name, LIGHTNING, shares, f"{1e3 * statistics.median(own):.3g} ms")


def _seconds(line: str) -> float:
    script = f"import time; began = time.process_time(); {line}; print(time.process_time() - began)"
    return float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
