"""What needs no torch does not import it: lists, copies, and what is refused by name or option."""

import subprocess
import sys

import pytest

REFUSED = [
    ["run", "f3", "--regime", "small"],
    ["run", "f1", "--regime", "smal"],
    ["run", "f1", "--regime", "small", "--data", "minst"],
    ["run", "f1", "--regime", "small", "--epochs", "ten"],
    ["run", "f1", "--regime", "small", "--epochs", "0"],
    ["run", "f1", "--regime", "small", "--epoch", "3"],
    ["run", "f1", "--regime", "small", "--optimizer", "adm"],
    ["run", "f1", "--regime", "small", "--augmentation", "flip"],
    ["run", "f1", "--regime", "small", "--learning_rate_steps", "{1.5: 0.1}"],
    ["run", "f1", "--regime", "small", "--trainer.device", "2"],
    ["run", "f1", "--regime", "small", "--seed", "-1"],
    ["run", "nowhere.py", "--regime", "small"],
    ["run"],
    ["compare", "f1"],
    ["compare", "f1", "small", "small"],
    ["copy", "f3", "."],
    ["doctor", "nowhere"],
    ["doctor", ".", "--base_batch_size", "0"],
    ["train", "f1"],
]
DONE = [["--help"], ["--version"], ["list"], ["list", "f1"], ["run", "f1", "--help"], ["compare", "--help"]]
DONE += [["doctor", "--help"], ["copy", "f1", "."], ["run", "c1", "--regime", "ghost-lr", "--print_config"]]
WATCHED = """
import sys
from lightning_gap.recipes.runner.cli import main
for words in WORDS:
    try:
        status = main(words)
    except SystemExit as left:
        status = left.code
    print("status", *words, "=", status)
    assert "torch" not in sys.modules, words
"""


@pytest.mark.parametrize(("words", "status"), [(REFUSED, 2), (DONE, 0)])
def test_neither_list_nor_copy_nor_a_refusal_imports_torch(words, status, tmp_path):
    code = WATCHED.replace("WORDS", repr(words))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("status ")]
    assert told == [f"status {' '.join(each)} = {status}" for each in words]
    if status:
        assert len(done.stderr.strip().splitlines()) == len(words)


def test_every_public_name_is_what_it_says_it_is():
    import ast
    import inspect
    from importlib import import_module
    from pathlib import Path

    import lightning_gap

    for package in (lightning_gap, import_module("lightning_gap.recipes")):
        tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
        (block,) = (part for part in tree.body if isinstance(part, ast.If))
        names = {alias.name: part.module for part in block.body for alias in part.names}
        for name, home in names.items():
            found = getattr(package, name)
            assert not inspect.ismodule(found)
            assert found is getattr(import_module(f"{package.__name__}.{home}"), name), name
        if package is lightning_gap:
            assert sorted(names) == sorted(lightning_gap.__all__)
        with pytest.raises(AttributeError):
            _ = package.nothing_of_this_name


def test_what_python_lists_of_the_package_is_what_it_has():
    import lightning_gap

    listed = set(dir(lightning_gap))
    assert {*lightning_gap.__all__, "functional", "__all__", "__doc__", "__file__", "__version__"} <= listed
    assert all(hasattr(lightning_gap, name) for name in listed)
