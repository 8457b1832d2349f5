"""What a comparison's folder says of it: the terms below the table, and the settings that a run is resumed with."""

import dataclasses
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

from lightning_gap.recipes import F1
from lightning_gap.recipes.runner.notes import table_notes
from lightning_gap.recipes.runner.plan import make_plan
from lightning_gap.recipes.runner.results_folder import claim_folder
from lightning_gap.recipes.runner.run_result import RunResult
from lightning_gap.recipes.runner.settings import Settings


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


class Other:
    """Another process, that claims a folder when it is told to and holds it until it is killed."""

    def __init__(self, plan):
        (here, self.go), (self.told, there) = os.pipe(), os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                os.read(here, 1)
                with claim_folder(plan):
                    os.write(there, b"y")
                    time.sleep(600)
            except OSError as error:
                os.write(there, str(error).encode())
            finally:
                os._exit(0)

    def start(self):
        os.write(self.go, b"g")

    def answer(self):
        return os.read(self.told, 1000).decode()

    def kill(self):
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            self.process = None


@pytest.fixture
def other():
    made = []

    def make(plan):
        made.append(Other(plan))
        return made[-1]

    yield make
    for process in made:
        process.kill()


def resumed(plan, **changed):
    return dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, resume=True, **changed))


def test_of_two_that_claim_a_folder_at_once_one_is_refused(tmp_path, other):
    plan = make_plan(settings("small", output=tmp_path / "run"))
    two = [other(plan), other(plan)]
    for process in two:
        process.start()
    answers = sorted((process.answer() for process in two), key=len)
    assert answers[0] == "y"
    assert f"output={str(tmp_path / 'run')!r}" in answers[1]
    assert "choose a" in answers[1]


def test_while_one_works_in_a_folder_another_is_refused_and_once_it_is_killed_no_more(tmp_path, other):
    plan = make_plan(settings("small", output=tmp_path / "run"))
    process = other(plan)
    process.start()
    assert process.answer() == "y"
    before = config(tmp_path / "run")
    for again, kind in ((plan, FileExistsError), (resumed(plan, trials=2), BlockingIOError)):
        with pytest.raises(kind, match="choose a") as error, claim_folder(again):
            pass
        assert repr(str(tmp_path / "run")) in str(error.value)
        assert "\n" not in str(error.value)
    assert config(tmp_path / "run") == before
    process.kill()
    claim(resumed(plan))


def claim(plan):
    """Claim a folder and let it go."""
    with claim_folder(plan):
        pass


def test_folders_that_no_one_named_never_meet():
    first, second = (make_plan(settings("small")).output for _ in range(2))
    assert first.parent == second.parent == Path("results")
    assert first.name.startswith("f1-digits-")
    assert first != second


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "mine")
    plan = make_plan(settings("small", output=tmp_path / "run"))
    for asked in (plan, resumed(plan)):
        with pytest.raises(NotADirectoryError, match="is a link; choose another --output"):
            claim(asked)
    plan = resumed(plan, output=tmp_path / "other")
    claim(dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, resume=False)))
    (tmp_path / "other" / "runs" / "small").mkdir(parents=True)
    for name in ("runs/small/trial-1", "tensorboard", "table.md", ".lock"):  # to a folder, and to no file
        (tmp_path / "other" / name).unlink(missing_ok=True)
        (tmp_path / "other" / name).symlink_to(tmp_path / "mine" / ("" if "." not in name else "new"))
        with pytest.raises(NotADirectoryError, match=f"has a link, '{name}', through which nothing is written"):
            claim(plan)
        (tmp_path / "other" / name).unlink()
    assert not list((tmp_path / "mine").iterdir())


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_a_run_that_goes_on_with_fewer_regimes_keeps_the_others_in_the_settings(tmp_path):
    plan = make_plan(settings("small", "large", trials=2, output=tmp_path / "run"))
    claim(plan)
    first = config(tmp_path / "run")
    claim(resumed(plan, regimes=("ghost", "small"), trials=1))
    assert config(tmp_path / "run") == first | {"regimes": ["small", "large", "ghost"]}
    claim(resumed(plan, regimes=("large",), trials=3))
    assert config(tmp_path / "run") == first | {"regimes": ["small", "large", "ghost"], "trials": 3}
    assert config(tmp_path / "run")["resume"] is False


