import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_gap.functional import DatasetLoss, FixedSubset, sharpness_profile, subspace_sharpness
from lightning_gap.recipes import networks
from lightning_gap.recipes.datasets import DATASETS
from lightning_gap.recipes.experiments import adaptive_batch, experiments, keskar_tables, smith_curves
from lightning_gap.recipes.experiments.command import main
from lightning_gap.recipes.experiments.experiment import Experiment, ResultsFile, perform

PUBLISHED = Path(smith_curves.__file__).parent / "results"
TINY = {"width": 8, "depth": 1}


@pytest.fixture
def mnist(tmp_path):
    """64 images to train on and 16 to test with, of ten classes that can be told apart."""
    generator = np.random.default_rng(0)
    templates = generator.integers(0, 256, (10, 28, 28))
    held = {}
    for part, count in (("train", 64), ("test", 16)):
        labels = generator.integers(0, 10, count)
        held[f"x_{part}"] = (0.5 * templates[labels] + generator.integers(0, 128, (count, 28, 28))).astype(np.uint8)
        held[f"y_{part}"] = labels
    np.savez(tmp_path / "mnist.npz", **held)
    return tmp_path


def published(name):
    return ResultsFile(PUBLISHED / f"{name}.json").results


def test_every_file_is_an_experiment_with_a_line_of_its_own():
    assert set(experiments()) == {
        *("adaptive-batch", "f1-mnist", "keskar-tables", "plugins-c1", "plugins-f1", "smith-curves")
    }
    for name, summary in experiments().items():
        module = import_module(f"lightning_gap.recipes.experiments.{name.replace('-', '_')}")
        assert module.__doc__.startswith(summary)
        assert hasattr(module, "EXPERIMENT") != hasattr(module, "COMMAND")


# Smith's curves


def smith(run, folder, **changed):
    settings = {
        "epochs": 8,
        "small_batch_size": 8,
        "large_batch_size": 30,
        "ghost_batch_size": 4,
        "learning_rate": 0.01,
        "learning_rate_steps": {5: 1 / 2, 6: 1 / 4, 7: 1 / 8},
    }
    return smith_curves.measure(run, 0, folder, **{**settings, **TINY, **changed})


@pytest.mark.parametrize(
    ("run", "per_epoch"),
    [
        ("constant", [8] * 8),
        ("decay", [8] * 8),
        ("hybrid", [8] * 5 + [4] * 3),  # 64 samples in batches of 8, then of 16
        ("growth", [8] * 5 + [4, 3, 3]),  # of 16, 30 and 30
    ],
)
def test_a_schedule_takes_the_updates_of_its_batches(run, per_epoch, mnist):
    rows = smith(run, mnist)
    assert [row["updates"] for row in rows] == np.cumsum(per_epoch).tolist()


def test_schedules_are_alike_up_to_the_first_milestone_and_differ_after_it(mnist):
    results = {run: {0: smith(run, mnist)} for run in smith_curves.EXPERIMENT.runs}
    assert smith_curves.alike(results)
    last = {trials[0][-1]["train_loss"] for trials in results.values()}
    assert len(last) == 4
    results["growth"][0][0]["test_loss"] += 1e-9
    assert not smith_curves.alike(results)


@pytest.mark.parametrize("run", ["decay", "hybrid", "growth"])
def test_the_noise_scale_of_all_schedules_falls_alike(run, mnist):
    """Learning rate over batch size, which is what Smith et al. keep the same."""
    recipe = smith_curves.SmithF1(run, **{**smith_curves.HYPERPARAMETERS, **TINY})
    growth = [callback for callback in recipe.configure_callbacks() if hasattr(callback, "schedule")]
    for epoch in (0, 4, 5, 10, 13, 15):
        stage = growth[0].schedule if growth else None
        stage = stage(epoch) if callable(stage) else stage
        if isinstance(stage, dict):
            size, factor = stage[max(first for first in stage if first <= epoch)], 1.0
        else:
            size, factor = (128, 1.0) if stage is None else (stage.batch_size, stage.learning_rate_factor)
        scale = 0.1 * recipe.learning_rate_factor(epoch) * factor / size
        passed = sum(epoch >= milestone for milestone in (5, 10, 13))
        assert scale == pytest.approx(0.1 / 128 / 5**passed, rel=1e-9)


