"""Regimes compared on a module that knows nothing of us: real Trainers, digits-size data, numbers worked out again."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from lightning.pytorch import LightningDataModule, seed_everything
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from lightning_gap import LearningRateScaling
from lightning_gap.recipes import compare
from lightning_gap.recipes.intervals import mean_interval
from lightning_gap.recipes.own_model.metric import is_higher_better
from lightning_gap.recipes.runner.cli import main

TRAINED = []  # regimes' modules, to count runs


class Digits(tiny.TinyClassifier):
    def __init__(self):
        super().__init__(dropout=0.0, learning_rate=0.02, seed=torch.initial_seed())
        self.net[0] = torch.nn.Linear(64, 16)

    def on_train_start(self):
        TRAINED.append(type(self).__name__)

    def test_step(self, batch, batch_idx):
        scores = self(batch[0])
        self.log("test_acc", (scores.argmax(1) == batch[1]).float().mean())
        self.log("test_loss", torch.nn.functional.cross_entropy(scores, batch[1]))


IMAGES, LABELS = (torch.as_tensor(part).float() for part in load_digits(n_class=3, return_X_y=True))
TRAIN, TEST = (TensorDataset(IMAGES[part] / 16, LABELS[part].long()) for part in (slice(0, 320), slice(320, None)))


def make_data(batch_size):
    return DataLoader(TRAIN, batch_size, shuffle=True), None, DataLoader(TEST, 64)


class Own(LightningDataModule):
    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return make_data(self.batch_size)[0]

    def test_dataloader(self):
        return make_data(self.batch_size)[2]


def slower_warmup(settings):
    settings.epochs = 3
    return [LearningRateScaling(settings.small_batch_size, warmup_epochs=1)]


SETTINGS = {
    "small_batch_size": 8,
    "large_batch_size": 160,
    "epochs": 2,
    "metric": "test_acc",
    "seeds": 2,
    "warmup_epochs": 1,
    "trainer": {"accelerator": "cpu"},
}
REGIMES = ["small", "large", "ghost-lr", slower_warmup]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "kept"
    return folder, compare(Digits, make_data, REGIMES, **SETTINGS, folder=folder)


def by_hand(seed, batch_size):
    """The same run by a Trainer that is written out."""
    torch.manual_seed(seed)
    module = Digits()
    torch.manual_seed(seed)
    train, _, test = make_data(batch_size)
    torch.manual_seed(seed)
    trainer = tiny.trainer(max_epochs=2)
    trainer.fit(module, train)
    (found,) = trainer.test(module, test, verbose=False)
    return found["test_acc"], trainer.global_step


@pytest.mark.parametrize(("regime", "batch_size"), [("small", 8), ("large", 160)])
def test_a_run_is_what_the_trainer_alone_would_do(kept, regime, batch_size):
    value, steps = by_hand(1, batch_size)
    run = kept[1].runs[regime][1]
    assert run.value == value
    assert (run.steps, run.epochs, run.batch_size) == (steps, 2, batch_size)


def test_gaps_are_differences_by_seed_with_their_interval(kept):
    values, found = kept[1].values, kept[1].gap("large")
    assert found == mean_interval([values["small"][seed] - values["large"][seed] for seed in (0, 1)])
    assert found.mean > 0.1  # 80 steps against 4
    assert kept[1].runs["slower_warmup"][0].epochs == 3
    assert "large" in str(kept[1])
    assert f"{found.mean:.4f}" in str(kept[1])


def test_a_lower_metric_has_its_gap_the_other_way_round():
    found = compare(Digits, Own, ["small", "large"], **{**SETTINGS, "metric": "test_loss", "seeds": [5]})
    values = found.values
    assert found.gap("large").mean == values["large"][5] - values["small"][5] > 0
    assert not found.higher_is_better


def test_finished_runs_are_found_again_and_others_are_trained(kept, tmp_path):
    shutil.copytree(kept[0], tmp_path / "kept")
    shutil.rmtree(tmp_path / "kept" / "runs" / "large" / "seed-1")
    TRAINED.clear()
    again = compare(Digits, make_data, REGIMES, **SETTINGS, folder=tmp_path / "kept")
    assert len(TRAINED) == 1
    assert again.values == kept[1].values
    more = compare(Digits, make_data, ["small", "large"], **{**SETTINGS, "seeds": 3}, folder=tmp_path / "kept")
    assert len(TRAINED) == 3  # seed 2 of both
    assert {seed: more.values["large"][seed] for seed in (0, 1)} == kept[1].values["large"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": "another"}, "another"),
        ({"epochs": 3}, "epochs is 2 there and 3 here"),
        ({"metric": "test_loss"}, "metric"),
    ],
)
def test_runs_of_other_settings_are_not_mixed(kept, changed, words):
    TRAINED.clear()
    with pytest.raises(ValueError, match="other settings") as refused:
        compare(Digits, make_data, ["small"], **{**SETTINGS, **changed}, folder=kept[0])
    assert words in str(refused.value)
    assert not TRAINED


def test_the_callers_random_numbers_are_left_as_they_were():
    seed_everything(3, verbose=False)
    expected = torch.rand(3)
    seed_everything(3, verbose=False)
    compare(Digits, make_data, ["small"], **{**SETTINGS, "seeds": 1, "epochs": 1})
    assert torch.equal(torch.rand(3), expected)


def test_a_module_of_lightnings_other_name_is_trained_by_its_trainer():
    other = pytest.importorskip("pytorch_lightning")
    methods = ("training_step", "test_step", "configure_optimizers", "forward")

    class Theirs(other.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.learning_rate = Digits().net, 0.02

    for name in methods:
        setattr(Theirs, name, getattr(Digits, name))
    settings = {**SETTINGS, "seeds": 1}
    found, same = (compare(make, make_data, ["small", "linear-lr"], **settings) for make in (Theirs, Digits))
    assert found.values == same.values


def test_the_report_has_the_values(kept, tmp_path):
    files = kept[1].report(tmp_path)
    text = (tmp_path / "report.md").read_text().replace("\\_", "_")
    assert tmp_path / "report.html" in files
    for words in ("test_acc", "ghost-lr", "slower_warmup", f"{kept[1].gap('large').mean:.4f}"):
        assert words in text


def test_the_doctor_reads_the_runs(kept, capsys):
    assert main(["doctor", str(kept[0])]) == 0
    blocks = {block.split(":")[0]: block for block in capsys.readouterr().out.split("\n\n")}
    large = blocks["large"]
    assert "4 steps where batch 8 takes 80" in large
    assert "learning rate × 1 for a batch × 20" in large
    assert "does not apply: ragged accumulation" in large
    assert "does not apply: weight decay" in large
    assert "BatchNorm batch too large: 1 BatchNorm" in large
    assert "does not apply: BatchNorm" in blocks["ghost-lr"]
    assert "clipped at 5" in blocks["ghost-lr"]


def test_the_example_of_the_page_runs(tmp_path):
    script = Path(__file__).parents[3] / "docs" / "examples" / "own_model.py"
    found = runpy.run_path(str(script))["main"](str(tmp_path / "kept"), seeds=1, epochs=5)
    assert found.runs["longer"][0].steps == found.runs["small"][0].steps == 200
    assert found.gap("large").mean > 0


def no_list(settings):
    return settings


def negative(settings):
    settings.batch_size = -1
    return []


def of_no_use(batch_size):
    return DataLoader(TRAIN, 8)


def wrong_size(batch_size):
    return DataLoader(TRAIN, 8), None, DataLoader(TEST, 8)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"metric": "test_accuracy"}, ["'test_accuracy'", "test_acc", "test_loss"]),
        ({"metric": "quality"}, ["'quality'", "higher_is_better"]),
        ({"metric": "quality", "higher_is_better": 1}, ["higher_is_better", "1"]),
        ({"large_batch_size": 8}, ["large_batch_size", "8"]),
        ({"small_batch_size": 0}, ["small_batch_size", "0"]),
        ({"epochs": 1.5}, ["epochs", "1.5"]),
        ({"seeds": 0}, ["seeds", "0"]),
        ({"seeds": [1, 1]}, ["seeds", "[1, 1]"]),
        ({"on": "fit"}, ["on", "'fit'"]),
        ({"on": "validate", "metric": "val_loss"}, ["validation loader", "on='validate'"]),
        ({"name": ""}, ["name"]),
        ({"trainer": {"max_epochs": 3}}, ["max_epochs", "epochs="]),
        ({"trainer": {"devices": 2}}, ["devices", "2"]),
        ({"trainer": {"accumulate_grad_batches": 3}}, ["accumulate_grad_batches=3", "8"]),
        ({"regimes": "small"}, ["regimes", "'small'"]),
        ({"regimes": ["large"]}, ["'small'", "large"]),
        ({"regimes": ["small", "lrage"]}, ["'lrage'", "large"]),
        ({"regimes": ["small", "small"]}, ["'small' twice"]),
        ({"regimes": ["small", "augmented"]}, ["'augmented'", "make_data"]),
        ({"regimes": ["small", "goyal"]}, ["'goyal'", "RecomputeBatchNorm"]),
        ({"regimes": ["small", "noise"]}, ["'noise'", "outputs"]),
        ({"regimes": ["small", "longer"]}, ["'longer'", "make_module"]),
        ({"regimes": ["small", "growing"]}, ["'growing'", "epochs"]),  # no epoch for each of its batches
        ({"regimes": ["small", no_list]}, ["'no_list'", "list of callbacks"]),
        ({"regimes": ["small", negative]}, ["'negative'", "batch_size=-1"]),
        ({"make_data": wrong_size}, ["make_data(160)", "8"]),
        ({"make_module": tiny.TinyClassifier()}, ["make_module", "the class TinyClassifier"]),
    ],
)
@pytest.mark.bad_input(65)
def test_bad_input_is_refused_before_the_first_step(changed, words):
    given = {"make_module": Digits, "make_data": make_data, "regimes": ["small", "large"], **SETTINGS, **changed}
    TRAINED.clear()
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the words are compared below
        compare(**given)
    assert all(word in str(refused.value) for word in words), refused.value
    assert not TRAINED


@pytest.mark.parametrize(
    "changed", [{"make_data": of_no_use}, {"make_module": lambda: torch.nn.Linear(1, 1)}], ids=["data", "module"]
)
def test_functions_that_make_something_else_are_refused(changed):
    with pytest.raises(TypeError, match="must return a"):
        compare(**{"make_module": Digits, "make_data": make_data, **SETTINGS, **changed})


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="something else"):
        compare(Digits, make_data, ["small"], **SETTINGS, folder=tmp_path)


def test_a_damaged_result_is_named(kept, tmp_path):
    shutil.copytree(kept[0], tmp_path / "kept")
    file = tmp_path / "kept" / "runs" / "small" / "seed-0" / "result.json"
    file.write_text(json.dumps({"value": 1.0}))
    with pytest.raises(ValueError, match=r"result\.json.*delete it"):
        compare(Digits, make_data, ["small"], **SETTINGS, folder=tmp_path / "kept")


def test_the_schedule_is_told_how_long_it_lasts():
    told = []

    def make_module(epochs):
        told.append(epochs)
        return Digits()

    found = compare(
        make_module, make_data, ["small", "longer"], **{**SETTINGS, "large_batch_size": 16, "epochs": 1, "seeds": 1}
    )
    assert told[-2:] == [1, 2]
    assert found.runs["longer"][0].steps == found.runs["small"][0].steps == 40


@pytest.mark.parametrize(
    ("name", "higher"),
    [("val/acc", True), ("test_accuracy", True), ("auroc", True), ("valid-error", False), ("test/rmse", False)],
)
def test_names_that_tell_which_way_is_better(name, higher):
    assert is_higher_better(name, None) is higher
    assert is_higher_better(name, not higher) is not higher  # what is stated holds


@pytest.mark.parametrize("name", ["accuracy_loss", "score", "lossless", ""])
def test_names_that_do_not_tell_are_refused(name):
    with pytest.raises(ValueError, match="metric"):
        is_higher_better(name, None)
