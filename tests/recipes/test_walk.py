"""A stranger's walk: a copied recipe with a regime of its own, by the command and from Python; and what tables say."""

import csv

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer, seed_everything

from lightning_gap.recipes import CIFAR10
from lightning_gap.recipes.catalogue import load_recipe
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.records import read_record

TINY = ["--width", "8", "--depth", "1", "--epochs", "2", "--small_batch_size", "320", "--epsilon", "[1e-3]"]
MINE = '''from lightning_gap import GhostBatchNormSwap
from lightning_gap.recipes.regimes import REGIMES


def mine(recipe):
    """Ghosts of 10, and a learning rate of 0.002."""
    recipe.learning_rate = 0.002
    return [GhostBatchNormSwap(10)]
'''


def results(folder):
    found = {}
    for file in sorted(folder.glob("runs/*/*/outcome.json")):
        found["/".join(file.parts[-3:-1])] = read_record(file) | {"seconds": 0}
    return found


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    sizes = {"x_train": (120, 32, 32, 3), "x_test": (40, 32, 32, 3)}
    arrays = {name: generator.integers(0, 256, size, dtype=np.uint8) for name, size in sizes.items()}
    labels = {"y_train": np.arange(120, dtype=np.uint8) % 10, "y_test": np.arange(40, dtype=np.uint8) % 10}
    np.savez(tmp_path / "cifar10.npz", **arrays, **labels)
    return tmp_path


def test_a_copied_recipe_takes_a_regime_of_its_own_and_python_gives_the_same_weights(pictures, capsys):
    assert main(["copy", "c1", str(pictures)]) == 0
    file = pictures / "c1.py"
    text = file.read_text()
    added = MINE + '    regimes = {**REGIMES, "mine": mine}\n'
    assert len(added.splitlines()) <= 10
    text = text.replace("\n\nclass C1", f"\n{MINE}\n\nclass C1")
    text = text.replace("    data_sets:", '    regimes = {**REGIMES, "mine": mine}\n    data_sets:')
    file.write_text(text.replace("large_batch_size: int = 5000", "large_batch_size: int = 40"))
    capsys.readouterr()
    assert main(["list", str(file)]) == 0
    assert "Ghosts of 10, and a learning rate of 0.002." in " ".join(capsys.readouterr().out.split())
    few = {"epochs": 2, "small_batch_size": 20, "channels": 4, "dense": (8, 8)}
    options = [
        word for name, value in few.items() for word in (f"--{name}", str(value).replace("(", "[").replace(")", "]"))
    ]
    done = [
        "compare",
        str(file),
        "small",
        "large",
        "mine",
        *options,
        "--data_dir",
        str(pictures),
        "--epsilon",
        "[1e-3]",
    ]
    assert main([*done, "--sharpness_samples", "40", "--output", str(pictures / "out")]) == 0
    with (pictures / "out/table.csv").open() as table:
        rows = {row["regime"]: row for row in csv.DictReader(table)}
    assert [row["batch_size"] for row in rows.values()] == ["20", "40", "40"]
    assert [row["learning_rate"] for row in rows.values()] == ["0.001", "0.001", "0.002"]
    assert (
        "mine: learning_rate 0.002, GhostBatchNormSwap(ghost_batch_size 10)" in (pictures / "out/table.md").read_text()
    )

    seed_everything(0)
    recipe = load_recipe(str(file))("mine", **few)
    trainer = Trainer(
        max_epochs=recipe.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(recipe, CIFAR10(recipe, data_dir=pictures, seed=0))
    weights = torch.load(pictures / "out/runs/mine/trial-1/weights.pt", weights_only=True)
    assert weights.keys() == recipe.network.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in recipe.network.state_dict().items())


@pytest.mark.slow
def test_runs_side_by_side_are_those_of_one_after_the_other(tmp_path, capsys):
    compare = ["compare", "f1", "small", "large", *TINY, "--threads", "1"]
    assert main([*compare, "--output", str(tmp_path / "after")]) == 0
    capsys.readouterr()
    assert main([*compare, "--workers", "2", "--output", str(tmp_path / "beside")]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" steps, test accuracy ") == 2
    assert "2 runs side by side" in " ".join(printed.split())
    assert results(tmp_path / "beside") == results(tmp_path / "after")
    assert len(results(tmp_path / "beside")) == 2


