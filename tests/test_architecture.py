"""Imports go one way: functional <- data, logging <- callbacks <- recipes."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THIRD_PARTY = {
    "functional": {"torch"},
    "data": {"torch"},
    "logging": {"torch", "matplotlib"},
    "callbacks": {"torch", "lightning", "lightning_utilities", "numpy"},
}
OURS = {
    "functional": {"functional"},
    "data": {"data", "functional"},
    "logging": {"logging", "functional"},
    "callbacks": {
        *("callbacks", "functional", "data", "logging"),
        *("_batches", "_checkpoint_file", "_lightning", "_refusals", "_resume", "_state", "_train_loader", "_trained"),
    },
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


def test_private_lightning_is_touched_in_three_files_only():
    names = ("trainer._", "strategy._", "fit_loop._", "fabric.utilities.seed import _")
    for file in (ROOT / "lightning_gap").rglob("*.py"):
        if file.name not in ("_lightning.py", "_resume.py", "_train_loader.py"):
            text = file.read_text(encoding="utf-8")
            assert not [name for name in names if name in text], file


def test_recipes_import_the_public_names_only():
    shared = {"__future__", "lightning_gap.functional._validation"}  # one set of validators, for networks too
    for file in (ROOT / "recipes").rglob("*.py"):
        for name in set(imports(file, [])) - shared:
            assert not any(part.startswith("_") for part in name.split(".")), f"{file}: {name}"
