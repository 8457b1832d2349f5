import csv
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from scipy import stats
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap import WeightDistanceMonitor

DISTANCE, RATIO = "weights/distance_from_init", "weights/distance_ratio"
LINE = ("weights/log_slope", "weights/log_r2")


class ByHand(Callback):
    """NumPy's norm of the weights' way since the start after every optimizer step, and what is logged by each epoch."""

    def __init__(self):
        self.distances, self.logged = {0: 0.0}, {}

    def on_train_start(self, trainer, pl_module):
        self.start = self.weights(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.distances[trainer.global_step] = float(np.linalg.norm(self.weights(pl_module) - self.start))

    def on_train_epoch_end(self, trainer, pl_module):
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if "weights/" in name}
        if metrics and metrics not in self.logged.values():
            self.logged[trainer.global_step] = metrics

    def line(self, steps):
        found = stats.linregress(np.log(steps), [self.distances[step] for step in steps])
        return found.slope, found.rvalue**2

    @staticmethod
    def weights(module):
        return np.concatenate([p.detach().numpy().ravel().astype(np.float64) for p in module.parameters()])


class Repeatable(tiny.Validated):
    """Takes its batch by the number of the step: a stock loader starts again in the middle of an epoch."""

    def __init__(self, **options):
        super().__init__(**({"dropout": 0.0} | options))

    def training_step(self, batch, batch_idx):
        inputs, targets = tiny.dataset(seed=self.trainer.global_step).tensors
        return cross_entropy(self(inputs), targets)


def fit(*callbacks, module=None, ckpt_path=None, **options):
    module = module or tiny.Validated()
    trainer = tiny.trainer(*callbacks, **options)
    trainer.fit(module, tiny.loader(), tiny.loader(24, seed=2), ckpt_path=ckpt_path)
    return trainer, module


@pytest.mark.parametrize(
    ("every_n_epochs", "measured", "points"),
    [
        (1, range(3, 19, 3), [1, 2, 3, 4, 6, 8, 9, 12, 15, 16, 18]),
        (4, [12, 18], [1, 2, 4, 8, 12, 16, 18]),
        ("log", [3, 6, 12, 18], [1, 2, 3, 4, 6, 8, 12, 16, 18]),
    ],
)
def test_it_logs_the_distance_and_its_fit_against_the_logarithm_of_the_step(every_n_epochs, measured, points):
    by_hand = ByHand()
    fit(WeightDistanceMonitor(every_n_epochs=every_n_epochs), by_hand, max_epochs=6)
    assert list(by_hand.logged) == list(measured)
    for step, logged in by_hand.logged.items():
        assert logged[DISTANCE] == pytest.approx(by_hand.distances[step], rel=1e-6)
        line = by_hand.line([point for point in points if point <= step])
        assert [logged[key] for key in LINE] == pytest.approx(line, rel=1e-5)


def test_the_line_waits_for_three_points():
    by_hand = ByHand()
    fit(WeightDistanceMonitor(), by_hand, max_epochs=2, limit_train_batches=2)
    assert [set(LINE) <= set(logged) for logged in by_hand.logged.values()] == [False, True]


def test_accumulated_batches_give_one_point_per_step():
    monitor, by_hand = WeightDistanceMonitor(), ByHand()
    fit(monitor, by_hand, max_epochs=3, accumulate_grad_batches=2)  # two steps in an epoch of three batches
    state = monitor.state_dict()
    assert state["steps"] == [1, 2, 4, 6]
    assert state["distances"] == pytest.approx([by_hand.distances[step] for step in state["steps"]], rel=1e-6)


def test_several_optimizers_step_over_powers_of_two():
    class Three(tiny.Validated):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.manual_backward(cross_entropy(self(batch[0]), batch[1]))
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(self.parameters(), lr=0.01) for _ in range(3)]

    monitor = WeightDistanceMonitor(every_n_epochs=9)
    fit(monitor, module=Three(), max_epochs=3)
    assert monitor.state_dict()["steps"] == [3, 6, 9, 18]  # first of 2-3, 4-7, 8-15, 16-31


