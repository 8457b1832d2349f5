"""What of a user's recipe file was edited since its runs in a results folder began."""

from __future__ import annotations

import ast
from collections.abc import Collection


def edited(before: str, now: str, *, regimes: Collection[str], started: Collection[str]) -> str | None:
    """The first part that differs and that runs were made with, or ``None``; new regimes and imports are no edit.

    Args:
        before: The file's text when the first runs began.
        now: Its text.
        regimes: Names of the functions that are regimes.
        started: Of these the ones that have runs.

    Example:
        >>> edited("x = 1", "import math; x = 2", regimes=[], started=[])
        "what begins with 'x = 1' is gone, or another"
    """
    were, are = _parts(before, regimes), _parts(now, regimes)
    changed = [name for name in started if name in were[1] and were[1][name] != are[1].get(name)]
    if changed:
        return f"the regime {changed[0]!r} is another"
    gone = [text for text in were[0] if text not in are[0]]
    added = [text for text in are[0] if text not in were[0] and not text.startswith(("import ", "from ", "regimes: "))]
    for texts, told in ((gone, "is gone, or another"), (added, "is new")):
        if texts:
            return f"what begins with {texts[0].splitlines()[0]!r} {told}"
    return None


def _parts(source: str, regimes: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """The statements of a file but regimes, their tables and texts; and the regimes by name. Comments do not count."""
    statements, functions = list[str](), dict[str, str]()
    for part in ast.parse(source).body:
        if isinstance(part, ast.FunctionDef) and part.name in regimes:
            functions[part.name] = ast.unparse(part)
            continue
        tables = [part, *part.body] if isinstance(part, ast.ClassDef) else [part]
        statements += [entry for table in tables if _is_table(table) for entry in _entries(table)]
        if isinstance(part, ast.ClassDef):
            part.body = [inner for inner in part.body if not _is_table(inner) and not _is_text(inner)]
        if not _is_table(part) and not _is_text(part):
            statements.append(ast.unparse(part))
    return statements, functions


def _is_table(part: ast.stmt) -> bool:
    targets = part.targets if isinstance(part, ast.Assign) else [getattr(part, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == "regimes" for target in targets)


def _entries(table: ast.stmt) -> list[str]:
    """What a table of regimes is made of; each must stay, and more may come."""
    value = getattr(table, "value", None)
    if not isinstance(value, ast.Dict):
        return [f"the table {ast.unparse(table)}"]
    pairs = zip(value.keys, value.values, strict=True)
    return [f"regimes: {'**' if key is None else ast.unparse(key) + ': '}{ast.unparse(made)}" for key, made in pairs]


def _is_text(part: ast.stmt) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)
