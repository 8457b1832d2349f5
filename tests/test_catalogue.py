"""Nothing is forgotten: every callback has its function file's tests, its card and its export."""

import ast
import inspect
import re
from pathlib import Path

import pytest
from bad_inputs import ALL
from contract.registry import REGISTRY
from promises import PROMISES

import lightning_gap

ROOT = Path(__file__).parents[1]
CALLBACKS = sorted(p.stem for p in (ROOT / "lightning_gap" / "callbacks").glob("*.py") if not p.stem.startswith("_"))
HEADINGS = [
    "What it changes",
    "Use it",
    "Settings",
    "What is logged",
    "How it works here",
    "When not to use it",
    "Sources",
]


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_callback_has_a_test_and_a_card_with_the_fixed_headings(name):
    assert (ROOT / "tests" / "callbacks" / f"test_{name}.py").exists()
    card = (ROOT / "docs" / "methods" / f"{name.replace('_', '-')}.md").read_text(encoding="utf-8")
    found = re.findall(r"^## (.+)$", card, flags=re.MULTILINE)
    assert [heading for heading in found if heading != "What we found"] == HEADINGS
    summary = card.split("## What it changes")[1].split("\n## ")[0]
    assert re.search(r"^- \*Costs:\* .+\n- \*You see:\* .+$", summary, flags=re.MULTILINE)


@pytest.mark.parametrize("name", REGISTRY)
def test_the_card_names_every_key_and_every_setting(name):
    cls = getattr(lightning_gap, name)
    card = (ROOT / "docs" / "methods" / f"{cls.__module__.split('.')[-1].replace('_', '-')}.md").read_text(
        encoding="utf-8"
    )
    for wanted in [*REGISTRY[name].keys, *list(inspect.signature(cls).parameters)]:
        assert f"`{wanted}`" in card, wanted


@pytest.mark.parametrize("name", REGISTRY)
def test_the_docstring_names_every_argument(name):
    """Its own, or that of the base where arguments that several callbacks share are described once."""
    cls = getattr(lightning_gap, name)
    described = "".join(base.__doc__ or "" for base in cls.__mro__ if base.__module__.startswith("lightning_gap"))
    for argument in inspect.signature(cls).parameters:
        assert f"{argument}: " in described, argument


def test_every_function_file_has_a_test():
    folder = ROOT / "lightning_gap" / "functional"
    for file in folder.rglob("*.py"):
        if file.stem not in ("__init__", "errors"):  # names and exceptions, nothing that runs
            tests = ROOT / "tests" / "functional" / file.relative_to(folder).parent
            assert (tests / f"test_{file.stem.strip('_')}.py").exists(), file


def test_what_is_public_of_functional_is_exported_in_one_place():
    for file in (ROOT / "lightning_gap" / "functional").glob("*/__init__.py"):
        names = {"GhostBatchNorm1d", "GhostBatchNorm2d", "GhostBatchNorm3d"}  # which old files of whole modules ask for
        _, *rest = ast.parse(file.read_text(encoding="utf-8")).body
        found = {alias.name for line in rest if isinstance(line, ast.ImportFrom) for alias in line.names}
        assert len(rest) == len(found), file
        assert found == (names if file.parent.name == "ghost_batch_norm" else set()), file


def test_the_version_is_the_same_everywhere():
    version = lightning_gap.__version__
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert version in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_readme_and_the_list_of_methods_link_every_card():
    readme, methods = (ROOT / "README.md", ROOT / "docs" / "methods" / "index.md")
    for card in methods.parent.glob("*.md"):
        assert f"docs/methods/{card.name}" in readme.read_text(encoding="utf-8")
        assert card == methods or f"]({card.name})" in methods.read_text(encoding="utf-8"), card.name


def test_every_promise_is_shown_by_a_test():
    files = (file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    shown = {key for text in files for key in re.findall(r'@pytest\.mark\.promise\("([^"]+)"\)', text)}
    assert shown == PROMISES.keys()


def test_every_group_of_bad_input_is_tried_by_a_test():
    files = (file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    marks = (found for text in files for found in re.findall(r"@pytest\.mark\.bad_input\(([\d, ]+)\)", text))
    assert {int(number) for found in marks for number in found.split(",")} == set(range(1, 68)) == set(ALL)