def test_a_run_without_optimizer_steps_has_no_line():
    class Rests(tiny.Validated):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            pass

    trainer, _ = fit(WeightDistanceMonitor(), module=Rests(), max_epochs=4)
    assert {name for name in trainer.callback_metrics if "weights/" in name} == {DISTANCE}
    assert trainer.callback_metrics[DISTANCE] == 0


def test_an_epoch_that_the_module_cuts_short_is_a_point():
    class Cuts(tiny.Validated):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 1 else None

    monitor = WeightDistanceMonitor()
    fit(monitor, module=Cuts(), max_epochs=5)
    assert monitor.state_dict()["steps"] == [1, 2, 3, 4, 5]


class Saves(Callback):
    """After every batch, after validation, and after every epoch: as ModelCheckpoint does by its options."""

    def __init__(self, folder):
        self.folder, self.files = folder, []

    def save(self, trainer, when):
        if not trainer.sanity_checking:
            self.files.append(self.folder / f"{trainer.global_step}-{when}.ckpt")
            trainer.save_checkpoint(self.files[-1])

    def on_train_batch_end(self, trainer, *_):
        self.save(trainer, "batch")

    def on_validation_end(self, trainer, *_):
        self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer, *_):
        self.save(trainer, "epoch")


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize(
    ("every_n_epochs", "skipping"), [(1, 1), ("log", 3), pytest.param("log", 1, marks=pytest.mark.slow)]
)
def test_a_run_resumed_anywhere_goes_on_bit_for_bit(tmp_path, every_n_epochs, skipping):
    torch.save(Repeatable(seed=3).state_dict(), tmp_path / "other.pt")

    def run(*callbacks, seed=0, ckpt_path=None):
        monitor = WeightDistanceMonitor(every_n_epochs=every_n_epochs, per_layer=True, compare_with=other)
        watch = ByHand()
        trainer, _ = fit(monitor, watch, *callbacks, module=Repeatable(seed=seed), max_epochs=5, ckpt_path=ckpt_path)
        assert trainer.global_step == 15
        return monitor.state_dict(), watch.logged

    other = tmp_path / "other.pt"
    saves = Saves(tmp_path)
    state, logged = run(saves)
    assert len(saves.files) == 25
    for file in saves.files[:-3:skipping]:  # from the last three there is nothing left to do
        assert torch.load(file, weights_only=True)["callbacks"]["WeightDistanceMonitor{'suffix': ''}"]["start"]
        again, logged_again = run(seed=9, ckpt_path=file)  # a new process starts from other random weights
        assert (again["steps"], again["distances"]) == (state["steps"], state["distances"]), file
        assert all(torch.equal(again["start"][name], state["start"][name]) for name in state["start"])
        assert logged_again == {step: logged[step] for step in logged_again}, file
        assert list(logged_again)[-1] == 15


def test_a_longer_run_knows_nothing_of_the_end_planned_first(tmp_path):
    def run(max_epochs, ckpt_path=None):
        monitor = WeightDistanceMonitor(every_n_epochs=3)
        trainer, _ = fit(monitor, module=Repeatable(), max_epochs=max_epochs, ckpt_path=ckpt_path)
        return trainer, monitor.state_dict()

    trainer, _ = run(4)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert str(run(7, tmp_path / "run.ckpt")[1]) == str(run(7)[1])


def test_a_run_that_stops_early_is_measured_at_its_end(tmp_path):
    by_hand, logger = ByHand(), CSVLogger(tmp_path)
    stop = EarlyStopping("val_loss", stopping_threshold=1e9)  # at once, but for min_epochs
    monitor = WeightDistanceMonitor(every_n_epochs=2, per_layer=True)
    trainer, _ = fit(stop, monitor, by_hand, min_epochs=3, max_epochs=9, logger=logger)
    assert trainer.global_step == 9
    assert list(by_hand.logged) == [6]
    assert trainer.callback_metrics[DISTANCE].item() == pytest.approx(by_hand.distances[9], rel=1e-6)
    line = by_hand.line([1, 2, 4, 6, 8, 9])
    assert [trainer.callback_metrics[key].item() for key in LINE] == pytest.approx(line, rel=1e-5)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row[DISTANCE]]
    assert [row["step"] for row in rows] == ["5", "8"]  # the last step, from 0
    assert float(rows[-1][DISTANCE]) == pytest.approx(by_hand.distances[9], rel=1e-6)
    assert float(rows[-1]["weights/layers/net.0"]) > 0


