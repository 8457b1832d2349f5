"""The callbacks from a LightningCLI's YAML, where the optimizer exists before setup."""

import re

import pytest
import tiny
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI

from lightning_gap import CurvatureMonitor, GeneralizationGapMonitor, SharpnessMonitor

CONFIG = {
    "seed_everything": 0,
    "trainer": {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "callbacks": [
            {"class_path": "lightning_gap.GhostBatchNormSwap", "init_args": {"ghost_batch_size": 4}},
            {
                "class_path": "lightning_gap.LearningRateScaling",
                "init_args": {"base_batch_size": 8, "rule": "sqrt", "warmup_epochs": 1},
            },
            {"class_path": "lightning_gap.SharpnessMonitor", "init_args": {"epsilon": [1e-3], "samples": 20}},
            {"class_path": "lightning_gap.SharpnessMonitor", "init_args": {"epsilon": 5e-4, "suffix": "_b"}},
            "lightning_gap.WeightDistanceMonitor",
            {"class_path": "lightning_gap.GeneralizationGapMonitor", "init_args": {"samples": 20}},
        ],
    },
    "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}},
}


class Data(LightningDataModule):
    def train_dataloader(self):
        return tiny.loader()

    def val_dataloader(self):
        return tiny.loader(24, seed=2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning against this jsonargparse
@pytest.mark.filterwarnings("ignore:.*will be overridden by `LightningCLI.configure_optimizers`")
def test_every_callback_is_configured_from_yaml(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["main.py"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    cli = LightningCLI(
        tiny.Validated, Data, args=["fit", "--config", str(tmp_path / "config.yaml")], save_config_callback=None
    )
    logged = set(cli.trainer.callback_metrics)
    assert {"sharpness/full_eps1e-3", "sharpness/full_eps5e-4_b", "gap/loss", "lr/effective", "ghost/layers"} <= logged
    assert not torch.equal(cli.model.net[1].weight, torch.ones(16))  # the early optimizer trained the swapped layer
    assert int(cli.model.net[1].num_batches_tracked) == 2 * 3 * 4


class SizedData(Data):
    def __init__(self, batch_size: int = 4):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return tiny.loader(48, batch_size=self.batch_size)


GROWTH = {
    "class_path": "lightning_gap.functional.SmithGrowth",
    "init_args": {"batch_size": 8, "milestones": [1], "max_batch_size": 24, "factor": 2.0},
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*will be overridden by `LightningCLI.configure_optimizers`")
@pytest.mark.parametrize(
    ("name", "settings", "sizes"),
    [
        ("BatchSizeScheduler", {"schedule": {0: 8, 1: 16}, "max_micro_batch": 8}, 16),
        ("BatchSizeScheduler", {"schedule": GROWTH}, 16),
        ("AdaptiveBatchSize", {"batch_size": 8, "max_batch_size": 24, "test": "noise_scale", "micro_batches": 2}, None),
        ("PiggybackWarmStart", {"switch_epoch": 1, "large_batch_size": 24, "optimizer_state": "keep"}, 24),
    ],
)
def test_batch_sizes_over_time_are_configured_from_yaml(tmp_path, monkeypatch, name, settings, sizes):
    monkeypatch.setattr("sys.argv", ["main.py"])
    when = "keep" if settings.get("schedule") == GROWTH else "rescale"
    callbacks = [
        {"class_path": f"lightning_gap.{name}", "init_args": settings},
        {
            "class_path": "lightning_gap.LearningRateScaling",
            "init_args": {"base_batch_size": 8, "warmup_steps": 2, "when_batch_changes": when},
        },
    ]
    config = CONFIG | {"trainer": CONFIG["trainer"] | {"callbacks": callbacks}, "data": {"batch_size": 4}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    cli = LightningCLI(
        tiny.Validated, SizedData, args=["fit", "--config", str(tmp_path / "config.yaml")], save_config_callback=None
    )
    if sizes is not None:
        assert float(cli.trainer.callback_metrics["batch/size"]) == sizes
        scale = sizes / 8 if when == "rescale" else {"PiggybackWarmStart": 0.5}.get(name, 1.0)
        assert float(cli.trainer.callback_metrics["lr/scale"]) == scale
    assert cli.trainer.callback_metrics["batch/size"] >= 8


@pytest.mark.parametrize("monitor", [SharpnessMonitor, CurvatureMonitor, GeneralizationGapMonitor])
def test_the_arguments_that_monitors_share_are_seen_with_their_types_and_descriptions(monitor):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(monitor, "monitor")
    described = " ".join(parser.format_help().split())
    for argument, text in (
        ("chunk_size", "Most samples in memory at a time"),
        ("every_n_epochs", "Measure at the end of every n-th epoch"),
        ("suffix", "Appended to the keys"),
    ):
        assert re.search(rf"--monitor\.{argument} \S+ {text}.*?\(type: ", described), argument
    with pytest.raises(ArgumentError, match="samples"):
        parser.parse_args(["--monitor.samples", "many"])
