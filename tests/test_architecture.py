"""Imports go one way: functional <- data, logging <- trainer <- callbacks <- recipes."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THIRD_PARTY = {
    "functional": {"torch"},
    "data": {"torch"},
    "logging": {"torch", "matplotlib"},
    "trainer": {"torch", "lightning", "lightning_utilities"},
    "callbacks": {"torch", "lightning", "lightning_utilities", "numpy"},
}
OURS = {
    "functional": {"functional"},
    "data": {"data", "functional"},
    "logging": {"logging", "functional"},
    "trainer": {"trainer", "data", "functional"},
    "callbacks": {"callbacks", "trainer", "functional", "data", "logging"},
}
STANDARD = set(__import__("sys").stdlib_module_names)


def imports(file, package):
    """Dotted names that a file imports, relative ones resolved."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*above, *(node.module or "").split(".")]).strip(".")


@pytest.mark.parametrize("layer", THIRD_PARTY)
def test_a_layer_imports_only_what_lies_below_it(layer):
    files = sorted((ROOT / "lightning_gap" / layer).rglob("*.py"))
    assert files
    for file in files:
        package = list(file.relative_to(ROOT).parent.parts)
        for name in imports(file, package):
            parts = name.split(".")
            if parts[0] == "lightning_gap":
                assert parts[1] in OURS[layer], f"{file}: {name}"
            else:
                allowed = THIRD_PARTY[layer] | ({"scipy", "numpy"} if file.name == "_lbfgsb.py" else set())
                assert parts[0] in STANDARD | allowed, f"{file}: {name}"


def test_no_callback_imports_another():
    folder = ROOT / "lightning_gap" / "callbacks"
    callbacks = {file.stem for file in folder.glob("*.py") if not file.stem.startswith("_")}
    for file in folder.glob("*.py"):
        if file.stem != "__init__":
            inner = [
                n for n in imports(file, ["lightning_gap", "callbacks"]) if n.startswith("lightning_gap.callbacks")
            ]
            assert not {name.split(".")[-1] for name in inner} & callbacks, file


def test_recipes_import_the_public_names_only():
    shared = {"__future__", "lightning_gap.functional._validation"}  # one set of validators, for networks too
    for file in (ROOT / "recipes").rglob("*.py"):
        for name in set(imports(file, [])) - shared:
            assert not any(part.startswith("_") for part in name.split(".")), f"{file}: {name}"