@pytest.mark.parametrize("options", [{"max_steps": 5, "max_epochs": -1}, {"max_epochs": 9}])
def test_a_run_that_stops_within_an_epoch_is_measured_at_its_end(options):
    class Stops(tiny.Validated):
        def on_train_batch_end(self, *_):
            self.trainer.should_stop = self.trainer.global_step == 5

    monitor, by_hand = WeightDistanceMonitor(every_n_epochs=4), ByHand()
    trainer, _ = fit(monitor, by_hand, module=Stops(), **options)
    assert trainer.global_step == 5
    assert trainer.callback_metrics[DISTANCE].item() == pytest.approx(by_hand.distances[5], rel=1e-6)
    assert monitor.state_dict()["steps"] == [1, 2, 4]


def test_weights_that_are_replaced_at_the_end_of_the_run_do_not_matter():
    class Averages(Callback):
        def on_train_end(self, trainer, pl_module):
            with torch.no_grad():
                for weight in pl_module.parameters():
                    weight.zero_()

    by_hand, stop = ByHand(), EarlyStopping("val_loss", stopping_threshold=1e9)
    trainer, _ = fit(Averages(), stop, WeightDistanceMonitor(every_n_epochs=5), by_hand, max_epochs=9)
    assert trainer.callback_metrics[DISTANCE].item() == pytest.approx(by_hand.distances[3], rel=1e-6)


def test_layers_add_up_with_tied_and_frozen_weights():
    class Tied(tiny.Validated):
        def __init__(self):
            super().__init__()
            self.net[0], self.temperature = nn.Linear(8, 16), nn.Parameter(torch.ones(1))
            self.again = nn.Linear(8, 16, bias=False)
            self.again.weight = self.net[0].weight
            self.net[1].requires_grad_(False)

        def forward(self, inputs):
            return self.net(inputs) * self.temperature + self.again(inputs)[:, :3]

    module, by_hand = Tied(), ByHand()
    start = tiny.state_of(module)
    trainer, _ = fit(WeightDistanceMonitor(per_layer=True, suffix="_x"), by_hand, module=module)
    layers = {
        name.removeprefix("weights/layers/"): value.item()
        for name, value in trainer.callback_metrics.items()
        if "layers/" in name
    }
    end = tiny.state_of(module)
    expected = {
        f"{layer}_x": math.sqrt(sum(float((end[name] - start[name]).square().sum()) for name in names))
        for layer, names in {
            "_root": ["temperature"],
            "net.0": ["net.0.weight", "net.0.bias"],
            "net.1": [],
            "net.4": ["net.4.weight", "net.4.bias"],
        }.items()
    }
    assert layers == pytest.approx(expected, rel=1e-5)
    assert min(value for name, value in layers.items() if name != "net.1_x") > 0
    assert math.hypot(*layers.values()) == pytest.approx(by_hand.distances[6], rel=1e-6)


def test_weights_that_are_unfrozen_on_the_way_count():
    class Unfreezes(tiny.Validated):
        def on_train_epoch_start(self):
            self.net[0].requires_grad_(self.current_epoch > 0)

    by_hand = ByHand()
    fit(WeightDistanceMonitor(), by_hand, module=Unfreezes(), max_epochs=3)
    for step, logged in by_hand.logged.items():
        assert logged[DISTANCE] == pytest.approx(by_hand.distances[step], rel=1e-6)


@pytest.mark.parametrize("kind", ["checkpoint", "state_dict"])
def test_the_ratio_is_taken_to_the_other_runs_whole_way(tmp_path, kind):
    slow = ByHand()
    trainer, module = fit(slow, module=tiny.Validated(learning_rate=0.01), max_epochs=3)
    if kind == "checkpoint":
        trainer.save_checkpoint(tmp_path / "slow")
    else:
        torch.save(module.state_dict(), tmp_path / "slow")
    fast = ByHand()
    monitor = WeightDistanceMonitor(compare_with=str(tmp_path / "slow"))
    fit(monitor, fast, max_epochs=3)
    assert RATIO in monitor.keys
    for step, logged in fast.logged.items():
        assert logged[RATIO] == pytest.approx(fast.distances[step] / slow.distances[9], rel=1e-5)


