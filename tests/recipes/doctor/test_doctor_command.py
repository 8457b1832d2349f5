"""The command doctor on what real runs left: anyone's own Trainer, compare, reproduce; and what it refuses."""

import csv
import json
import re
import shutil

import pytest
import tiny
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_gap import ExactAccumulation, GhostBatchNormSwap, LearningRateScaling, RecomputeBatchNorm
from lightning_gap.recipes import F1
from lightning_gap.recipes.doctor.curves import read_curves
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.quiet import spoken_plainly
from lightning_gap.recipes.runner.run_store import RunSpec, RunStore

SAMPLES = 168


class Decaying(tiny.TinyClassifier):
    """Weight decay, and a rate that ends near 0 if it is asked to."""

    def __init__(self, *, falls=False):
        super().__init__()
        self.falls = falls

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.02, weight_decay=1e-3)
        if not self.falls:
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


def train(logger, *callbacks, batch_size, falls=False, **options):
    trainer = tiny.trainer(
        *callbacks, ModelCheckpoint(), logger=logger, enable_checkpointing=True, max_epochs=10, **options
    )
    trainer.fit(Decaying(falls=falls), tiny.loader(SAMPLES, batch_size=batch_size))
    return trainer


@pytest.fixture(scope="module", params=[CSVLogger, TensorBoardLogger])
def logs(request, tmp_path_factory):
    """Three runs: the small batch, a large one with nothing done, a large one with all remedies."""
    folder = tmp_path_factory.mktemp("logs")

    def logger():
        return request.param(folder, name="lightning_logs")

    train(logger(), LearningRateScaling(8, warmup_epochs=0), batch_size=8)
    planted = [LearningRateScaling(8, rule="none", warmup_epochs=0), LearningRateMonitor()]
    train(logger(), *planted, batch_size=24, accumulate_grad_batches=4)  # 7 micro-batches: 4 and 3
    remedies = [LearningRateScaling(8), GhostBatchNormSwap(8), RecomputeBatchNorm(), ExactAccumulation()]
    train(logger(), *remedies, batch_size=56, falls=True)
    return folder / "lightning_logs"


def told(words, capsys):
    """What was printed, by the names of the runs."""
    assert main(["doctor", *map(str, words)]) == 0
    out = capsys.readouterr().out
    return {block.split(":")[0]: block for block in out.split("\n\n")}


def applying(block):
    return re.findall(r"^  (?!does not|cannot|What)(\w[^:]*):", block, flags=re.MULTILINE)


def test_the_causes_of_a_large_batch_are_named_and_those_that_were_mended_are_not(logs, capsys):
    blocks = told([logs], capsys)
    assert "version_0, batch 8" in next(iter(blocks))
    planted = blocks["version_1"]
    assert applying(planted) == [
        "too few updates",
        "learning rate not scaled",
        "BatchNorm batch too large",
        "running statistics lag",
        "ragged accumulation",
        "weight decay does not follow",
    ]
    assert "20 steps where batch 8 takes 210" in planted
    assert "× 1 for a batch × 12" in planted  # 4 micro-batches of 24 over 8
    assert "7 micro-batches make 2 steps" in planted
    assert "lr/scale" in planted  # where it was read
    assert "0.083 times" in planted  # 1 / 12
    assert not {*applying(blocks["version_2"])} & {*applying(planted)} - {"too few updates"}


def test_one_run_alone_says_what_to_add(logs, capsys):
    (block,) = told([logs / "version_1"], capsys).values()
    assert "learning rate not scaled" in applying(block)  # the checkpoint has base_batch_size=8
    shutil.rmtree(logs / "version_1" / "checkpoints")
    (block,) = told([logs / "version_1"], capsys).values()
    assert "running statistics lag" not in applying(block)
    assert len(re.findall("cannot be told: .*checkpoint", block)) == 4
    (block,) = told([logs / "version_1", "--base_batch_size", "96"], capsys).values()
    assert "not above 96" in block


def test_curves_are_those_that_were_logged(logs):
    curves = read_curves(logs / "version_0")
    assert curves["batch/size"].values == (8.0,) * 210
    assert [x for x, _ in curves["lr/effective"].points] == list(range(210))
    assert curves["lr/effective"].values == pytest.approx([0.02] * 210)
    if (logs / "version_0" / "metrics.csv").exists():
        with (logs / "version_0" / "metrics.csv").open() as file:
            rows = [float(row["loss_epoch"]) for row in csv.DictReader(file) if row["loss_epoch"]]
        assert list(curves["loss_epoch"].values) == rows


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "results"
    small = ["--epochs", "2", "--width", "16", "--depth", "1", "--data", "digits", "--trials", "2"]
    assert main(["compare", "f1", "small", "large", "linear-lr", *small, "--output", str(folder)]) == 0
    return folder


