"""How typed words, configuration files and recipe files become options."""

import pytest
import yaml

from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.options import ask


def asked(*typed, command="compare"):
    return ask(command, "", ["f1", "small", "--data", "digits", *typed]).settings


@pytest.fixture
def config(tmp_path):
    def write(**values):
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return str(file)

    return write


def test_of_two_names_of_the_epochs_the_typed_one_holds(config):
    file = config(epochs=7)
    assert asked("--config", file).hyperparameters["epochs"] == 7
    assert asked("--config", file, "--trainer.max_epochs", "3").hyperparameters["epochs"] == 3
    file = config(trainer={"max_epochs": 4})
    assert asked("--config", file).hyperparameters["epochs"] == 4
    assert asked("--config", file, "--epochs", "5").hyperparameters["epochs"] == 5
    with pytest.raises(ValueError, match=r"epochs=30 and trainer\.max_epochs=1 contradict"):
        asked("--epochs", "30", "--trainer.max_epochs", "1")


@pytest.mark.parametrize("given", [5, [1], {"small": 1}], ids=str)
def test_regimes_in_a_file_are_names(given, config):
    assert ask("compare", "", ["f1", "--data", "digits", "--config", config(regimes="small")]).settings.regimes == (
        "small",
    )
    with pytest.raises(ValueError, match="regimes must be a list of names"):
        ask("compare", "", ["f1", "--data", "digits", "--config", config(regimes=given)])


def test_one_file_of_options_is_read(config):
    file = config(epochs=7)
    with pytest.raises(ValueError, match="config is given twice"):
        asked("--config", file, f"--config={file}")
    with pytest.raises(ValueError, match="names another file"):
        asked("--config", config(config="other.yaml"))


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["run"], "no recipe is named"),
        (["compare", "f1", "--regimes", "small"], "regimes are words, for instance compare f1 small large"),
    ],
)
def test_what_is_missing_is_named(args, told, capsys):
    try:
        status = main(args)
    except SystemExit as stop:  # of the parser
        status = stop.code
    assert status == 2
    assert told in capsys.readouterr().err


def test_a_recipe_file_may_have_any_name_import_what_lies_beside_it_and_name_regimes_by_constants(tmp_path, capsys):
    (tmp_path / "beside.py").write_text("WIDTH = 5\n", encoding="utf-8")
    (tmp_path / "my.own.py").write_text(
        "from beside import WIDTH\nfrom lightning_gap.recipes import F1\n"
        "from lightning_gap.recipes.regimes import REGIMES\n"
        "NAME = 'mine'\n\ndef mine(recipe):\n    return []\n\n"
        "class Own(F1):\n    regimes = {**REGIMES, NAME: mine}\n",
        encoding="utf-8",
    )
    assert main(["list", str(tmp_path / "my.own.py")]) == 0
    assert "mine" in capsys.readouterr().out
