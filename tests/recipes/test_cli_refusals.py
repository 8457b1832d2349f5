"""What the command refuses in one line before anything is trained, and what it warns of."""

import json
import warnings

import pytest

from lightning_gap.recipes import MNIST, Digits
from lightning_gap.recipes.runner.cli import main

TINY = ["--width", "8", "--depth", "1", "--epsilon", "[1e-3]"]
MONITOR = "[{class_path: lightning_gap.SharpnessMonitor}]"
SCALING = "[{class_path: lightning_gap.LearningRateScaling, init_args: {base_batch_size: 64}}]"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["small", "--trainer.callbacks", MONITOR], "has a SharpnessMonitor, and the regime 'small' brings its own"),
        (["linear-lr", "--trainer.callbacks", SCALING], "has a LearningRateScaling, and the regime 'linear-lr'"),
        (["small", "--trainer.overfit_batches", "1"], "trainer.overfit_batches takes stock DataLoaders only"),
        (["small", "--trainer.precision", "bf16-true"], "trainer.precision='bf16-true' keeps the weights in half"),
        (["small", "--trainer.precision", "bf17"], "trainer.precision='bf17' cannot be used here"),
        (["small", "--trainer.limit_val_batches", "0"], "limit_val_batches=0 leaves the 157 validation samples unused"),
        (
            ["small", "--validation_size", "1", "--trainer.devices", "2", "--small_batch_size", "718"],
            "validation_size=1 is less than a sample for each of 2 processes; use 0 or more",
        ),
        (["ghost", "--ghost_batch_size", "1"], "ghost_batch_size=1 must be from 2 to the 640 samples"),
        (["ghost", "--trainer.accumulate_grad_batches", "40"], "ghost_batch_size=32 must be from 2 to the 16 samples"),
        (["small", "--learning_rate", "9" * 400], "number is too large"),
        (["small", "--learning_rate_steps", "{1.5: 0.1}"], "learning_rate_steps must begin at whole epochs, got 1.5"),
        (["small", "--learning_rate_steps", "{.inf: 1}"], "learning_rate_steps must begin at whole epochs, got inf"),
        (["small", "--learning_rate_steps", "{-.inf: 1}"], "learning_rate_steps must begin at whole epochs, got -inf"),
        (["small", "--learning_rate_steps", "{.nan: 1}"], "learning_rate_steps must begin at whole epochs, got nan"),
        (["small", "--learning_rate_steps", "{x: 1}"], "learning_rate_steps must begin at whole epochs, got 'x'"),
        (["small", "--learning_rate_steps", "{null: 1}"], "learning_rate_steps must begin at whole epochs, got None"),
        (["small", "--learning_rate_steps", "{true: 1}"], "learning_rate_steps must begin at whole epochs, got True"),
        (["small", "--output", "/dev/null"], "output='/dev/null' is no folder; choose another --output"),
        (["small", "--output", "/dev/null", "--resume"], "output='/dev/null' is no folder; choose another --output"),
        (["small", "--trainer.accelerator", "gpu"], "trainer.accelerator='gpu' cannot be used here"),
        (
            ["small", "--trainer.val_check_interval", "100"],
            "small: `val_check_interval` (100) must be less",
        ),
    ],
)
@pytest.mark.bad_input(64)
def test_it_is_one_line_and_nothing_is_left(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["run", "f1", "--regime", args[0], "--epochs", "2", *TINY, *args[1:]]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_run_of_no_regime_is_told_the_option(capsys):
    with pytest.raises(SystemExit) as left:
        main(["run", "f1"])
    assert left.value.code == 2
    assert "error: --regime is required, for instance --regime small" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "key"),
    [
        (["run", "f1", "--regime", "small", "--epochs", "ten"], "epochs"),
        (["run", "f1", "--regime", "small", "--epsilon", "1e-3"], "epsilon"),
        (["run", "f1", "--regime", "small", "--momentum", "much"], "momentum"),
        (["run", "f1", "--regime", "small", "--learning_rate_steps", "soon"], "learning_rate_steps"),
        (["run", "f1", "--regime", "small", "--standardise", "maybe"], "standardise"),
        (["run", "f1", "--regime", "small", "--no_such_number", "1"], "no_such_number"),
        (["run", "f1", "--regime", "small", "--widht", "8"], "--widht=8; did you mean --width"),
        (["run", "f1"], "regime"),
        (["train", "f1"], "train"),
    ],
)
@pytest.mark.bad_input(62)
def test_what_cannot_be_read_is_one_line_too(args, key, capsys):
    with pytest.raises(SystemExit) as status:
        main(args)
    assert status.value.code == 2
    error = capsys.readouterr().err
    assert key in error
    assert error.startswith("lightning-gap")
    assert len(error.strip().splitlines()) == 1


def test_a_warning_of_ours_is_a_line_and_lightnings_advice_is_not(tmp_path, capsys):
    arguments = ["run", "f1", "--regime", "linear-lr", "--epochs", "2", *TINY, "--output", str(tmp_path / "run")]
    before = list(warnings.filters)
    assert main(arguments) == 0
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("warning: warmup_epochs=5 is longer than the run, max_epochs=2")
    assert warnings.filters == before


def test_download_is_a_flag_that_reaches_the_data_set(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(MNIST, "fetch", lambda self: asked.append(self.download))
    monkeypatch.setattr(MNIST, "read", Digits.read)
    sizes = ["--inputs", "64", "--large_batch_size", "700", "--small_batch_size", "479"]
    run = ["run", "f1", "--regime", "small", "--data", "mnist", "--epochs", "1", *sizes, *TINY]
    assert main([*run, "--output", str(tmp_path / "1")]) == 0
    assert asked == []
    assert main([*run, "--download", "--output", str(tmp_path / "2")]) == 0
    assert set(asked) == {True}


@pytest.mark.parametrize(("steps", "last"), [(30, 32), (45, 64), (10_000, 640)])
def test_the_batch_at_the_end_is_that_of_the_end(steps, last, tmp_path):
    arguments = ["--epochs", "6", "--trainer.max_steps", str(steps), *TINY, "--output", str(tmp_path / "run")]
    assert main(["run", "f1", "--regime", "growing", *arguments]) == 0
    outcome = json.loads((tmp_path / "run/runs/growing/trial-1/outcome.json").read_text())
    assert (outcome["batch_size"], outcome["last_batch_size"]) == (32, last)
