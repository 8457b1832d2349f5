"""Imports go one way: functional <- data, logging <- trainer <- callbacks <- recipes; and the page shows them."""

import ast
import runpy
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from lightning.pytorch import Callback

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "contributing" / "architecture.md"
ARCHITECTURE = runpy.run_path(str(PAGE.with_suffix(".py")))
PACKAGE = ROOT / "lightning_gap"
THIRD_PARTY = {
    "functional": {"torch"},
    "data": {"torch"},
    "logging": {"torch", "matplotlib"},
    "trainer": {"torch", "lightning", "lightning_utilities", "numpy"},
    "callbacks": {"torch", "lightning", "lightning_utilities", "numpy", "torchmetrics"},
}
BELOW = {
    "functional": set(),
    "data": {"functional"},
    "logging": {"functional"},
    "trainer": {"functional", "data", "logging"},
    "callbacks": {"functional", "data", "logging", "trainer"},
}


def files(folder):
    return sorted(folder.rglob("*.py"))


def imports(file):
    return list(ARCHITECTURE["imported_names"](file, ROOT))


@pytest.mark.parametrize("layer", BELOW)
def test_a_layer_imports_only_what_lies_below_it(layer):
    assert files(PACKAGE / layer)
    for file in files(PACKAGE / layer):
        for name in imports(file):
            parts = name.split(".")
            if parts[0] == "lightning_gap":
                assert parts[1] in BELOW[layer] | {layer}, f"{file}: {name}"
            else:
                # The paper's maximiser is SciPy's: one file imports it, inside the function.
                allowed = THIRD_PARTY[layer] | ({"scipy", "numpy"} if file.name == "_lbfgsb.py" else set())
                assert parts[0] in sys.stdlib_module_names | allowed, f"{file}: {name}"


def test_no_callback_imports_another():
    folder = PACKAGE / "callbacks"
    callbacks = {file.stem for file in folder.glob("*.py") if not file.stem.startswith("_")}
    assert callbacks
    for file in folder.glob("[!_]*.py"):
        inner = {name.split(".")[2] for name in imports(file) if name.startswith("lightning_gap.callbacks.")}
        assert not inner & callbacks, file


@cache
def nodes(folder):
    return [(file, node) for file in files(folder) for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]


def test_no_callback_looks_by_name_for_what_another_may_have():
    """They meet in `_run.py`. A name that Lightning's callbacks have, too, is not one of ours."""
    ours = {node.name for _, node in nodes(PACKAGE / "callbacks") if isinstance(node, ast.FunctionDef)}
    ours |= {
        node.attr
        for _, node in nodes(PACKAGE / "callbacks")
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    ours -= {*dir(Callback), *dir(list)}
    assert len(ours) > 100
    for file, node in nodes(PACKAGE / "callbacks"):
        asks = isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr") and len(node.args) > 1
        if asks and isinstance(node.args[1], ast.Constant) and ast.unparse(node.args[0]) != "self":
            assert node.args[1].value not in ours, f"{file}, line {node.lineno}"


def test_recipes_import_the_public_names_only():
    shared = "lightning_gap.functional._validation."  # one set of validators, for networks too
    for file in files(ROOT / "recipes"):
        for name in imports(file):
            if name.startswith("lightning_gap.") and not name.startswith(("lightning_gap.recipes.", shared)):
                assert "._" not in name.replace(".__version__", ""), f"{file}: {name}"


def test_imports_are_relative_but_in_the_recipes_that_copy_copies():
    copied = {
        file
        for file, node in nodes(ROOT / "recipes")
        if isinstance(node, ast.ClassDef) and "Recipe" in map(ast.unparse, node.bases)
    }
    for file, node in [*nodes(PACKAGE), *nodes(ROOT / "recipes")]:
        # `recipes` is a client of the package: it imports what others would, by its name, and itself relatively.
        if isinstance(node, ast.ImportFrom) and not node.level and file not in copied:
            own = "lightning_gap.recipes" if ROOT / "recipes" in file.parents else "lightning_gap"
            assert not (node.module or "").startswith(own), f"{file}, line {node.lineno}"


def test_the_page_shows_the_packages_and_arrows_that_there_are():
    shown, found = ARCHITECTURE["read_table"](PAGE.read_text(encoding="utf-8"), "Now"), ARCHITECTURE["read_code"](ROOT)
    command = "run `python docs/contributing/architecture.py`"
    assert list(shown) == list(found), command
    for name, package in found.items():
        assert shown[name].imports == package.imports, f"{name}: {command}"
        assert shown[name].lines == pytest.approx(package.lines, rel=0.1, abs=50), f"{name}: {command}"


def test_the_drawing_is_that_of_the_tables():
    page = PAGE.read_text(encoding="utf-8")
    drawn = ARCHITECTURE["draw"]({name: ARCHITECTURE["read_table"](page, name) for name in ("Before", "Now")})
    assert drawn == PAGE.with_suffix(".svg").read_text(encoding="utf-8")


def test_the_script_finds_arrows_packages_and_lines(tmp_path):
    sources = {
        "lightning_gap/__init__.py": "from .callbacks import Monitor\n",
        "lightning_gap/functional/__init__.py": "import torch\n\nx = 1\n",
        "lightning_gap/functional/sharpness/_search.py": "from .. import x\n",
        "lightning_gap/callbacks/__init__.py": "from ..functional.sharpness import _search\nfrom .._hidden import y\n",
        "lightning_gap/_hidden.py": "def f():\n    from lightning_gap import callbacks\n",
        "recipes/f1.py": "from lightning_gap import Monitor, __version__\nfrom lightning_gap.recipes import networks\n",
        "recipes/networks/__init__.py": "from ...functional import x\n",
        "benchmarks/speed.py": "import lightning_gap.recipes.f1\n",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = ARCHITECTURE["read_code"](tmp_path)
    assert {name: package.imports for name, package in found.items()} == {
        "functional": set(),
        "private files": {"callbacks"},
        "callbacks": {"functional", "private files"},
        "public names": {"callbacks"},
        "recipes/networks": {"functional"},
        "recipes": {"public names", "recipes/networks"},
        "benchmarks": {"recipes"},
    }
    assert (found["functional"].files, found["functional"].lines) == (2, 4)
    page = ARCHITECTURE["replace"](
        "<!-- Now: by architecture.py -->\n<!-- end -->", "Now", ARCHITECTURE["write_table"](found)
    )
    assert ARCHITECTURE["read_table"](page, "Now") == found
    assert ARCHITECTURE["draw"]({"Now": found}).count("#c22") == 1  # private files -> callbacks goes back


def test_before_is_what_the_commit_holds(tmp_path):
    if (
        not shutil.which("git")
        or subprocess.run(
            ["git", "cat-file", "-e", "251bad0^{commit}"], cwd=ROOT, capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no git history here, as in a source distribution or a shallow clone")
    before = ARCHITECTURE["read_code"](ARCHITECTURE["code_of"]("251bad0", tmp_path))
    assert ARCHITECTURE["read_table"](PAGE.read_text(encoding="utf-8"), "Before") == before