def test_without_another_run_there_is_no_ratio():
    monitor = WeightDistanceMonitor()
    trainer, _ = fit(monitor)
    assert RATIO not in {*monitor.keys, *trainer.callback_metrics}


def changed(**values):
    return tiny.Validated(seed=3).state_dict() | values


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"no weights", "compare_with="),
        ([1, 2], "it holds a list, not weights by name"),
        ({"state_dict": 3}, "its state_dict is a int, not weights by name"),
        (changed(**{"net.9.weight": torch.ones(1)}), r"its names differ from the model's in net\.9\.weight"),
        ({}, r"differ from the model's in net\.0\.bias, .* and 1 more"),
        (changed(**{"net.4.bias": torch.ones(4)}), r"its shapes differ from the model's in net\.4\.bias"),
        (changed(**{"net.4.bias": torch.full((3,), math.nan)}), r"net\.4\.bias"),
        (tiny.Validated().state_dict(), r"its distance from the start of this run is 0\.0"),
    ],
)
def test_another_run_that_cannot_be_compared_is_refused(tmp_path, content, problem):
    file = tmp_path / "other.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(ValueError, match=problem) as error:
        fit(WeightDistanceMonitor(compare_with=file))
    assert f"compare_with={str(file)!r}" in str(error.value)
    assert "give the final weights of a run of the same network" in str(error.value)


def test_another_runs_buffers_do_not_count(tmp_path):
    other = {name: value for name, value in changed().items() if "running" not in name}
    torch.save(other, tmp_path / "other.pt")
    trainer, _ = fit(WeightDistanceMonitor(compare_with=tmp_path / "other.pt"))
    assert trainer.callback_metrics[RATIO] > 0


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    trainer, _ = fit(WeightDistanceMonitor(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    module = tiny.Validated()
    module.net.append(nn.Linear(3, 3))
    module.strict_loading = False
    with pytest.raises(ValueError, match=r"differ in parameters: net\.5\.bias, net\.5\.weight"):
        fit(WeightDistanceMonitor(), module=module, ckpt_path=tmp_path / "run.ckpt")


def test_a_checkpoint_that_knows_no_start_is_said_so(tmp_path):
    trainer, _ = fit(max_epochs=1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    with pytest.warns(UserWarning, match="saved without WeightDistanceMonitor"):
        fit(WeightDistanceMonitor(), ckpt_path=tmp_path / "run.ckpt")


@pytest.mark.filterwarnings(
    "ignore:Lazy modules", "ignore:The total number of parameters", "ignore:A layer with Uninit"
)
def test_lazy_weights_are_refused_by_name():
    module = tiny.Validated()
    module.net[0] = nn.LazyLinear(16)
    with pytest.raises(ValueError, match=r"parameter net\.0\.weight is lazy"):
        fit(WeightDistanceMonitor(), module=module)


@pytest.mark.parametrize("value", [0, 1.5, "linear"])
def test_every_n_epochs_must_be_log_or_positive(value):
    with pytest.raises(ValueError, match=f"every_n_epochs must be a whole number, at least 1, got {value!r}"):
        WeightDistanceMonitor(every_n_epochs=value)


def test_its_state_holds_plain_types_only():
    monitor = WeightDistanceMonitor()
    fit(monitor)
    state = monitor.state_dict()
    assert {type(value) for value in state["start"].values()} == {torch.Tensor}
    assert {type(value) for value in state["steps"]} == {int}
    assert {type(value) for value in state["distances"]} == {float}


def test_parameters_that_are_renamed_during_training_end_the_run_with_the_reason():
    class Renames(tiny.TinyClassifier):
        def on_train_epoch_start(self):
            torch.nn.utils.parametrizations.weight_norm(self.net[0])

    with pytest.raises(ValueError, match=r"WeightDistanceMonitor misses net\.0\.weight: something renamed"):
        tiny.trainer(WeightDistanceMonitor(), max_epochs=1).fit(Renames(), tiny.loader())
