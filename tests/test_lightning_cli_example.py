"""The LightningCLI example runs as a user runs it, and what is wrong in a YAML file is named."""

import inspect
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_gap

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "lightning_cli"


def copied(folder):
    """The example's two files, and nothing else at first."""
    for name in ("main.py", "config.yaml"):
        shutil.copy(EXAMPLE / name, folder)
    return folder


def run(folder, *arguments):
    """As a user does."""
    command = [sys.executable, "main.py", "fit", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def events(folder):
    """Values by tag, as steps and numbers."""
    read = EventAccumulator(str(folder / "lightning_logs" / "version_0"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    folder = copied(tmp_path_factory.mktemp("cli"))
    arguments = ("fit", "--config", "config.yaml", "--trainer.enable_progress_bar", "false")
    processes.run("main.py", *arguments, ranks=1, folder=folder)
    return events(folder)


def test_callbacks_from_yaml_act_on_a_program_that_knows_nothing_of_them(logged):
    assert "lightning_gap" not in (EXAMPLE / "main.py").read_text(encoding="utf-8")
    for area in ("sharpness", "gap", "weights", "lr", "batch", "ghost"):
        assert any(tag.startswith(f"{area}/") for tag in logged), area
    assert [value for _, value in logged["ghost/layers"]] == [2.0]
    # 1,437 samples: 23 steps of 64 in each of two epochs, 12 of 128, 6 of 256; measured at the last of every second
    steps = [2 * 23, 2 * 12, 2 * 6]
    sizes = [size for size, count in zip((64, 128, 256), steps, strict=True) for _ in range(count)]
    assert [value for _, value in logged["batch/size"]] == sizes
    assert [step for step, _ in logged["sharpness/full_eps1e-3"]] == [45, 45 + 24, 45 + 24 + 12]
    rates = [value for _, value in logged["lr/effective"]]
    assert rates == pytest.approx([0.05 * size / 64 for size in sizes])


@pytest.mark.slow
def test_the_printed_configuration_gives_the_same_run(logged, tmp_path):
    printed = run(copied(tmp_path), "--config", "config.yaml", "--print_config")
    (tmp_path / "printed.yaml").write_text(printed, encoding="utf-8")
    run(tmp_path, "--config", "printed.yaml", "--trainer.max_epochs", "1")
    again = events(tmp_path)
    for tag in ("train_loss", "lr/effective", "gap/loss"):
        assert again[tag] == logged[tag][: len(again[tag])]
    assert len(again["train_loss"]) == 23


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning against this jsonargparse
@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("max_epochs: 6", "max_epoch: 6", "trainer.max_epoch"),
        ("batch_size: 64\ntrainer", "batchsize: 64\ntrainer", "data.batchsize"),
        ("learning_rate: 0.05", "learning_rate: fast", "model.learning_rate"),
        ("ghost_batch_size: 32", "ghost_size: 32", "ghost_size"),
        ("ghost_batch_size: 32", "ghost_batch_size: thirty", "ghost_batch_size"),
        ("warmup_epochs: 1", "warmup_epochs: one", "warmup_epochs"),
        ("2: 128", "two: 128", "schedule"),
        ("[1e-3, 5e-4]", "small", "epsilon"),
        ("every_n_epochs: 2", "every_n_epochs: often", "every_n_epochs"),
        ("lightning_gap.GhostBatchNormSwap", "lightning_gap.GhostBatchNormSwop", "GhostBatchNormSwop"),
    ],
)
@pytest.mark.bad_input(62)
def test_a_wrong_key_or_value_ends_in_one_error_that_names_it(tmp_path, monkeypatch, capsys, right, wrong, named):
    text = (EXAMPLE / "config.yaml").read_text(encoding="utf-8")
    assert text.count(right) == 1
    (tmp_path / "config.yaml").write_text(text.replace(right, wrong), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["main.py", "fit", "--config", "config.yaml"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLE / "main.py"), run_name="__main__")
    assert ended.value.code == 2
    errors = re.findall(r"^error: .*", capsys.readouterr().err, flags=re.DOTALL | re.MULTILINE)
    assert len(errors) == 1
    reason = errors[0].split("Given value: [")[0]  # which repeats all callbacks
    assert named in reason
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_number_out_of_range_is_named_by_the_callback_itself(tmp_path, monkeypatch):
    text = (EXAMPLE / "config.yaml").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text(text.replace("base_batch_size: 64", "base_batch_size: 0"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["main.py", "fit", "--config", "config.yaml"])
    with pytest.raises(ValueError, match="base_batch_size must be a whole number of samples, at least 1, got 0"):
        runpy.run_path(str(EXAMPLE / "main.py"), run_name="__main__")


FUNCTIONS = """
import torch

def loss(module, batch) -> torch.Tensor:  # jsonargparse asks for what it returns
    return torch.zeros(())

def rule(batch_size, base_batch_size):
    return 2.0

def size(epoch):
    return 8
"""
LOSS = {"loss_fn": "of_the_user.loss", "max_time_share": None}
SETTINGS = {
    "AdaptiveBatchSize": [{"batch_size": 8, "max_batch_size": 16, "decide_every_n_steps": 5}],
    "AdversarialTraining": [{"epsilon": [0.1, 0.2], "steps": 3, "clean": 0.0}],
    "BatchSizeScheduler": [
        {"schedule": {0: 8, 1: 16}},
        {"schedule": "of_the_user.size"},
        {"schedule": {0: 8, 20: 16}, "unit": "steps"},
        {"schedule": "0:8 1K:16", "unit": "tokens", "max_micro_batch": "auto"},
        {
            "schedule": {
                "class_path": "lightning_gap.functional.GeometricGrowth",
                "init_args": {"batch_size": 8, "max_batch_size": 24},
            }
        },
    ],
    "ConservativeTraining": [{"strength": 0.1, "inner_steps": 2}],
    "CriticalSharpnessMonitor": [LOSS | {"every_n_steps": 100, "micro_batches": 2}],
    "CurvatureMonitor": [LOSS],
    "ExactAccumulation": [{}, {"count": "of_the_user.size"}],
    "GeneralizationGapMonitor": [LOSS | {"accuracy_fn": "of_the_user.loss"}],
    "GhostBatchNormSwap": [{}, {"leftover": "balance"}],
    "GradientNoiseScaleMonitor": [LOSS],
    "GradientPenalty": [{"strength": 0.1, "m": 8}, {"strength": 0.1, "exact": True}],
    "LearningRateScaling": [{"rule": "sqrt", "warmup_steps": 3}, {"rule": "of_the_user.rule"}],
    "MultiplicativeNoise": [{"sigma": 1.0, "outputs": "net"}],
    "OptimizerScaling": [
        {"base_batch_size": 8, "rule": "sqrt"},
        {"base_batch_size": 8, "rule": ["sqrt", "half_life"]},
    ],
    "PiggybackWarmStart": [
        {"switch_epoch": 1, "large_batch_size": 64, "optimizer_state": "keep"},
        {
            "switch_epoch": None,
            "large_batch_size": 64,
            "optimizer_state": "reset",
            "source_checkpoint": "a.ckpt",
        },
    ],
    "RecomputeBatchNorm": [{}, {"every": 2, "batches": 3}],
    "ResumeExactly": [{}],
    "StopOnNaN": [{}],
    "SharpnessAwareMinimization": [{"adaptive": True}, {"rho": 0.1, "norm": "max", "m": 8, "start": 0.5}],
    "SharpnessMonitor": [{"epsilon": 1e-3}, LOSS | {"epsilon": [1e-3, 5e-4], "every_n_epochs": "log", "subspace": 9}],
    "StabilityTraining": [{"sigma": 0.1, "outputs": "net"}],
    "WeightDistanceMonitor": [{"compare_with": "a.ckpt"}],
}


def test_no_callback_is_forgotten_here():
    exported = [value for name in lightning_gap.__all__ if inspect.isclass(value := getattr(lightning_gap, name))]
    assert set(SETTINGS) == {value.__name__ for value in exported if issubclass(value, Callback)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "settings"), [(name, each) for name, several in SETTINGS.items() for each in several])
def test_every_callback_can_be_read_from_yaml_printed_and_read_again(tmp_path, monkeypatch, name, settings):
    (tmp_path / "of_the_user.py").write_text(FUNCTIONS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    written = yaml.safe_dump({"callbacks": [{"class_path": f"lightning_gap.{name}", "init_args": settings}]})
    first = parser.parse_string(written)
    printed = parser.dump(first, skip_none=False)
    second = parser.parse_string(printed)
    assert parser.dump(second, skip_none=False) == printed
    (made,) = parser.instantiate_classes(second).callbacks
    for argument, value in settings.items():
        held = getattr(made, argument)
        if isinstance(value, str) and value.startswith("of_the_user."):
            assert f"of_the_user.{held.__name__}" == value
        elif value == "0:8 1K:16":
            assert held == {0: 8, 1000: 16}
        elif argument == "epsilon" or (name == "OptimizerScaling" and argument == "rule"):
            assert held == tuple(value if isinstance(value, list) else [value])
        elif not isinstance(value, dict) or "class_path" not in value:
            assert held == value
        else:
            assert type(held).__name__ == value["class_path"].split(".")[-1]


def test_the_yaml_of_the_quickstart_is_that_of_the_example():
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    callbacks = yaml.safe_load((EXAMPLE / "config.yaml").read_text(encoding="utf-8"))["trainer"]["callbacks"]
    for callback in yaml.safe_load(shown)["trainer"]["callbacks"]:
        assert callback in callbacks
