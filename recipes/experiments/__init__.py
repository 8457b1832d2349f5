"""Tables and figures of the papers: what runs, what is measured, what is drawn; one file each."""

from __future__ import annotations

import ast
from pathlib import Path


def experiments() -> dict[str, str]:
    """First line of each experiment's file by its name, read without importing it."""
    files = {path: path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))}
    return {
        path.stem.replace("_", "-"): (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        for path, text in files.items()
        if "\nEXPERIMENT = " in text
    }
