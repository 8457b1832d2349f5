"""Tables and figures of the papers: what runs, what is measured, what is drawn; one file each."""

from __future__ import annotations

import ast
from pathlib import Path

_PARTS = {  # every other file is an experiment of its name
    *("__init__", "basin_shape", "command", "experiment", "measures", "paths", "published", "published_curves"),
    *("remedy_tables", "scales", "sharpness_tables", "terms"),
}


def experiments() -> dict[str, str]:
    """First line of each experiment's file by its name, read without importing it."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if path.stem not in _PARTS)
    return {
        path.stem.replace("_", "-"): (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[
            0
        ]
        for path in files
    }
