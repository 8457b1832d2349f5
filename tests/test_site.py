"""The documentation site: every public name has one place, every error is listed, and it builds."""

import ast
import inspect
import re
import runpy
import subprocess
import sys
import zlib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
API = runpy.run_path(str(DOCS / "api_pages.py"))
ERRORS = runpy.run_path(str(DOCS / "error_list.py"))


def public_paths():
    """Each public name with its packages, as an import finds it."""
    return [f"{package}.{name}" for package in API["AREAS"] for name in API["public_names"](package)]


def value_at(path):
    package, _, name = path.rpartition(".")
    return getattr(import_module(package), name)


def test_each_public_name_is_described_on_one_page():
    described = [
        name if "." in name else f"{package}.{name}"
        for package in API["AREAS"]
        for name in re.findall(r"^\.\. (?:py:data|auto\w+):: (\S+)$", API["page"](package, ""), flags=re.MULTILINE)
    ]
    values = {id(value_at(path)) for path in described}
    assert len(described) == len(values)
    assert values == {id(value_at(path)) for path in public_paths()}
    assert set(import_module("lightning_gap").__all__) == set(API["public_names"]("lightning_gap"))


def test_a_callbacks_entry_has_its_arguments_and_methods_without_hooks():
    lightning_gap = import_module("lightning_gap")
    for name in API["described"]("lightning_gap"):
        value = getattr(lightning_gap, name)
        if isinstance(value, type):
            shown = API["methods_of"](value)
            assert not [each for each in shown if each.startswith(("on_", "setup", "state_dict", "load_state"))], name
    assert {"measure", "figure"} <= set(API["methods_of"](lightning_gap.SharpnessMonitor))
    lines = lightning_gap.SharpnessMonitor.__doc__ and ["First line.", "", "Args:", "    epsilon: Half-widths.", ""]
    API["add_arguments"](lines, lightning_gap.SharpnessMonitor)
    described = [line.split(":")[0].strip() for line in lines[3:] if re.match(r"    \w", line)]
    assert {"every_n_epochs", "max_time_share", "chunk_size"} <= set(described)
    assert len(set(described)) == len(described)
    assert lines[-1] == ""


def docstrings():
    """Of each public class and function, and of the methods that its page shows: path, value, docstring."""
    for package in API["AREAS"]:
        for name in API["described"](package):
            value = value_at(f"{package}.{name}")
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            yield f"{package}.{name}", value, inspect.getdoc(value) or ""
            for method in API["methods_of"](value) if inspect.isclass(value) else ():
                part = inspect.getattr_static(value, method)
                part = getattr(part, "__func__", part)  # a property stays what it is
                yield f"{package}.{name}.{method}", part, inspect.getdoc(part) or ""


def lines_of(docstring, section):
    """The lines of a section that are indented once: one for each argument, or the first of a result."""
    found = re.search(rf"^{section}:\n((?:    .*\n|\n)+)", f"{docstring}\n", flags=re.MULTILINE)
    return re.findall(r"^    (\S.*)$", found[1] if found else "", flags=re.MULTILINE)


def false_fields(path, value, docstring):
    """What the reference would show as an argument that is none, or as the type of a result because of its colon."""
    for line in lines_of(docstring, "Args"):
        for name in line.partition(":")[0].split(", "):
            if name.lstrip("*") not in inspect.signature(value).parameters:
                yield path, name
    results = ["".join(lines_of(docstring, section)[:1]) for section in ("Returns", "Yields")]
    if not callable(value):  # a property: its first line is read as a result's
        results.append(docstring.partition("\n")[0])
    for first in results:
        words = re.sub(r"(`+)[^`]*\1", "", first)
        if ":" in words:
            yield path, words.partition(":")[0]


def test_no_words_of_a_docstring_are_shown_as_an_argument_or_a_type():
    found = list(docstrings())
    assert sum(bool(lines_of(text, "Args")) for _, _, text in found) > 150
    assert [field for each in found for field in false_fields(*each)] == []
    wrong = "Name.\n\nArgs:\n    path: Ours.\n    The others: See ``there``.\n\nReturns:\n    The files: ``a: b``.\n"
    assert list(false_fields("made.up", ast.parse, wrong)) == [
        ("made.up", "path"),
        ("made.up", "The others"),
        ("made.up", "The files"),
    ]
    assert list(false_fields("made.up", property(), "Size: of a batch.")) == [("made.up", "Size")]


MADE_UP = '''
"""A file with every way to say an error."""

_TOLD = "no {what} here; pass one"


def check(name, size, error):
    text = f"{name} is {size}; " "use another"
    if size < 0:
        raise ValueError(text)
    if size == 0:
        raise _damaged(name, "it is empty")
    if size > 9:
        raise ValueError(refusal("size", f"must be at most {most}", size, "use 9"))
    if size > 8:
        raise TypeError(_TOLD.format(what=name))
    if size > 6:
        raise ValueError(_told(size))
    if size > 7:
        raise RuntimeError("too large: " + str(size)) from error
    raise error


def _told(size):
    return f"the size is {size}; take 6"


def _damaged(name, why):
    return OSError(f"{name!r} is damaged: {why}")
'''


def test_the_list_of_errors_reads_every_way_to_say_one():
    found = {(error.kind, error.message) for error in ERRORS["errors_of"](MADE_UP)}
    assert found == {
        ("ValueError", "{name} is {size}; use another"),
        ("OSError", "{name} is damaged: it is empty"),
        ("ValueError", "size must be at most {most}, got {size}; use 9"),
        ("ValueError", "the size is {size}; take 6"),
        ("TypeError", "no {what} here; pass one"),
        ("RuntimeError", "too large: {size}"),
    }


def test_every_error_of_the_package_is_on_the_page_under_an_anchor_of_its_own():
    page = ERRORS["page"]()
    anchors = re.findall(r"^\((error-[\w-]+)\)=$", page, flags=re.MULTILINE)
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\]\(#(error-[\w-]+)\)", page)) == set(anchors)
    raised = [
        (file, node)
        for folder in ERRORS["AREAS"]
        for file in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args
        if ast.unparse(node.exc.func) != "AssertionError"  # of our own code, which no user can cause
    ]
    texts = {
        (file, part.value)
        for file, node in raised
        for part in ast.walk(node.exc.args[0])
        if not isinstance(node.exc.args[0], ast.Call) or ast.unparse(node.exc.args[0].func) == "refusal"
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and len(part.value.split()) > 5
    }
    assert len(texts) > 500
    flat = " ".join(page.split())
    missing = [(file.name, text) for file, text in texts if " ".join(text.split()) not in flat]
    assert not missing


def inventory(file):
    """Names of a built site's objects.inv, read as its format says: four lines, then compressed ones."""
    lines = file.read_bytes().split(b"\n", 4)
    assert lines[0] == b"# Sphinx inventory version 2"
    return {line.split(" ")[0] for line in zlib.decompress(lines[4]).decode().splitlines()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_site_builds_without_a_warning_and_has_every_public_name(tmp_path):
    for module in ("sphinx", "myst_nb", "furo", "sphinx_copybutton"):
        pytest.importorskip(module)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-c",
        "docs",
        ".",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(public_paths()) <= inventory(tmp_path / "objects.inv")
