"""What a comparison's folder says of it: the terms below the table, and the settings that a run is resumed with."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from lightning_gap.recipes.catalogue import recipe
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.plan import Settings, make_plan
from lightning_gap.recipes.regimes import REGIMES
from lightning_gap.recipes.runner.results_folder import claim_folder
from lightning_gap.recipes.terms import terms
from lightning_gap.recipes.training import Outcome

TINY = {"width": 8, "depth": 2}
QUICK = ["--epochs", "1", "--small_batch_size", "320", "--epsilon", "[1e-3]", "--width", "8"]


# The terms of the table


def told(*regimes, **settings):
    return terms(make_plan(Settings("f1", regimes, **{"network": TINY, **settings})))


def test_terms_tell_what_each_regime_does_with_its_numbers():
    found = told("small", "large", "linear-lr", "ghost-lr", "goyal", "longer", "augmented")
    for clause in (
        "; linear-lr: rate x 20 (linear from 32) after a warmup of 5 epochs; ",
        "; ghost-lr: ghosts of 32, rate x 4.47 (root, from 32), gradients clipped to norm 5; ",
        "; goyal: rate x 20 (linear from 32) after a warmup of 5 epochs, accuracies with BatchNorm statistics "
        "recomputed over the training samples; ",
        "; longer: epochs stretched 20 times, to 600 epochs; ",
        "; augmented: augmentation affine; ",
    ):
        assert clause in found
    for no_prose in ("decay_all", "zero_last_gammas", "none", "identity", "small:", "large:"):
        assert no_prose not in found


@pytest.mark.parametrize("name", REGIMES)
def test_terms_tell_of_every_regime_in_its_own_words(name):
    plan = make_plan(Settings("f1", (name,), network=TINY))
    words = plan.regime(name).told
    assert f"{name}: {words}" in terms(plan) if words else f"{name}:" not in terms(plan)


def with_network(plan, name):
    """The plan with another recipe's network, whose data set is not here."""
    return dataclasses.replace(plan, recipe=recipe(name), settings=dataclasses.replace(plan.settings, network={}))


@pytest.mark.parametrize(("name", "has"), [("resnet44", True), ("wrn16-4", False), ("f1", False)])
def test_blocks_that_begin_as_the_identity_are_told_of_networks_that_have_such_blocks(name, has):
    identity = "residual blocks begin as the identity"
    plan = with_network(make_plan(Settings("f1", ("small", "goyal"), network=TINY)), name)
    before, _, after = terms(plan).partition("goyal:")
    assert identity not in before
    assert (identity in after) == has
    all_regimes = dataclasses.replace(plan, numbers=dataclasses.replace(plan.numbers, zero_last_gammas=True))
    before, _, after = terms(all_regimes).partition("goyal:")
    assert (identity in before) == has
    assert identity not in after


def test_a_users_clipping_is_told_in_place_of_the_regimes():
    ours = told("sqrt-lr")
    assert "sqrt-lr: rate x 4.47 (root, from 32), gradients clipped to norm 5;" in ours
    users = told("sqrt-lr", trainer={"gradient_clip_val": 1.5})
    assert "sqrt-lr: rate x 4.47 (root, from 32); Trainer's gradient_clip_val=1.5;" in users
    assert "clipped" not in users
    assert "clipped to value 5;" in told("sqrt-lr", trainer={"gradient_clip_algorithm": "value"})


def test_only_the_steps_of_the_rate_that_a_run_reaches_are_told():
    steps = {"learning_rate_steps": {30: 0.001, 20: 0.01, 10: 0.1}}
    assert "adam 0.001, rate times 0.1 from epoch 10, 0.01 from epoch 20;" in told("small", numbers=steps)
    assert "adam 0.001;" in told("small", numbers={**steps, "epochs": 10})


def test_terms_tell_samples_device_and_threads():
    found = told("small")
    assert "1,280 training, 157 validation (drawn with seed 0) and 360 test samples." in found
    kind = make_plan(Settings("f1", ("small",), network=TINY)).device.type
    assert f"on {kind}, 1 thread. " in found
    without = told("small", numbers={"validation_size": 0}, trainer={"accelerator": "cpu"})
    assert "1,437 training and 360 test samples, no validation samples." in without
    assert "drawn with" not in without
    assert "on cpu, 1 thread. " in without


# The settings of a folder


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_a_run_that_goes_on_with_fewer_regimes_keeps_the_others_in_the_settings(tmp_path):
    settings = Settings("f1", ("small", "large"), network=TINY, trials=2, output=tmp_path / "run")
    claim_folder(make_plan(settings))
    first = config(tmp_path / "run")
    again = dataclasses.replace(settings, resume=True)
    claim_folder(make_plan(dataclasses.replace(again, regimes=("ghost", "small"), trials=1)))
    assert config(tmp_path / "run") == first | {"regimes": ["small", "large", "ghost"]}
    claim_folder(make_plan(dataclasses.replace(again, regimes=("large",), trials=3)))
    assert config(tmp_path / "run") == first | {"regimes": ["small", "large", "ghost"], "trials": 3}
    assert config(tmp_path / "run")["resume"] is False


def test_settings_that_a_kill_cuts_short_are_not_there_at_all(tmp_path, monkeypatch):
    folder, write = tmp_path / "run", Path.write_text
    settings = Settings("f1", ("small",), network=TINY, output=folder)

    def half(path, text, **options):
        write(path, text[: len(text) // 2], **options)
        raise KeyboardInterrupt

    def killed(plan):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_text", half)
            with pytest.raises(KeyboardInterrupt):
                claim_folder(plan)

    killed(make_plan(settings))
    assert not (folder / "config.yaml").exists()
    claim_folder(make_plan(settings))  # nothing is lost: the folder is as good as new
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]
    whole = config(folder)
    killed(make_plan(dataclasses.replace(settings, regimes=("large",), resume=True)))
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
    numbers = {field.name: 1 for field in dataclasses.fields(Outcome) if field.type == "int"}
    numbers |= {field.name: 0.5 for field in dataclasses.fields(Outcome) if field.type == "float"}
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
def test_an_outcome_that_was_altered_by_hand_is_named_in_one_line(values, reason, tmp_path):
    file = tmp_path / "outcome.json"
    file.write_text(altered())
    assert Outcome.load(file, [1e-3]).sharpness == {"1e-3": 2.5}
    file.write_text(altered(**values))
    with pytest.raises(ValueError, match=re.escape(reason)) as error:
        Outcome.load(file, [1e-3])
    assert f"{str(file)!r} cannot be read as the outcome of a run" in str(error.value)
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
