"""A user's recipe file that is edited between the runs of one results folder."""

import csv

import pytest

from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.edited_file import edited

FILE = '''"""A recipe."""
import torch

def mine(recipe):
    recipe.batch_size = 3
    return []

def helper():
    return 4

class C(Recipe):
    """It."""

    regimes = {"mine": mine}

    def __init__(self, width=helper()):
        pass
'''


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("batch_size = 3", "batch_size = 4", "the regime 'mine'"),
        ("return 4", "return 5", "def helper"),
        ("width=helper()", "width=5", "class C"),
        ("import torch\n", "", "import torch"),
        ('"mine": mine}', '"mine": partial(mine, size=4)}', "regimes"),
        ("class C", "torch.set_num_threads(3)\nclass C", "set_num_threads"),
    ],
)
def test_what_made_the_runs_is_named_where_it_differs(old, new, told):
    assert told in edited(FILE, FILE.replace(old, new), regimes=["mine"], started=["mine"])


def test_more_regimes_texts_and_imports_are_no_edit():
    now = FILE.replace("import torch", "import torch\nimport math  # why")
    now = now.replace("class C", "def other(recipe):\n    return []\n\nclass C")
    now = now.replace('{"mine": mine}', '{"mine": mine, "other": other}').replace("A recipe.", "Mine.")
    assert edited(FILE, now, regimes=["mine", "other"], started=["mine"]) is None
    changed = now.replace("batch_size = 3", "batch_size = 4")
    assert edited(FILE, changed, regimes=["mine", "other"], started=[]) is None  # before it had runs


def test_a_folder_is_resumed_with_the_file_that_made_it_and_its_table_keeps_all_rows(tmp_path, capsys):
    assert main(["copy", "f1", str(tmp_path)]) == 0
    file, output = tmp_path / "f1.py", tmp_path / "out"
    regime = "def mine(recipe):\n    recipe.epochs = 1\n    recipe.batch_size = 64\n    return []\n\n\n"
    text = file.read_text(encoding="utf-8").replace("class F1", f"{regime}class F1", 1)
    text = text.replace(
        "    def __init__(", '    regimes = {"small": Recipe.regimes["small"], "mine": mine}\n\n    def __init__(', 1
    )
    file.write_text(text, encoding="utf-8")
    options = ["--data", "digits", "--epochs", "20", "--width", "8", "--depth", "1", "--sharpness_samples", "64"]
    options += ["--large_batch_size", "640", "--threads", "1", "--output", str(output)]

    def regimes_in_table():
        with (output / "table.csv").open(encoding="utf-8") as table:
            return [row["regime"] for row in csv.DictReader(table)]

    assert main(["compare", str(file), "mine", *options]) == 0
    options.append("--resume")
    file.write_text(text.replace("batch_size = 64", "batch_size = 32"), encoding="utf-8")
    assert main(["compare", str(file), "mine", "small", *options]) == 2
    assert "f1.py' was edited" in capsys.readouterr().err
    other = text.replace("class F1", regime.replace("mine", "other").replace("64", "32") + "class F1", 1)
    file.write_text(other.replace('"mine": mine}', '"mine": mine, "other": other}'), encoding="utf-8")
    assert main(["run", str(file), "--regime", "other", *options]) == 0
    assert regimes_in_table() == ["mine", "other"]
