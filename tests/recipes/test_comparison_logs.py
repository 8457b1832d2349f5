"""What TensorBoard gets of a comparison: means over trials, HParams, text, each once after a resume too."""

import re
import statistics

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lightning_gap.logging import Column
from lightning_gap.recipes.doctor.curves import read_curves
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.comparison_logs import parts_that_fit, table_on_its_side

TINY = ["--width", "8", "--depth", "1", "--small_batch_size", "256", "--epochs", "2", "--epsilon", "[1e-3]"]
TINY += ["--sharpness_samples", "100"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "run"
    command = ["compare", "f1", "small", "large", *TINY, "--output", str(folder), "--trials"]
    assert main([*command, "1"]) == 0
    assert main([*command, "2", "--resume"]) == 0
    return folder / "tensorboard"


def events(folder):
    return EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()


def test_the_means_are_those_of_the_trials_within_their_deviation(logs):
    for regime in ("small", "large"):
        means = read_curves(logs / regime / "mean")
        trials = [read_curves(logs / regime / f"trial-{k}") for k in (1, 2)]
        for tag in ("train/accuracy", "validation/accuracy", "sharpness/full_eps1e-3", "weights/distance_from_init"):
            expected = [statistics.fmean(values) for values in zip(*(each[tag].values for each in trials), strict=True)]
            spread = [statistics.stdev(values) for values in zip(*(each[tag].values for each in trials), strict=True)]
            assert means[f"trials/{tag}"].values == pytest.approx(expected, rel=1e-5)
            high, low = (means[f"trials/{tag}_{end}"].values for end in ("high", "low"))
            assert [(a - b) / 2 for a, b in zip(high, low, strict=True)] == pytest.approx(spread, abs=1e-4, rel=1e-3)


def test_the_layout_has_the_margins_on_top_and_every_chart_of_the_runs(logs):
    (stored,) = events(logs / "comparison").Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(stored.tensor_proto.string_val[0])
    first, *others = layout.category
    tags = set(read_curves(logs / "small" / "mean"))
    for chart in first.chart:
        (series,) = chart.margin.series
        assert {series.value, series.lower, series.upper} <= tags
    assert [chart.title for chart in first.chart if "sharpness" in chart.title] == ["sharpness/full_eps1e-3"]
    (own,) = events(logs / "small" / "trial-1").Tensors("custom_scalars__config__")
    of_run = layout_pb2.Layout.FromString(own.tensor_proto.string_val[0])
    charts = {chart.title: chart for category in others for chart in category.chart}
    assert {chart.title: chart for category in of_run.category for chart in category.chart} == charts
    scalars = read_curves(logs / "small" / "trial-1")
    for chart in charts.values():
        assert any(re.match(chart.multiline.tag[0], tag) for tag in scalars), chart.title


def test_hparams_has_the_settings_and_the_final_values_once(logs):
    for regime, batch in (("small", 256), ("large", 640)):
        for trial in (1, 2):
            found = events(logs / regime / f"trial-{trial}")
            content = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
            settings = HParamsPluginData.FromString(content).session_start_info.hparams
            assert settings["regime"].string_value == regime
            assert settings["batch_size"].number_value == batch
            assert settings["steps"].number_value == 2 * 1280 // batch
            assert set(settings) == {"regime", "batch_size", "steps", "learning_rate"}
            content = found.summary_metadata["_hparams_/experiment"].plugin_data.content
            metrics = HParamsPluginData.FromString(content).experiment.metric_infos
            for metric in metrics:
                (final,) = found.Scalars(metric.name.tag)
                assert final.step == 2
            assert metrics[0].name.tag == "final/test_accuracy"
            assert {metric.name.tag for metric in metrics} >= {"final/train_loss", "final/sharpness_eps1e-3"}


def test_the_texts_are_those_of_the_last_command_alone(logs):
    found = events(logs / "comparison")
    texts = {}
    for name in ("look_at_first", "table", "terms"):
        (event,) = found.Tensors(f"comparison/{name}/text_summary")
        texts[name] = event.tensor_proto.string_val[0].decode()
    assert "2 trials" in texts["look_at_first"]
    assert "| trials | 2 | 2 |" in texts["table"]
    assert "seeds 0, 1" in texts["terms"]
    assert len(list((logs / "comparison").iterdir())) == 1


def test_a_table_too_wide_for_the_screen_is_in_parts_with_whole_names():
    columns = [Column("regime", "regime"), Column("accuracy", "test accuracy %", 2)]
    names = [f"a-regime-with-a-name-of-forty-letters-{k:02}" for k in range(5)]
    text = table_on_its_side(columns, [{"regime": name, "accuracy": [98.0 + k]} for k, name in enumerate(names)])
    parts = text.split("\n\n")
    assert len(parts) == 3
    assert all(text.count(name) == 1 for name in names)
    assert max(map(len, text.splitlines())) < 130
    assert "| test accuracy % | 98.00 | 99.00 |" in parts[0]


@pytest.mark.parametrize(("width", "parts"), [(19, [2, 1]), (18, [1, 1, 1]), (25, [3]), (1, [1, 1, 1])])
def test_as_many_regimes_stand_together_as_have_room_beside_the_titles(width, parts):
    columns = [Column("regime", "regime"), Column("epochs", "epochs ab")]  # 9 characters; a regime has 4 and a space
    rows = [{"regime": name, "epochs": "7"} for name in ("four", "also", "last")]
    found = list(parts_that_fit(columns, rows, width))
    assert [len(part) for part in found] == parts
    assert [texts for part in found for texts in part] == [["four", "7"], ["also", "7"], ["last", "7"]]