def test_a_curves_row_is_what_the_weights_give(mnist):
    """Against stock BatchNorm, a loop of torch's own and ghosts that are the batch."""
    rows = smith("constant", mnist, epochs=1, ghost_batch_size=8, learning_rate_steps={})
    torch.manual_seed(0)
    network = networks.F1(width=8, depth=1)
    data = DATASETS["mnist"](batch_size=8, data_dir=mnist, seed=0)
    data.setup()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for inputs, targets in data.train_dataloader():
        optimizer.zero_grad()
        cross_entropy(network(inputs), targets).backward()
        optimizer.step()
    network.eval()
    inputs, targets = data.test.whole()
    scores = network(inputs).detach()
    assert rows[0]["test_loss"] == pytest.approx(float(cross_entropy(scores, targets)), rel=1e-6)
    assert rows[0]["test_accuracy"] == 100 * float((scores.argmax(1) == targets).double().mean())


# The adaptive batch


@pytest.mark.parametrize("run", adaptive_batch.EXPERIMENT.runs)
def test_a_trace_tells_the_batch_that_was_trained_with(run, mnist):
    settings = {"epochs": 2, "small_batch_size": 8, "large_batch_size": 32, "ghost_batch_size": 4}
    rows = adaptive_batch.measure(run, 0, mnist, every_n_samples=32, **settings, **TINY)
    assert [row["samples"] for row in rows] == sorted(row["samples"] for row in rows)
    assert (rows[-1]["samples"], rows[0]["batch_size"] >= 8) == (128, True)
    if run.startswith("fixed"):
        size = {"fixed-32": 8, "fixed-256": 64}[run]
        assert [(row["batch_size"], row["steps"]) for row in rows] == [
            (size, samples // size) for samples in range(max(size, 32), 129, max(size, 32))
        ]
    else:
        assert rows[-1]["wanted"] > 0
        assert rows[-1]["steps"] <= 16


# Keskar et al.'s tables


def test_sharpness_is_that_of_the_weights_that_are_kept(mnist, tmp_path):
    settings = {"samples": 40, "chunk_size": 20, "subspace_samples": 30, "draws": 2}
    found = keskar_tables.measure(
        "small", 3, mnist, **settings, weights=tmp_path / "kept", epochs=2, small_batch_size=16, **TINY
    )
    assert found.keys() == published("keskar_tables")["small"][0].keys()
    kept = tmp_path / "kept" / "small-3"
    assert sorted(file.name for file in kept.iterdir()) == ["epoch-0.pt", "epoch-1.pt", "epoch-2.pt"]
    network = networks.F1(width=8, depth=1).eval()
    network.load_state_dict(torch.load(kept / "epoch-2.pt", weights_only=True))
    data = DATASETS["mnist"](batch_size=16, data_dir=mnist)
    data.setup()
    dataset = torch.utils.data.TensorDataset(*data.train.whole())

    def loss(samples, chunk):
        batches = list(FixedSubset(dataset, samples=samples, chunk_size=chunk))
        return DatasetLoss(network, lambda net, batch: cross_entropy(net(batch[0]), batch[1]), batches)

    weights = list(network.parameters())
    full, _ = sharpness_profile(loss(40, 20), weights, (1e-3, 5e-4))
    assert found["full corner running 1e-3"] == pytest.approx(full.percent, rel=1e-6)
    assert found["loss running"] == pytest.approx(full.loss, rel=1e-6)
    drawn = subspace_sharpness(loss(30, 30), weights, epsilon=5e-4, draws=2, method="corner")
    assert found["subspace corner running 5e-4"] == pytest.approx(drawn.percent, rel=1e-6)


# Results that are kept


class Counts:
    """An experiment that notes what it is asked to measure."""

    def __init__(self):
        self.asked = []

    def measure(self, run, seed, data_dir, *, extra: int = 0):
        self.asked.append((run, seed))
        return {"value": 10 * seed + extra}


def counting():
    counts = Counts()
    return counts, Experiment(("one", "two"), (0, 1), counts.measure, lambda results: str(results))


def test_what_a_file_holds_is_not_made_again(tmp_path):
    counts, experiment = counting()
    path = tmp_path / "new" / "results.json"
    for seeds in ([1], [0, 1]):
        found = perform(experiment, ResultsFile(path), tmp_path, runs=["one", "two"], seeds=seeds, options={})
    assert counts.asked == [("one", 1), ("two", 1), ("one", 0), ("two", 0)]
    assert found == {run: {0: {"value": 0}, 1: {"value": 10}} for run in ("one", "two")}
    assert ResultsFile(path).results == found
    assert list(path.parent.iterdir()) == [path]


def test_results_of_other_settings_are_not_mixed(tmp_path):
    _, experiment = counting()
    path = tmp_path / "results.json"
    perform(experiment, ResultsFile(path, {"extra": 3}), tmp_path, runs=["one"], seeds=[0], options={"extra": 3})
    assert ResultsFile(path, {"extra": 3}).results == {"one": {0: {"value": 3}}}
    with pytest.raises(ValueError, match=r"out=.*results\.json.*'extra': 3.*choose another file"):
        ResultsFile(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": {}, "results": {"one": {"x": 1}}}'])
def test_a_file_of_something_else_is_refused_and_left(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"out=.*results\.json.*choose another file"):
        ResultsFile(path)
    assert path.read_text() == content


def test_the_published_results_give_the_documents_numbers():
    smith_table = smith_curves.table(published("smith_curves"))
    assert "| growth | 3 | 2902 | 108 ± 9 | 98.66 ± 0.03 |" in smith_table
    assert "+0.000 (-0.011 to +0.011)" in smith_table
    assert smith_table.endswith("before: True")
    assert "| inside-epochs | 2 | 2414 ± 9 | 688 ± 57 | 530 ± 23 | 98.54 ± 0.13 |" in adaptive_batch.table(
        published("adaptive_batch")
    )
    assert "| full lbfgsb batch | 1e-3 | 2.866 ± 5.3 | 147.9 ± 1.3e+02 | 51.6 |" in keskar_tables.table(
        published("keskar_tables")
    )


# The command


def shown(name, tmp_path, capsys, *options):
    """What the command prints of the published results."""
    path = tmp_path / "results.json"
    path.write_text((PUBLISHED / f"{name.replace('-', '_')}.json").read_text())
    assert main([name, "--out", str(path), *options]) == 0
    return capsys.readouterr().out


def test_the_command_prints_the_table_and_draws_the_figure(tmp_path, capsys):
    before = torch.get_num_threads()
    try:
        for name in ("smith-curves", "adaptive-batch"):
            module = import_module(f"lightning_gap.recipes.experiments.{name.replace('-', '_')}")
            out = shown(name, tmp_path, capsys, "--figure", str(tmp_path / "figure.png"))
            assert module.table(published(module.__name__.split(".")[-1])) in out
            assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
        with pytest.raises(ValueError, match=r"figure=.*keskar-tables draws none"):
            shown("keskar-tables", tmp_path, capsys, "--figure", str(tmp_path / "none.png"))
    finally:
        torch.set_num_threads(before)


def test_a_run_that_cannot_work_leaves_no_file(mnist, tmp_path, capsys, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(keskar_tables, "EPOCHS", {"small": 1, "large": 1})
    words = ["keskar-tables", "--data_dir", str(mnist), "--out", str(tmp_path / "results.json")]
    words += [
        "--runs",
        "small",
        "--seeds",
        "2",
        "--draws=1",
        "--samples=20",
        "--chunk_size=10",
        "--subspace_samples=10",
    ]
    with pytest.raises(ValueError, match="batch_size must be from 1 to the 64 training samples, got 256"):
        main(words)  # batches of 256, of 64 samples
    torch.set_num_threads(before)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smith-curve"], "unknown experiment 'smith-curve'; did you mean 'smith-curves'"),
        (["smith-curves", "--runs", "growth", "grow"], "unknown run 'grow'; did you mean 'growth'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(words, message):
    with pytest.raises(ValueError, match=message):
        main(words)


def test_the_list_of_experiments_is_shown_without_a_name(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in experiments())


def test_a_results_file_is_plain_json():
    for path in PUBLISHED.glob("*.json"):
        held = json.loads(path.read_text())
        assert held["settings"] == {}
