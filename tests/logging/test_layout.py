"""The layout of charts in TensorBoard: which charts, in which runs, and once."""

import re

import pytest
import tiny
import torch
from contract.registry import REGISTRY
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_gap import GeneralizationGapMonitor, LearningRateScaling, SharpnessMonitor
from lightning_gap.logging import layout_of, meaning, write_layout

TAG = "custom_scalars__config__"


def fit(folder, *callbacks, version="", logger=None, **options):
    torch.manual_seed(0)
    logger = TensorBoardLogger(folder, name="", version=version) if logger is None else logger
    trainer = tiny.trainer(*callbacks, logger=logger, **options)
    trainer.fit(tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2), ckpt_path=options.pop("ckpt_path", None))
    return trainer


def layouts(folder):
    """Every layout in the files of a run, as TensorBoard reads it."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    stored = events.Tensors(TAG) if TAG in events.Tags()["tensors"] else []
    return [layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]) for event in stored]


def matched(layout, tags):
    """The tags that each chart shows, found as TensorBoard finds them."""
    charts = [(chart.title, chart.multiline.tag) for category in layout.category for chart in category.chart]
    return {title: sorted(tag for tag in tags if any(re.match(each, tag) for each in found)) for title, found in charts}


def test_every_chart_of_a_run_shows_curves_of_it(tmp_path):
    callbacks = [
        SharpnessMonitor(samples=20),
        LearningRateScaling(8, warmup_epochs=1),
        GeneralizationGapMonitor(samples=20),
    ]
    fit(tmp_path, *callbacks)
    (layout,) = layouts(tmp_path)
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
    shown = matched(layout, tags)
    assert shown.pop("accuracy: training and validation") == []  # this module logs none
    assert all(shown.values()), shown
    assert shown["loss: training and validation"] == ["loss_epoch", "val_loss"]
    assert shown["sharpness, %: low is flat (sharpness/full_eps1e-3)"] == ["sharpness/full_eps1e-3"]
    assert shown["learning rate"] == ["lr/effective"]
    assert shown["batch size and noise scale, samples"] == ["batch/size"]


@pytest.mark.parametrize("name", ["train_acc", "val/accuracy", "Accuracy", "test_accuracy_epoch", "validation/acc"])
def test_a_users_own_names_of_accuracy_are_found(name):
    (pattern,) = layout_of([])["Accuracy and loss"]["accuracy: training and validation"][1]
    assert re.match(pattern, name)
    assert not re.match(pattern, "gap/accuracy")
    assert not re.match(pattern, "train_acc_step")


def test_every_documented_key_is_on_the_callback_and_has_a_meaning():
    for name, entry in REGISTRY.items():
        assert set(entry.make().keys) == entry.keys, name
        assert all(map(meaning, entry.keys)), name
    assert meaning("train_loss") == ""


def test_it_is_written_once_whoever_asks_and_however_often_the_run_is_resumed(tmp_path):
    monitors = [SharpnessMonitor(samples=20), SharpnessMonitor(samples=10, suffix="_ten")]
    loggers = [TensorBoardLogger(tmp_path, name="", version=""), CSVLogger(tmp_path / "csv")]
    trainer = fit(tmp_path, *monitors, logger=loggers)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, tiny.loader(), tiny.loader(24, seed=2))
    fit(tmp_path, SharpnessMonitor(samples=20))
    assert len(list(tmp_path.glob("*tfevents*"))) > 1
    assert len(layouts(tmp_path)) == 1
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    (table,) = events.Tensors("curves/what_they_mean/text_summary")
    assert b"| sharpness/full_eps1e-3_ten | rise of the" in table.tensor_proto.string_val[0]


def test_each_of_several_runs_has_the_same_charts_of_the_same_curves(tmp_path):
    for version in ("a", "b"):
        fit(
            tmp_path,
            SharpnessMonitor(samples=20),
            *[LearningRateScaling(8, warmup_epochs=1)] * (version == "b"),
            version=version,
        )
    charts = [
        {chart.title: chart for category in layouts(tmp_path / version)[0].category for chart in category.chart}
        for version in ("a", "b")
    ]
    assert charts[0].items() <= charts[1].items()
    assert charts[1].keys() - charts[0].keys() == {"learning rate", "batch size and noise scale, samples"}


def test_a_layout_of_the_users_own_stays_the_only_one(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    logger.experiment.add_custom_scalars({"mine": {"loss": ["Multiline", ["loss"]]}})
    fit(tmp_path, SharpnessMonitor(samples=20), logger=logger)
    (layout,) = layouts(tmp_path)
    assert [category.title for category in layout.category] == ["mine"]


def test_without_our_callbacks_there_is_none_and_lightnings_learning_rate_has_a_chart(tmp_path):
    fit(tmp_path / "none")
    assert layouts(tmp_path / "none") == []
    fit(tmp_path / "ours", SharpnessMonitor(samples=20), LearningRateMonitor())
    (layout,) = layouts(tmp_path / "ours")
    assert matched(layout, ["lr-SGD"])["learning rate"] == ["lr-SGD"]


def test_a_logger_that_fails_ends_no_run(tmp_path):
    class Fails:
        @property
        def experiment(self):
            raise OSError("disk full")

    with pytest.warns(UserWarning, match="Fails did not take the layout of charts: disk full"):
        write_layout([Fails(), None], ["lr/scale"])