def test_what_ends_a_worker_ends_the_command_in_one_line(tmp_path, capsys):
    wrong = ["--trainer.val_check_interval", "100", "--workers", "2", "--output", str(tmp_path / "run")]
    assert main(["compare", "f1", "small", "large", *TINY, *wrong]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()  # after the state of the run, if it took long
    assert "`val_check_interval` (100) must be less" in line
    assert not (tmp_path / "run").exists()


CHOSEN = [*TINY, "--learning_rate_steps", "{1: 0.5}", "--trainer.max_time", "00:01:00:00"]


@pytest.mark.parametrize(
    "words",
    [
        ["run", "f1", "--regime", "ghost", *CHOSEN, "--data", "mnist", "--download"],
        ["compare", "f1", "large", "small", *CHOSEN, "--trials", "2"],
        ["advise", "f1", "--steps", "30", *CHOSEN[:4]],
        ["run"],
    ],
    ids=lambda words: words[0] if len(words) > 1 else "no recipe",
)
def test_options_go_out_and_in_as_yaml(words, tmp_path, capsys):
    assert main_status([*words, "--print_config"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(printed)
    again = [words[0], "--config", str(tmp_path / "mine.yaml"), "--print_config"]
    assert main_status(again) == 0
    assert capsys.readouterr().out == printed
    found = yaml.safe_load(printed)
    assert main_status([*again, "--seed", "9"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == found | {"seed": 9}
    if len(words) > 1:
        told = {"recipe": "f1", "width": 8, "data": "mnist" if "mnist" in words else "digits"}
        assert found.items() >= told.items()
        assert found["learning_rate"] == (0.001 if "mnist" in words else 0.05)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("widht: 9", "--widht=9; did you mean --width"),
        ("regime: small\nseed: ten", "--seed"),
        ("regime: small\ntrainer: {device: 2}", "unknown argument of the Trainer 'device'; did you mean 'devices'"),
        ("regimes: [small, large]", "regimes=['small', 'large'] are several, and run takes one; name it by --regime"),
        ("regime: smal", "unknown regime 'smal'; did you mean 'small'"),
        ("output: ''", "output: got ''"),
        ("- small", "must hold options by name, got ['small']"),
        ("trainer: {", "is no YAML"),
    ],
)
def test_a_file_of_options_that_cannot_work_is_one_line(text, told, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(f"{text}\n")
    assert main_status(["run", "f1", *TINY, "--config", str(tmp_path / "mine.yaml")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line


@pytest.mark.parametrize("command", ["run", "compare"])
def test_the_settings_of_a_finished_run_make_it_again(command, finished, tmp_path):
    again = [command, "--config", str(finished / "config.yaml"), "--output", str(tmp_path / "again")]
    assert main(again) == 0
    assert results(tmp_path / "again") == results(finished)
    written, before = (yaml.safe_load((at / "config.yaml").read_text()) for at in (tmp_path / "again", finished))
    assert written == before | {"output": str(tmp_path / "again")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    timer = "[{class_path: lightning.pytorch.callbacks.Timer, init_args: {duration: '00:02:00:00'}}]"
    words = ["--learning_rate_steps", "{1: 0.5}", "--trainer.callbacks", timer, "--output", str(folder)]
    assert main(["run", "f1", "--regime", "large", *TINY, *words]) == 0
    return folder


def test_the_table_says_what_was_seen_of_a_users_schedule_beside_a_regime(tmp_path):
    schedule = "[{class_path: lightning_gap.BatchSizeScheduler, init_args: {schedule: {0: 320, 1: 640}}}]"
    run = ["run", "f1", "--regime", "small", *TINY, "--trainer.callbacks", schedule, "--output", str(tmp_path / "run")]
    assert main(run) == 0
    (found,) = results(tmp_path / "run").values()
    assert (found["batch_size"], found["last_batch_size"], found["steps"]) == (320, 640, 4 + 2)


def main_status(words):
    try:
        return main(words)
    except SystemExit as left:
        return left.code


INHERITS = '''from lightning_gap.recipes import F1


class Mine(F1):
    """F1 with a narrower default."""

    def __init__(self, regime="small", *, width: int = 8, **others):
        super().__init__(regime, width=width, **others)
'''


def test_a_file_may_inherit_from_a_bundled_recipe(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(INHERITS)
    assert main(["list", str(file)]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {("width", "8"), ("epochs", "100"), ("on", "digits")} <= {tuple(line[:2]) for line in printed}
    words = ["--data", "digits", "--depth", "1", "--epochs", "1", "--small_batch_size", "320", "--epsilon", "[1e-3]"]
    assert main_status(["run", str(file), "--regime", "small", *words, "--output", str(tmp_path / "run")]) == 0
    weights = torch.load(tmp_path / "run/runs/small/trial-1/weights.pt", weights_only=True)
    assert 8 in {len(weight) for weight in weights.values() if weight.ndim == 2}


def test_a_file_of_options_may_name_the_recipe_and_the_line_the_regimes(tmp_path, capsys):
    (tmp_path / "options.yaml").write_text("recipe: f1\ndata: digits\nregimes: [small]\n")
    words = ["compare", "--config", str(tmp_path / "options.yaml"), "small", "large", "--print_config"]
    assert main_status(words) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["recipe"], printed["regimes"]) == ("f1", ["small", "large"])


def test_a_class_without_hyperparameters_is_not_listed(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from lightning_gap.recipes.recipe import Recipe\n\n\nclass Mine(Recipe):\n    pass\n"
    )
    assert main(["list", str(tmp_path / "mine.py")]) == 2
    assert "has no hyperparameters; name them in the signature of its __init__" in capsys.readouterr().err


def test_help_on_a_recipe_comes_before_or_after_its_name(capsys):
    for words in (["run", "f1", "--help"], ["run", "--help", "f1"]):
        assert main_status(words) == 0
        assert "--small_batch_size" in capsys.readouterr().out
