"""What a run of the command takes: the Trainer's arguments, several processes, a recipe of the user's own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pytest
import torch
import yaml

from lightning_gap.recipes import F1, Digits
from lightning_gap.recipes.catalogue import bundled
from lightning_gap.recipes.runner.cli import main

PROGRAM = Path(sys.executable).with_name("lightning-gap")
QUICK = ["--epochs", "2", "--small_batch_size", "160", "--epsilon", "[1e-3]", "--width", "16", "--depth", "1"]


def command(*args, cwd=None):
    return subprocess.run(
        list(map(str, args)),
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=230,
        env=os.environ | {"COLUMNS": "80"},
    )


def outcome(folder, regime="small"):
    return json.loads((folder / f"runs/{regime}/trial-1/outcome.json").read_text())


@pytest.mark.slow
def test_two_processes_are_one_run_with_one_folder_and_the_steps_of_one(tmp_path):
    run = ["run", "f1", "--regime", "small", *QUICK]
    assert main([*run, "--output", str(tmp_path / "1")]) == 0
    several = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    both = command(PROGRAM, *run, *several, cwd=tmp_path)  # and a folder that the first process chooses
    assert both.returncode == 0, both.stderr
    (folder,) = (tmp_path / "results").iterdir()
    first, second = outcome(tmp_path / "1"), outcome(folder)
    assert (first["steps"], first["batch_size"]) == (second["steps"], second["batch_size"]) == (16, 160)
    assert both.stdout.count("small: 16 steps") == 1
    assert "warning" not in both.stderr
    assert "2 processes" in " ".join(both.stdout.split())
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"] == {"devices": 2, "strategy": "ddp"}
    assert sorted(path.name for path in (folder / "tensorboard").iterdir()) == ["comparison", "small"]
    events = b"".join(path.read_bytes() for path in (folder / "tensorboard" / "small").rglob("*tfevents*"))
    assert events.count(b"custom_scalars__config__") == 1  # the layout of charts, by one of the two


def test_processes_that_are_started_from_outside_need_a_folder_to_share(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "f1", "--regime", "small", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]) == 2
    assert "output must be given where 2 processes are started from outside" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        (["--trainer.max_epochs", "3"], 3 * 8),
        (["--trainer.max_steps", "5"], 5),
        (["--trainer.accumulate_grad_batches", "4"], 2 * 8),
        (["--trainer.limit_train_batches", "3"], 2 * 3),
        (["--trainer.num_sanity_val_steps", "-1"], 2 * 8),
        (["--trainer.precision", "bf16-mixed"], 2 * 8),
        (["--trainer.precision", "64-true"], 2 * 8),
        (["--trainer.fast_dev_run", "true"], 1),
        (["--trainer.logger", "false"], 2 * 8),
        (["--trainer.enable_checkpointing", "false"], 2 * 8),
    ],
)
def test_any_argument_of_the_trainer_is_an_option(arguments, steps, tmp_path):
    quick = [*QUICK[2:], *([] if "max_epochs" in arguments[0] else QUICK[:2])]
    assert main(["run", "f1", "--regime", "small", *quick, *arguments, "--output", str(tmp_path / "run")]) == 0
    found = outcome(tmp_path / "run")
    assert found["steps"] == steps
    assert 0 <= found["test_accuracy"] <= 1
    assert found["sharpness"]["1e-3"] >= 0


def test_a_callback_of_lightnings_joins_by_its_class_path(tmp_path):
    early = "[{class_path: EarlyStopping, init_args: {monitor: train/loss, stopping_threshold: 100}}]"
    arguments = ["--trainer.callbacks", early, "--output", str(tmp_path / "run")]
    assert main(["run", "f1", "--regime", "large", *QUICK, *arguments]) == 0
    assert outcome(tmp_path / "run", "large")["epochs"] == 1  # any loss is below a hundred
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["trainer"]["callbacks"][0]["init_args"]["stopping_threshold"] == 100


def test_the_same_settings_resume_and_other_arguments_of_the_trainer_do_not(tmp_path, capsys):
    run = ["run", "f1", "--regime", "small", *QUICK, "--output", str(tmp_path / "run")]
    assert main([*run, "--trainer.precision", "bf16-mixed"]) == 0
    assert main([*run, "--trainer.precision", "bf16-mixed", "--resume", "--trainer.accelerator", "cpu"]) == 0
    assert "kept from before" in capsys.readouterr().out
    assert main([*run, "--resume"]) == 2
    assert "trainer.precision is 'bf16-mixed' there and None here" in capsys.readouterr().err


def test_damaged_files_of_a_run_are_named_before_it_goes_on(tmp_path, capsys):
    run = ["run", "f1", "--regime", "small", *QUICK, "--output", str(tmp_path / "run")]
    assert main(run) == 0
    folder = tmp_path / "run/runs/small/trial-1"
    found = json.loads((folder / "outcome.json").read_text())
    (folder / "outcome.json").write_text(json.dumps(found | {"loss_of_another_version": 1.0}))
    assert main([*run, "--resume"]) == 2
    error = capsys.readouterr().err
    assert "outcome.json' cannot be read as the result of a run by this version" in error
    assert len(error.splitlines()) == 1
    (folder / "outcome.json").unlink()
    (folder / "epoch=0.ckpt").write_bytes((folder / "weights.pt").read_bytes()[:1000])
    assert main([*run, "--resume"]) == 2
    error = capsys.readouterr().err
    assert "epoch=0.ckpt' cannot be read" in error
    assert "there is no other; delete it to train that run from the beginning" in error
    assert len(error.splitlines()) == 1
    (folder / "epoch=0.ckpt").unlink()
    assert main([*run, "--resume"]) == 0
    again = json.loads((folder / "outcome.json").read_text())
    ignored = {"seconds": 0, "sha256": ""}
    assert again | ignored == found | ignored


@pytest.mark.parametrize(
    "name", [name if name == "f1" else pytest.param(name, marks=pytest.mark.slow) for name in bundled()]
)
def test_a_copied_recipe_is_a_file_that_tells_its_table_its_cost_and_the_papers_numbers(
    name, tmp_path, monkeypatch, capsys
):
    assert main(["copy", name, str(tmp_path / "new")]) == 0
    file = tmp_path / "new" / f"{name.replace('-', '_')}.py"
    assert f"written: {file}" in capsys.readouterr().out
    text = file.read_text()
    header = text.split('"""')[1]
    assert any(kind in header for kind in ("Table", "figure"))
    assert "et al. (20" in header or "et al. 20" in header
    assert "The paper" in header or "Hoffer et al., SGD" in header
    assert "Cost" in header
    assert " s on " in header or " h on " in header or "min on " in header
    monkeypatch.setattr(sys, "argv", [str(file)])
    with pytest.raises(SystemExit) as left:
        run_path(str(file), run_name="__main__")
    assert left.value.code == 0
    assert "compare" in capsys.readouterr().out