def test_the_regimes_of_a_comparison_are_compared_with_small(compared, capsys):
    capsys.readouterr()
    blocks = told([compared], capsys)
    results = {
        regime: [json.loads(f.read_text()) for f in sorted(compared.glob(f"runs/{regime}/*/outcome.json"))]
        for regime in ("small", "large")
    }
    assert {*blocks} >= {"large", "linear-lr"}
    assert "small" not in blocks
    steps = {regime: found[0]["steps"] for regime, found in results.items()}
    losses = {regime: sum(r["train_loss"] for r in found) / 2 for regime, found in results.items()}
    assert f"{steps['large']} steps" in blocks["large"]
    assert f"takes {steps['small']}" in blocks["large"]
    assert f"{losses['large']:.4g} against {losses['small']:.4g}" in blocks["large"]
    assert "learning rate not scaled" in applying(blocks["large"])
    assert "learning rate not scaled" not in applying(blocks["linear-lr"])


def spoil(folder, name, how):
    file = next(folder.rglob(name))
    content = bytearray(file.read_bytes())
    how(content)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("name", ["*tfevents*", "outcome.json", "config.yaml", "weights.pt"])
def test_a_damaged_file_is_named_in_one_line(compared, tmp_path, name, capsys):
    folder = tmp_path / "results"
    shutil.copytree(compared, folder)
    shutil.rmtree(folder / "runs" / "small")  # so that the spoiled one is that of large
    shutil.rmtree(folder / "tensorboard" / "small")
    shutil.rmtree(folder / "runs" / "linear-lr")
    shutil.rmtree(folder / "tensorboard" / "linear-lr")
    where = folder if name == "config.yaml" else next(folder.rglob("trial-1/" + name)).parent
    file = spoil(where, name, lambda content: content.__setitem__(slice(100, 140), b"\x00" * 40))
    assert main(["doctor", str(folder)]) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    assert file.name in told


def test_an_event_file_that_ends_in_the_middle_is_read_as_far_as_it_goes(compared, tmp_path):
    shutil.copytree(compared / "tensorboard" / "large" / "trial-1", tmp_path / "logs")
    file, final = sorted((tmp_path / "logs").glob("*tfevents*"))
    final.unlink()
    whole = read_curves(tmp_path / "logs")
    content = file.read_bytes()
    file.write_bytes(content[: content.rindex(b"sharpness/loss")])  # inside a record
    cut = read_curves(tmp_path / "logs")
    assert cut
    assert sum(len(curve.points) for curve in cut.values()) < sum(len(curve.points) for curve in whole.values())
    for name, curve in cut.items():
        assert curve.points == whole[name].points[: len(curve.points)]


def test_a_run_of_reproduce_is_compared_with_its_small_batch_where_that_is(tmp_path, capsys):
    store = RunStore(tmp_path, tmp_path)
    few = {"epochs": 2, "width": 16, "depth": 1, "small_batch_size": 100, "large_batch_size": 500}
    small, large = (RunSpec(F1, regime, "digits", 0, few) for regime in ("small", "large"))
    with spoken_plainly():
        store.make(large)
    (alone,) = told([store.run_folder(large)], capsys).values()
    assert large.name in alone
    steps = store.result(large).steps
    assert f"{steps} steps" in alone
    with spoken_plainly():
        store.make(small)
    beside = told([store.run_folder(large)], capsys)[large.name]
    assert f"{steps} steps where batch 100 takes {store.result(small).steps}" in beside


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["nowhere"], "'nowhere' does not exist"),
        (["empty"], "metrics.csv"),
        (["file.txt"], "is no folder"),
        (["empty", "--base_batch_size", "0"], "base_batch_size"),
        (["store"], "store/runs/one"),
    ],
)
def test_refusals_take_one_line(words, fix, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    (tmp_path / "store" / "runs" / "one").mkdir(parents=True)
    (tmp_path / "store" / "runs" / "one" / "run.json").write_text("{}")
    assert main(["doctor", *words]) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    assert fix in told
