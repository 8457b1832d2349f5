"""The table of benchmarks: its topics in their order, and what measures the rows of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from rows import (
    curvature,
    ghost_norm,
    idle_callbacks,
    import_time,
    input_path,
    landscape,
    sam,
    scaling,
    sharpness,
    trainer,
)
from rows.row import Row


class Rows(Protocol):
    """Measures the rows of a topic; with ``quick`` only those that CI checks."""

    def __call__(self, rounds: int, *, quick: bool) -> Iterator[Row]: ...


@dataclass(frozen=True)
class Topic:
    """Rows that are measured alike.

    Attributes:
        rows: Measures them; its docstring says how.
        rounds: How often ours and the peers take turns.
        in_ci: The same in CI's check; 0 where CI leaves it out.
    """

    rows: Rows
    rounds: int
    in_ci: int = 0


TOPICS = {
    "ghost norm": Topic(ghost_norm.time_rows, rounds=5, in_ci=1),
    "sharpness": Topic(sharpness.time_rows, rounds=4, in_ci=1),
    "top eigenvalue": Topic(curvature.eigenvalue_rows, rounds=4, in_ci=1),
    "trace": Topic(curvature.trace_rows, rounds=4),
    "SAM": Topic(sam.rows, rounds=7, in_ci=1),
    "landscape": Topic(landscape.rows, rounds=5, in_ci=1),
    "input path": Topic(input_path.rows, rounds=4, in_ci=1),
    "Trainer": Topic(trainer.rows, rounds=6, in_ci=1),
    "idle callback": Topic(idle_callbacks.rows, rounds=5, in_ci=1),
    "memory, ghost norm": Topic(ghost_norm.memory_rows, rounds=1, in_ci=1),
    "memory, sharpness": Topic(sharpness.memory_rows, rounds=1),
    "import time": Topic(import_time.rows, rounds=3),
    "scaling": Topic(scaling.rows, rounds=5),
}