def test_settings_that_a_kill_cuts_short_are_not_there_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    plan = make_plan(settings("small", output=folder))

    def half(self, text, **options):
        self.write_bytes(text.encode()[:20])
        raise KeyboardInterrupt

    def killed(plan):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_text", half)
            with pytest.raises(KeyboardInterrupt):
                claim(plan)

    killed(plan)
    assert not (folder / "config.yaml").exists()
    claim(plan)  # nothing is lost: the folder is as good as new
    whole = config(folder)
    killed(resumed(plan, regimes=("large",)))
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
        b"regimes: [small]\ntrials: one\ntrainer: {}\n",
        b"regimes: [small]\ntrials: 1\ntrainer: []\n",
    ],
)
def test_settings_that_cannot_be_read_are_named_in_one_line(text, tmp_path, plan_of_small):
    (tmp_path / "config.yaml").write_bytes(text)
    with pytest.raises(ValueError, match="cannot be read as the settings of a run; choose a new --output") as error:
        claim(resumed(plan_of_small, output=tmp_path))
    assert repr(str(tmp_path / "config.yaml")) in str(error.value)
    assert "\n" not in str(error.value)
    assert (tmp_path / "config.yaml").read_bytes() == text


@pytest.fixture(scope="module")
def plan_of_small():
    return make_plan(settings("small", epsilon=(1e-3,)))


def altered(**values):
    """An outcome as `save` writes it, with some of it altered by hand."""
    numbers = {field.name: 1 for field in dataclasses.fields(RunResult) if field.type == "int"}
    numbers |= {field.name: 0.5 for field in dataclasses.fields(RunResult) if field.type == "float"}
    return json.dumps(numbers | {"sharpness": {"1e-3": 2.5}, "sharpness_batch": {"1e-3": float("nan")}} | values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("test_accuracy", "x"),
        ("test_accuracy", None),
        ("distance", True),
        ("seconds", [1.0]),
        ("steps", 2.5),
        ("steps", {"1e-3": 2.5}),
        ("sharpness", {"5e-4": 2.5}),
        ("sharpness", {"1e-3": 1.0, "5e-4": 2.5}),
        ("sharpness_batch", 3.0),
        ("sharpness_batch", {"1e-3": "flat"}),
        ("sharpness_batch", {"1e-3": True}),
    ],
)
def test_a_result_that_was_altered_by_hand_is_named_in_one_line(name, value, tmp_path):
    file = tmp_path / "outcome.json"
    file.write_text(altered())
    assert RunResult.load(file, [1e-3]).sharpness == {"1e-3": 2.5}
    file.write_text(altered(**{name: value}))
    with pytest.raises(ValueError, match=re.escape(f"{name} is {value!r}")) as error:
        RunResult.load(file, [1e-3])
    assert f"{str(file)!r} cannot be read as the result of a run" in str(error.value)
    assert "1e-3" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.promise("damaged")
def test_files_of_a_finished_run_that_cannot_be_read_are_named_before_any_run_goes_on(tmp_path, plan_of_small):
    plan = resumed(plan_of_small, output=tmp_path)
    claim(dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, resume=False)))
    (run,) = plan.runs()
    weights = run.folder / "weights.pt"
    run.folder.mkdir(parents=True)
    run.result.write_text(altered())
    torch.save({"weight": torch.zeros(1000)}, weights)
    claim(plan)
    whole = weights.read_bytes()
    flipped = bytes(byte ^ (4 * (at == len(whole) // 2)) for at, byte in enumerate(whole))
    for damaged in (None, b"", b"no weights", whole[: len(whole) // 2], flipped):
        weights.unlink()
        if damaged is not None:
            weights.write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot be read") as error:
            claim(plan)
        assert repr(str(weights)) in str(error.value)
        assert f"delete {str(run.result)!r} to train that run again" in str(error.value)
        assert "\n" not in str(error.value)
        weights.touch()
    run.result.write_text(altered(sharpness={"5e-4": 1.0}))
    with pytest.raises(ValueError, match=f"{str(run.result)!r} cannot be read"):
        claim(plan)
    run.result.unlink()  # as it says
    claim(plan)