def test_a_copied_recipe_runs_as_it_was_edited_and_is_never_overwritten(tmp_path, capsys):
    assert main(["copy", "f1", str(tmp_path)]) == 0
    file = tmp_path / "f1.py"
    text = file.read_text()
    assert text.count('"small_batch_size": 32') == 1
    file.write_text(text.replace('"small_batch_size": 32', '"small_batch_size": 640'))
    edited = ["--epochs", "1", "--width", "16", "--depth", "1", "--epsilon", "[1e-3]"]
    done = command(sys.executable, file, "run", "--regime", "small", *edited, "--output", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "mine")["steps"] == 2
    assert main(["run", str(file), "--regime", "small", *edited, "--output", str(tmp_path / "again")]) == 0
    assert outcome(tmp_path / "again")["test_accuracy"] == outcome(tmp_path / "mine")["test_accuracy"]
    assert main(["copy", "f1", str(tmp_path)]) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert '"small_batch_size": 640' in file.read_text()


@pytest.mark.promise("disk")
def test_a_copy_that_finds_the_disk_full_leaves_no_half_file_in_its_own_way(tmp_path, full_disk, capsys):
    with full_disk(100):
        assert main(["copy", "f1", str(tmp_path)]) == 2
    assert f"{str(tmp_path / 'f1.py')!r} cannot be written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["copy", "f1", str(tmp_path)]) == 0


def test_a_stand_in_is_named_wherever_its_numbers_are(tmp_path, capsys):
    few = ["--epochs", "1", "--width", "8", "--depth", "1", "--epsilon", "[1e-3]"]
    arguments = ["--data", "timit-stand-in", *few, "--sharpness_samples", "100", "--output", str(tmp_path / "run")]
    assert main(["run", "f2", "--regime", "large", *arguments]) == 0
    for text in (capsys.readouterr().out, (tmp_path / "run/table.md").read_text()):
        assert "timit-stand-in" in text
        assert "stand" in text.replace("timit-stand-in", "")
    assert "timit-stand-in" in (tmp_path / "run/config.yaml").read_text()


@pytest.mark.parametrize("mode", ["running", "batch", "recomputed"])
def test_accuracies_are_evaluated_with_the_statistics_that_are_asked_for(mode, tmp_path, capsys):
    arguments = ["--batch_norm", mode, "--learning_rate", "0.1", "--output", str(tmp_path / mode)]
    assert main(["run", "f1", "--regime", "large", *QUICK, *arguments]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"batch_norm {mode}" in printed
    # By hand, from the weights that were kept.
    recipe = F1.on("digits", "large", width=16, depth=1)
    network, data = recipe.network, Digits(recipe)
    data.setup()
    network.load_state_dict(torch.load(tmp_path / mode / "runs/large/trial-1/weights.pt", weights_only=True))
    test, targets = next(data.evaluation("test", 5000))
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm1d)]
    network.eval()
    if mode == "recomputed":
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            network(next(data.evaluation("train", 5000))[0])  # all in one batch
        network.eval()
    elif mode == "batch":
        for norm in norms:
            norm.train()
    with torch.no_grad():
        accuracy = float((network(test).argmax(1) == targets).float().mean())
    assert outcome(tmp_path / mode, "large")["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
