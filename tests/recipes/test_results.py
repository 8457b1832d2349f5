"""What a comparison's folder says of it: the terms below the table, and the settings that a run is resumed with."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
import torch
import yaml

from lightning_gap.recipes import F1
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.notes import table_notes
from lightning_gap.recipes.runner.plan import make_plan
from lightning_gap.recipes.runner.results_folder import claim_folder
from lightning_gap.recipes.runner.run_result import RunResult
from lightning_gap.recipes.runner.settings import Settings

QUICK = ["--epochs", "1", "--small_batch_size", "320", "--epsilon", "[1e-3]", "--width", "8"]


def settings(*regimes, changed=None, **others):
    hyperparameters = dict(F1.on("digits", width=8, depth=2, **(changed or {})).hparams)
    del hyperparameters["regime"]
    return Settings("f1", regimes, "digits", hyperparameters=hyperparameters, **others)


# The notes below the table


def notes(*regimes, **others):
    return table_notes(make_plan(settings(*regimes, **others)))


def test_notes_tell_what_each_regime_changes_and_the_arguments_of_its_callbacks():
    found = notes("small", "large", "linear-lr", "ghost-lr", "goyal", "longer", "augmented", "piggyback")
    for clause in (
        "linear-lr: LearningRateScaling(base_batch_size 32",
        "ghost-lr: gradient_clip 5, GhostBatchNormSwap(ghost_batch_size 32), LearningRateScaling(",
        "longer: epochs 600; ",
        "augmented: augmentation affine; ",
        "piggyback: PiggybackWarmStart(switch_epoch 6, large_batch_size 640",
    ):
        assert clause in found
    assert "batch_norm recomputed" in found.partition("goyal: ")[2]
    for nothing in ("small:", "large:", "none", "None", "zero_last_gammas"):
        assert nothing not in found


def test_notes_tell_no_hyperparameter_that_no_regime_uses():
    found = notes("small", "large")
    assert "batch_norm running" in found
    for unused in ("gradient_clip", "ghost_batch_size", "warmup_epochs"):
        assert unused not in found


def test_notes_tell_the_users_arguments_of_the_trainer():
    assert "Trainer: gradient_clip_val 1.5; " in notes("sqrt-lr", trainer={"gradient_clip_val": 1.5})


def test_notes_tell_samples_seeds_device_and_threads():
    found = notes("small", trials=2, seed=4)
    assert "1,280 training, 157 validation (drawn with seed 0) and 360 test samples." in found
    assert "seeds 4, 5, " in found
    assert ", 1 thread. " in found
    without = notes("small", changed={"validation_size": 0}, trainer={"accelerator": "cpu"})
    assert "1,437 training, no validation and 360 test samples." in without
    assert "on cpu, 1 thread. " in without


# The settings of a folder


def test_of_two_that_claim_a_folder_at_once_one_is_refused(tmp_path, monkeypatch):
    plan = make_plan(settings("small", output=tmp_path / "run"))
    link, refused = os.link, []

    def slow(source, target):  # the other comes in between the look and the claim
        monkeypatch.setattr(os, "link", link)
        claim_folder(plan)
        first = config(tmp_path / "run")
        try:
            link(source, target)
        finally:
            assert config(tmp_path / "run") == first
            refused.append(True)

    monkeypatch.setattr(os, "link", slow)
    with pytest.raises(FileExistsError, match="is not empty and nothing in it is overwritten"):
        claim_folder(plan)
    assert refused
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_folders_that_no_one_named_never_meet():
    first, second = (make_plan(settings("small")).output for _ in range(2))
    assert first.parent == second.parent == Path("results")
    assert first.name.startswith("f1-digits-")
    assert first != second


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "mine")
    with pytest.raises(NotADirectoryError, match="is a link; choose another --output"):
        claim_folder(make_plan(settings("small", output=tmp_path / "run")))
    plan = make_plan(settings("small", output=tmp_path / "other"))
    claim_folder(plan)
    (tmp_path / "other" / "runs").symlink_to(tmp_path / "mine")
    with pytest.raises(NotADirectoryError, match="has a link, 'runs', through which nothing is written"):
        claim_folder(dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, resume=True)))
    assert not list((tmp_path / "mine").iterdir())


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_a_run_that_goes_on_with_fewer_regimes_keeps_the_others_in_the_settings(tmp_path):
    asked = settings("small", "large", trials=2, output=tmp_path / "run")
    claim_folder(make_plan(asked))
    first = config(tmp_path / "run")
    again = dataclasses.replace(asked, resume=True)
    claim_folder(make_plan(dataclasses.replace(again, regimes=("ghost", "small"), trials=1)))
    assert config(tmp_path / "run") == first | {"regimes": ["small", "large", "ghost"]}
    claim_folder(make_plan(dataclasses.replace(again, regimes=("large",), trials=3)))
    assert config(tmp_path / "run") == first | {"regimes": ["small", "large", "ghost"], "trials": 3}
    assert config(tmp_path / "run")["resume"] is False


def test_settings_that_a_kill_cuts_short_are_not_there_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    asked = settings("small", output=folder)

    def half(*given, **options):
        raise KeyboardInterrupt

    def killed(plan):
        with monkeypatch.context() as patched:
            patched.setattr(yaml, "safe_dump", half)
            with pytest.raises(KeyboardInterrupt):
                claim_folder(plan)

    killed(make_plan(asked))
    assert not (folder / "config.yaml").exists()
    claim_folder(make_plan(asked))  # nothing is lost: the folder is as good as new
    assert (folder / "config.yaml").exists()
    whole = config(folder)
    killed(make_plan(dataclasses.replace(asked, regimes=("large",), resume=True)))
    assert config(folder) == whole


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"- small\n- large\n",
        b"epochs: [1,\n",
        b"a: b: c\n\td",
        b"\xff\xfe\x00",
        b"regimes: small\n",
        b"null\n",
        b"regimes: [{a: 1}]\ntrials: 1\ntrainer: {}\n",
    ],
)
def test_settings_that_cannot_be_read_are_named_in_one_line(text, tmp_path, capsys):
    (tmp_path / "config.yaml").write_bytes(text)
    assert main(["run", "f1", "--regime", "small", *QUICK, "--output", str(tmp_path), "--resume"]) == 2
    error = capsys.readouterr().err
    assert f"'{tmp_path / 'config.yaml'}' cannot be read as the settings of a run; choose a new --output" in error
    assert len(error.strip().splitlines()) == 1
    assert (tmp_path / "config.yaml").read_bytes() == text


def altered(**values):
    """An outcome as `save` writes it, with some of it altered by hand."""
    numbers = {field.name: 1 for field in dataclasses.fields(RunResult) if field.type == "int"}
    numbers |= {field.name: 0.5 for field in dataclasses.fields(RunResult) if field.type == "float"}
    return json.dumps(numbers | {"sharpness": {"1e-3": 2.5}, "sharpness_batch": {"1e-3": float("nan")}} | values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"test_accuracy": "x"}, "test_accuracy must be numbers, got 'x'"),
        ({"test_accuracy": None}, "test_accuracy must be numbers, got None"),
        ({"distance": True}, "distance must be numbers, got True"),
        ({"seconds": [1.0]}, "seconds must be numbers, got"),
        ({"steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"sharpness": {"5e-4": 2.5}}, "sharpness must be percent for epsilon 1e-3, got {'5e-4': 2.5}"),
        ({"sharpness": {"1e-3": 1.0, "5e-4": 2.5}}, "sharpness must be percent for epsilon 1e-3"),
        ({"sharpness_batch": 3.0}, "sharpness_batch must be percent for epsilon 1e-3, got 3.0"),
        ({"sharpness_batch": {"1e-3": "flat"}}, "sharpness_batch must be numbers, got {'1e-3': 'flat'}"),
    ],
)
def test_a_result_that_was_altered_by_hand_is_named_in_one_line(values, reason, tmp_path):
    file = tmp_path / "outcome.json"
    file.write_text(altered())
    assert RunResult.load(file, [1e-3]).sharpness == {"1e-3": 2.5}
    file.write_text(altered(**values))
    with pytest.raises(ValueError, match=re.escape(reason)) as error:
        RunResult.load(file, [1e-3])
    assert f"{str(file)!r} cannot be read as the result of a run" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_a_finished_run_that_cannot_be_read_are_named_before_any_run_goes_on(tmp_path, capsys):
    run = ["run", "f1", "--regime", "small", *QUICK, "--output", str(tmp_path)]
    assert main(run) == 0
    folder = tmp_path / "runs/small/trial-1"
    weights = (folder / "weights.pt").read_bytes()
    found = json.loads((folder / "outcome.json").read_text())
    for damaged in (None, b"", b"no weights", weights[: len(weights) // 2]):
        (folder / "weights.pt").unlink()
        if damaged is not None:
            (folder / "weights.pt").write_bytes(damaged)
        capsys.readouterr()
        assert main([*run, "--resume"]) == 2
        error = capsys.readouterr().err
        assert f"'{folder / 'weights.pt'}' cannot be read" in error
        assert f"delete '{folder / 'outcome.json'}' to train that run again" in error
        assert len(error.strip().splitlines()) == 1
        (folder / "weights.pt").touch()
    (folder / "outcome.json").write_text(altered(sharpness={"5e-4": 1.0}))
    assert main([*run, "--resume"]) == 2
    assert f"'{folder / 'outcome.json'}' cannot be read" in capsys.readouterr().err
    (folder / "outcome.json").unlink()  # as it says
    assert main([*run, "--resume"]) == 0
    assert json.loads((folder / "outcome.json").read_text()) | {"seconds": 0} == found | {"seconds": 0}
    assert all(map(torch.is_tensor, torch.load(folder / "weights.pt", weights_only=True).values()))
