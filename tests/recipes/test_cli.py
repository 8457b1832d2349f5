"""The command as a user runs it: real processes, real files, TensorBoard's own reader."""

import csv
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gap.recipes import F1, REGIMES
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.plan import make_plan
from lightning_gap.recipes.runner.settings import Settings


def on_digits(**changed):
    """Every hyperparameter of F1 on digits."""
    found = dict(F1.on("digits", **changed).hparams)
    del found["regime"]
    return found


TINY = ["--width", "8", "--depth", "1"]
QUICK = ["--epochs", "2", "--small_batch_size", "256", *TINY]
COMPARE = ["compare", "f1", "small", "large", "linear-lr", "ghost", *QUICK, "--trials", "2"]


PROGRAM = Path(sys.executable).with_name("lightning-gap")
ENVIRONMENT = os.environ | {"COLUMNS": "80"}


def command(*args):
    return subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, check=False, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "all regimes"  # a name that a shell would split
    return folder, command(*COMPARE, "--output", folder)


def test_compare_writes_table_config_figure_and_logs(compared):
    folder, done = compared
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "config.yaml",
        "table.csv",
        "table.md",
        "parametric.png",
        "runs",
        "tensorboard",
    }
    assert (folder / "parametric.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_a_row_for_each_regime_with_the_documented_columns(compared):
    folder, done = compared
    with (folder / "table.csv").open() as file:
        rows = {row["regime"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["small", "large", "linear-lr", "ghost"]
    assert [rows[name]["batch_size"] for name in rows] == ["256", "640", "640", "640"]
    assert [rows[name]["steps"] for name in rows] == ["10", "4", "4", "4"]  # 2 epochs of 1280 samples
    for name, row in rows.items():
        numbers = [value for key, value in row.items() if key not in ("regime", "gap_interval", "recovered")]
        assert all(math.isfinite(float(value)) for value in numbers), name
        outcomes = [json.loads((folder / f"runs/{name}/trial-{k}/outcome.json").read_text()) for k in (1, 2)]
        mean = 100 * sum(outcome["test_accuracy"] for outcome in outcomes) / 2
        assert float(row["test_accuracy"]) == pytest.approx(mean)
        gap = float(rows["small"]["test_accuracy"]) - float(row["test_accuracy"])
        assert float(row["gap_to_small"]) == pytest.approx(gap, abs=1e-9)
    for text in (done.stdout, (folder / "table.md").read_text()):
        for title in (
            "steps",
            "test accuracy %",
            "gap to small",
            "95 % interval",
            "sharpness 1e-3",
            "sharpness 5e-4",
            "seconds",
        ):
            assert title in text
        assert "seeds 0, 1" in text.replace("\n", " ")


@pytest.fixture(scope="module")
def over_time(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "over time"
    regimes = ["small", "growing", "piggyback", "longer"]
    settings = ["--epochs", "3", "--small_batch_size", "160", "--epsilon", "[1e-3]", *TINY]
    assert main(["compare", "f1", *regimes, *settings, "--output", str(folder)]) == 0
    return folder


def test_the_table_tells_how_long_and_in_which_batches_each_regime_trained(over_time):
    with (over_time / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    told = [[row[key] for key in ("regime", "batch_size", "last_batch_size", "epochs", "steps")] for row in rows]
    assert told == [
        ["small", "160", "160", "3", "24"],
        ["growing", "160", "640", "3", "14"],
        ["piggyback", "160", "640", "3", "12"],
        ["longer", "640", "640", "12", "24"],
    ]
    text = " ".join((over_time / "table.md").read_text().split())
    for note in ("epochs 3, ", "optimizer sgd", "growing: BatchSizeScheduler(", "longer: epochs 12; "):
        assert note in text


@pytest.mark.parametrize(
    ("regime", "epochs", "sizes"),
    [
        ("growing", [1, 2, 3], [160] * 8 + [320] * 4 + [640] * 2),
        ("piggyback", [1, 2, 3], [160] * 8 + [640] * 4),
        ("longer", [4, 8, 12], [640] * 24),
    ],
)
def test_the_logs_tell_the_batch_of_every_step_and_a_longer_run_is_measured_as_often(over_time, regime, epochs, sizes):
    events = EventAccumulator(str(over_time / "tensorboard" / regime / "trial-1")).Reload()
    tags = events.Tags()["scalars"]
    logged = {event.step: event.value for event in events.Scalars("batch/size")}
    assert logged == {step: sizes[step] for step in logged}
    assert {step for step, size in enumerate(sizes) if size != sizes[max(0, step - 1)]} | {0} <= logged.keys()
    assert ("piggyback/switched" in tags) == (regime == "piggyback")
    for tag in ("sharpness/full_eps1e-3", "weights/distance_from_init", "gap/accuracy"):
        assert [event.step for event in events.Scalars(tag)] == epochs
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, epochs[-1] + 1))


def test_each_regime_and_trial_is_a_tensorboard_run_with_the_monitors_tags(compared):
    folder, _ = compared
    for regime in ("small", "large", "linear-lr", "ghost"):
        for trial in ("trial-1", "trial-2"):
            events = EventAccumulator(str(folder / "tensorboard" / regime / trial)).Reload()
            tags = set(events.Tags()["scalars"])
            assert {"sharpness/full_eps1e-3", "sharpness/full_eps5e-4", "weights/distance_from_init"} <= tags
            assert {"gap/accuracy", "gap/loss", "train/loss", "validation/accuracy"} <= tags
            assert {"lr/effective", "batch/size"} <= tags
            assert ("lr/scale" in tags) == (regime == "linear-lr")
            assert ("ghost/layers" in tags) == (regime == "ghost")
            assert [event.step for event in events.Scalars("sharpness/full_eps1e-3")] == [1, 2]  # epochs, for all
    events = EventAccumulator(str(folder / "tensorboard" / "comparison")).Reload()
    assert events.Tags()["images"] == ["comparison/parametric"]
    texts = {f"comparison/{name}/text_summary" for name in ("look_at_first", "table", "terms")}
    assert set(events.Tags()["tensors"]) == texts | {"custom_scalars__config__"}


def test_regimes_of_a_trial_start_from_the_same_weights_and_trials_do_not():
    plan = make_plan(Settings("f1", ("small", "large"), "digits", hyperparameters=on_digits()))
    first, again, other = (plan.recipe(*run).state_dict() for run in (("small", 0), ("large", 0), ("small", 1)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["network.layers.1.weight"], other["network.layers.1.weight"])


def test_the_resolved_configuration_is_complete(compared):
    folder, _ = compared
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["regimes"] == ["small", "large", "linear-lr", "ghost"]
    assert (config["learning_rate"], config["large_batch_size"], config["epochs"]) == (0.05, 640, 2)
    unset = {"num_workers", "momentum", "learning_rate_steps", "threads", "measure_every_n_epochs"}
    assert {name for name, value in config.items() if value is None} == unset


def test_the_printed_command_opens_the_logs(compared):
    folder, done = compared
    line = next(line for line in done.stdout.splitlines() if "--logdir" in line)
    assert f"--logdir '{folder}/tensorboard'" in line
    shown = subprocess.run(f"{line} --inspect", shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "small" in shown.stdout


@pytest.mark.bad_input(66)
def test_nothing_is_overwritten_and_resume_keeps_what_is_done(compared, capsys):
    folder, _ = compared
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*")}
    arguments = [*COMPARE, "--output", str(folder)]
    assert main(arguments) == 2
    assert "is not empty and nothing in it is overwritten; resume that run by --resume" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--learning_rate", "0.01"]) == 2
    assert "learning_rate is 0.05 there and 0.01 here" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert capsys.readouterr().out.count("kept from before") == 8
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*")} == before


@pytest.mark.slow  # a stopped `reproduce` is resumed by the same code
def test_a_killed_comparison_resumes_to_the_same_numbers(tmp_path):
    often = ["--epochs", "12", "--small_batch_size", "64", "--measure_every_n_epochs", "6", "--width", "64"]
    arguments = ["compare", "f1", "small", *often]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run = cut / "runs/small/trial-1"
    process = subprocess.Popen([PROGRAM, *arguments, "--output", cut], stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    while process.poll() is None and not list(run.glob("epoch=[3-9].ckpt")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (run / "outcome.json").exists()
    assert main([*arguments, "--output", str(cut), "--resume"]) == 0
    assert main([*arguments, "--output", str(whole)]) == 0
    outcomes = [json.loads((folder / "runs/small/trial-1/outcome.json").read_text()) for folder in (whole, cut)]
    for outcome in outcomes:
        del outcome["seconds"]
    assert outcomes[0] == outcomes[1]
    weights = [torch.load(folder / "runs/small/trial-1/weights.pt") for folder in (whole, cut)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not list(run.glob("*.ckpt"))


def test_run_trains_one_regime(tmp_path):
    assert main(["run", "f1", "--regime", "large", "--epochs", "1", *TINY, "--output", str(tmp_path / "one")]) == 0
    assert not (tmp_path / "one" / "parametric.png").exists()
    assert (tmp_path / "one" / "table.md").exists()


def test_list_names_every_recipe_data_set_and_regime(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in ("f1", "digits", "mnist", *REGIMES):
        assert f"\n  {name} " in printed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["compare", "f3", "small"], "unknown recipe 'f3'; did you mean 'f2' or 'f1'"),
        (["compare", "f1", "smal"], "unknown regime 'smal'; did you mean 'small' or"),
        (["compare", "f1", "small", "--data", "minst"], "unknown data set 'minst'; did you mean 'mnist'"),
        (["compare", "f1", "small", "small"], "regimes must name each regime once, got small 2 times"),
        (["compare", "f1", "small", "--trials", "0"], "trials must be at least 1, got 0"),
        (["compare", "f1", "small", "--epochs", "0"], "epochs must be at least 1, got 0"),
        (
            ["compare", "f1", "small", "--epsilon", "[0.001,0]"],
            "epsilon must be different positive numbers, got [0.001, 0.0]",
        ),
        (["compare", "f1", "small", "--epsilon", "[-1]"], "epsilon must be different positive numbers"),
        (["compare", "f1", "ghost", "--ghost_batch_size", "0"], "ghost_batch_size must be at least 1, got 0"),
        (["compare", "f1", "ghost", "--ghost_batch_size", "641"], "ghost_batch_size=641 is larger than the batch"),
        (["compare", "f1", "large", "--small_batch_size", "0"], "small_batch_size must be at least 1, got 0"),
        (["compare", "f1", "small", "--epsilon", "[0.001,0.001]"], "epsilon must be different positive numbers"),
        (["compare", "f1", "small", "--epsilon", "[.inf]"], "epsilon must be different positive numbers"),
        (["compare", "f1", "small", "--seed", "-1"], "seed must be from 0 to 2147483647, got -1"),
        (["compare", "f1", "linear-lr", "--warmup_epochs", ".inf"], "warmup_epochs must not be negative or infinite"),
        (["compare", "f1", "small", "--trainer.accelerator", "tpu"], "trainer.accelerator='tpu'"),
        (
            ["compare", "f1", "small", "--trainer.device", "2"],
            "unknown argument of the Trainer 'device'; did you mean 'devices'",
        ),
        (["compare", "f1", "small", "--trainer.devices", "-7"], "trainer.devices=-7"),
        (["compare", "f1", "small", "--trainer.max_steps", "many"], "max_steps"),
        (["compare", "f1", "small", "--trainer.max_epochs", "0"], "epochs must be at least 1, got 0"),
        (["compare", "f1", "small", "--trainer.barebones", "true"], "trainer.barebones=True leaves out loggers"),
        (
            ["compare", "f1", "small", "--trainer.max_epochs", "3", "--epochs", "4"],
            "epochs=4 and trainer.max_epochs=3 contradict",
        ),
        (
            ["compare", "f1", "large", "--trainer.devices", "3"],
            "a batch of 640 samples cannot be split equally over 3 processes",
        ),
        (
            ["compare", "f1", "large", "--trainer.accumulate_grad_batches", "7"],
            "accumulate_grad_batches=7; use a multiple of 7",
        ),
        (["compare", "f1", "small", "--optimizer", "adm"], "unknown optimizer 'adm'; did you mean 'adam'"),
        (["compare", "f1", "small", "--augmentation", "flip"], "unknown augmentation 'flip'"),
        (
            ["compare", "f1", "small", "--learning_rate_steps", "{0: 0.1}"],
            "learning_rate_steps must be positive factors",
        ),
        (["compare", "f1", "small", "--momentum", "1"], "momentum must be at least 0 and below 1, got 1"),
        (["compare", "f1", "small", "--optimizer", "adam", "--momentum", "0.9"], "adam has no momentum"),
        (["compare", "f1"], "regimes must name at least one regime, got none"),
        (["compare", "f1", "small", "--classes", "9"], "one for each of 10 classes"),
        (["run", "--regime", "small"], "no recipe is named; write lightning-gap run RECIPE"),
        (["run", "--config", "nowhere.yaml"], "config='nowhere.yaml' cannot be read (No such file"),
        (["run", "f1", "--config="], "config: got '', the name of no file or folder"),
        (["run", "f1", "--config", "."], "config='.' cannot be read (Is a directory); name a YAML file"),
        (["run", "f1", "--regime", "small", "--output", ""], "output: got '', the name of no file or folder"),
        (["run", "f1", "--regime", "small", "--data_dir="], "data_dir: got '', the name of no file or folder"),
        (["copy", "f1", ""], "folder: got '', the name of no folder"),
        (["compare", "f1", "small", "--workers", "0"], "workers must be at least 1, got 0"),
        (
            ["compare", "f1", "small", "--workers", "2", "--trainer.devices", "2"],
            "workers=2 trains runs side by side, and trainer.devices asks for 2 processes",
        ),
        (
            ["compare", "f2", "small", "--data", "timit-stand-in", "--augmentation", "affine"],
            "augmentation='affine' is for images",
        ),
        (
            ["compare", "f2", "small", "--data", "timit-stand-in", "--standardise", "true"],
            "standardise=True is for images",
        ),
        (["run", "nowhere.py", "--regime", "small"], "recipe='nowhere.py' is no file"),
        (
            ["compare", "f1", "small", "--small_batch_size", "160", "--validation_size", "156"],
            "batches of 160 leave a last one with a single sample for a process, of 1281 training samples",
        ),
        (["copy", "f3", "."], "unknown recipe 'f3'; did you mean 'f2' or 'f1'"),
        (["compare", "f1", "small", "--seed", "2147483648"], "seed must be from 0 to"),
        (["compare", "f1", "large", "--large_batch_size", "9999"], "batch_size must be from 1 to the 1280 training"),
        (["compare", "f1", "small", "--learning_rate", "-1"], "learning_rate must be positive, got -1"),
        (
            ["compare", "f1", "growing", "--epochs", "5"],
            "batches, 32, 64, 128, 256, 512, 640, got epochs=5; use at least 6",
        ),
        (
            ["compare", "f1", "piggyback", "--epochs", "1"],
            "piggyback needs an epoch for each of its batches, got epochs=1",
        ),
        (["compare", "f1", "growing", "--large_batch_size", "9999"], "batch_size must be from 1 to the 1280 training"),
        (
            ["run", "f1", "--regime", "longer", "--small_batch_size", "640"],
            "longer needs a large_batch_size above small",
        ),
        (["run", "f1", "--regime", "pigyback"], "unknown regime 'pigyback'; did you mean 'piggyback'?"),
        (["run", "f1", "--regime", "gohst"], "unknown regime 'gohst'; did you mean 'ghost'"),
        (
            ["compare", "f1", "small", "--data", "mnist", "--data_dir", "nowhere"],
            "data_dir='nowhere' does not exist: put MNIST/raw/train-images-idx3-ubyte",
        ),
        (["compare", "f1", "small", "--resume"], "resume needs the folder of the run to resume; pass --output"),
    ],
)
@pytest.mark.bad_input(62, 65)
def test_bad_input_is_one_clear_line_and_writes_nothing(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_regime_that_diverges_does_not_lose_the_others(tmp_path, capsys):
    folder = tmp_path / "out"
    arguments = ["large", "small", "--epochs", "1", "--learning_rate", "1e20", "--width", "32", "--output", str(folder)]
    assert main(["compare", "f1", *arguments]) == 0
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["sharpness_1e-3"] for row in rows] == ["nan", "nan"]
    assert "sharpness 1e-3" in capsys.readouterr().out


def test_there_is_nothing_to_resume_in_a_new_folder(tmp_path, capsys):
    assert main(["compare", "f1", "small", "--output", str(tmp_path / "new"), "--resume"]) == 2
    assert "has no config.yaml to resume from; leave out --resume" in capsys.readouterr().err


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["compare", "f1", "small", "--output", str(tmp_path)]) == 2
    assert "nothing in it is overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
