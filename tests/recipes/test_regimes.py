import dataclasses
import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lightning_gap import BatchSizeScheduler, GhostBatchNormSwap, LearningRateScaling, PiggybackWarmStart
from lightning_gap.recipes.runner import checkpoints
from lightning_gap.recipes.augmentation import make_augmentation
from lightning_gap.recipes.catalogue import FILES, recipe
from lightning_gap.recipes.checks import check_numbers
from lightning_gap.recipes.classifier import Classifier
from lightning_gap.recipes.datasets import DATASETS, InMemoryData
from lightning_gap.recipes.progress import EpochProgress, progress_bar
from lightning_gap.recipes.recipe import Numbers, chosen
from lightning_gap.recipes.regimes import REGIMES
from lightning_gap.recipes.training import train

NUMBERS = Numbers(
    epochs=11,
    small_batch_size=8,
    large_batch_size=64,
    ghost_batch_size=16,
    warmup_epochs=2,
    learning_rate=0.1,
    validation_size=0,
)


# 1,280 of the digits are trained on: as many updates of 160 as of 640 in four times the epochs.
ON_DIGITS = dataclasses.replace(
    NUMBERS, epochs=5, small_batch_size=160, large_batch_size=640, learning_rate=0.01, validation_size=157
)


@pytest.mark.parametrize(
    ("name", "batch_sizes", "epochs", "kinds"),
    [
        ("small", {0: 8}, 11, []),
        ("large", {0: 64}, 11, []),
        ("linear-lr", {0: 64}, 11, [LearningRateScaling]),
        ("sqrt-lr", {0: 64}, 11, [LearningRateScaling]),
        ("ghost", {0: 64}, 11, [GhostBatchNormSwap]),
        ("ghost-lr", {0: 64}, 11, [GhostBatchNormSwap, LearningRateScaling]),
        ("augmented", {0: 64}, 11, []),
        ("goyal", {0: 64}, 11, [LearningRateScaling]),
        ("growing", {0: 8, 2: 16, 5: 32, 8: 64}, 11, [BatchSizeScheduler]),
        ("piggyback", {0: 8, 3: 64}, 11, [PiggybackWarmStart]),
        ("longer", {0: 64}, 88, []),
    ],
)
def test_a_regime_is_batch_sizes_epochs_and_callbacks(name, batch_sizes, epochs, kinds):
    regime = REGIMES[name](NUMBERS)
    assert (regime.batch_sizes, regime.epochs) == (batch_sizes, epochs)
    first, *_, last = [*batch_sizes.values()] * 2
    assert (regime.batch_size, regime.last_batch_size) == (first, last)
    assert [type(callback) for callback in regime.callbacks] == kinds


@pytest.mark.parametrize(
    ("name", "rule", "warmup"), [("linear-lr", "linear", 2), ("sqrt-lr", "sqrt", 0), ("goyal", "linear", 2)]
)
def test_numbers_reach_the_scaling(name, rule, warmup):
    (scaling,) = REGIMES[name](NUMBERS).callbacks
    assert (scaling.base_batch_size, scaling.rule, scaling.warmup_epochs) == (8, rule, warmup)


@pytest.mark.parametrize("name", REGIMES)
def test_hoffers_regimes_clip_the_gradient_and_the_others_do_not(name):
    clip = {"gradient_clip_val": 5.0} if name in ("sqrt-lr", "ghost-lr") else {}
    assert REGIMES[name](NUMBERS).trainer == clip


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("small", {}),
        ("ghost-lr", {}),
        ("augmented", {"augmentation": "affine"}),
        ("goyal", {"zero_last_gammas": True, "decay_all": False, "batch_norm": "recomputed"}),
        ("longer", {"epochs": 88, "learning_rate_steps": {40: 0.1, 72: 0.02}}),
        ("growing", {"learning_rate_steps": {}}),
    ],
)
def test_a_regime_replaces_the_numbers_that_it_is_about(name, changed):
    numbers = dataclasses.replace(NUMBERS, learning_rate_steps={5: 0.1, 9: 0.02})
    assert REGIMES[name](numbers).numbers == dataclasses.replace(numbers, **changed)


def test_a_batch_grows_where_the_rate_would_decay_and_the_rate_takes_over_at_the_limit():
    # Smith et al. (2018), section 5.1: 128, 640, 3200, and 5120 in place of 16000, which leaves 0.32 of the rate.
    steps = {60: 0.2, 120: 0.04, 160: 0.008}
    numbers = dataclasses.replace(
        NUMBERS, epochs=200, small_batch_size=128, large_batch_size=5120, learning_rate_steps=steps
    )
    regime = REGIMES["growing"](numbers)
    assert regime.batch_sizes == {0: 128, 60: 640, 120: 3200, 160: 5120}
    (growth,) = regime.callbacks
    factors = [growth.schedule(epoch).learning_rate_factor for epoch in (0, 60, 120, 160)]
    assert factors == pytest.approx([1, 1, 1, 0.32])
    for epoch in range(200):  # rate / batch, the noise scale, is that of the decaying schedule
        stage = growth.schedule(epoch)
        decayed = numbers.learning_rate_factor(epoch) / 128
        assert stage.learning_rate_factor / stage.batch_size == pytest.approx(decayed)


def test_a_step_after_the_run_neither_grows_the_batch_nor_warns():
    numbers = dataclasses.replace(NUMBERS, epochs=7, learning_rate_steps={5: 0.5, 9: 0.1})
    assert REGIMES["growing"](numbers).batch_sizes == {0: 8, 5: 16}


def test_a_rate_that_would_rise_after_the_run_hinders_no_growth():
    numbers = dataclasses.replace(NUMBERS, learning_rate_steps={11: 0.5, 5: 0.25})
    assert REGIMES["growing"](numbers).batch_sizes == {0: 8, 5: 32}


def test_steps_given_in_any_order_grow_the_batch_in_that_of_the_epochs():
    numbers = dataclasses.replace(NUMBERS, learning_rate_steps={9: 0.25, 5: 0.5})
    assert list(REGIMES["growing"](numbers).batch_sizes.items()) == [(0, 8), (5, 16), (9, 32)]


IN_STEPS = {"learning_rate_steps": {5: 0.25, 9: 0.0625}}  # the second leaves half of the rate to the batch of 64
SCALED = "rate x 8 (linear from 8) after a warmup of 2 epochs"
RECOMPUTED = "accuracies with BatchNorm statistics recomputed over the training samples"


@pytest.mark.parametrize(
    ("name", "changed", "told"),
    [
        ("small", {}, ""),
        ("large", {}, ""),
        ("linear-lr", {}, SCALED),
        ("linear-lr", {"warmup_epochs": 1}, "rate x 8 (linear from 8) after a warmup of 1 epoch"),
        ("linear-lr", {"warmup_epochs": 0}, "rate x 8 (linear from 8)"),
        ("linear-lr", {"large_batch_size": 4}, "rate x 0.5 (linear from 8)"),  # what shrinks is not warmed up to
        ("linear-lr", {"epochs": 1}, f"{SCALED}, of which the run has 1"),
        ("sqrt-lr", {}, "rate x 2.83 (root, from 8)"),
        ("ghost", {}, "ghosts of 16"),
        ("ghost-lr", {}, "ghosts of 16, rate x 2.83 (root, from 8)"),
        ("longer", {}, "epochs stretched 8 times, to 88 epochs"),
        ("longer", {"learning_rate_steps": {20: 0.1}}, "epochs stretched 8 times, to 88 epochs"),
        ("longer", IN_STEPS, "epochs and rate steps stretched 8 times, to 88 epochs"),
        ("growing", {}, "batch 8, 16 from epoch 2, 32 from epoch 5, 64 from epoch 8, optimizer's state kept"),
        (
            "growing",
            IN_STEPS,
            "batch 8, 32 from epoch 5, 64 from epoch 9, optimizer's state kept, in place of the rate steps but for "
            "rate x 0.5 from epoch 9",
        ),
        (
            "growing",
            {"learning_rate_steps": {5: 0.125, 9: 0.0125}},
            "batch 8, 64 from epoch 5, optimizer's state kept, in place of the rate steps but for rate x 0.1 from "
            "epoch 9",
        ),
        ("piggyback", {}, "batch 8, 64 from epoch 3, optimizer's state kept"),
        ("augmented", {}, "augmentation affine"),
        ("goyal", {}, f"{SCALED}, {RECOMPUTED}"),
        ("goyal", {"weight_decay": 1e-4}, f"{SCALED}, no decay of BatchNorm and biases, {RECOMPUTED}"),
    ],
)
def test_a_regime_tells_what_it_does_with_its_numbers(name, changed, told):
    assert REGIMES[name](dataclasses.replace(NUMBERS, **changed)).told == told


def test_the_first_line_of_goyal_is_short_and_counts_what_the_others_name():
    first, _, others = REGIMES["goyal"].__doc__.partition("\n\n")
    assert first == "Large batch, linear-lr and three more (Goyal et al. 2017)."
    assert others.replace(", and accuracies", ", accuracies").count(",") == 2  # three things


def test_the_rate_follows_its_steps():
    numbers = dataclasses.replace(NUMBERS, learning_rate_steps={9: 0.01, 5: 0.1})
    assert [numbers.learning_rate_factor(epoch) for epoch in (0, 4, 5, 8, 9, 100)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_numbers_reach_the_other_callbacks():
    (swap,), (growth,), (switch,) = (REGIMES[name](NUMBERS).callbacks for name in ("ghost", "growing", "piggyback"))
    assert swap.ghost_batch_size == 16
    assert growth.schedule == {0: 8, 2: 16, 5: 32, 8: 64}
    assert (switch.switch_epoch, switch.large_batch_size, switch.optimizer_state) == (3, 64, "keep")


@pytest.mark.parametrize(("name", "data"), [(name, data) for name in FILES for data in recipe(name).numbers])
def test_every_regime_suits_the_numbers_of_every_recipe(name, data):
    numbers = recipe(name).numbers[data]
    check_numbers(numbers)
    growing, piggyback, longer = (REGIMES[regime](numbers) for regime in ("growing", "piggyback", "longer"))
    assert growing.batch_sizes[0] == numbers.small_batch_size
    assert growing.last_batch_size == numbers.large_batch_size
    assert list(piggyback.batch_sizes) == [0, numbers.epochs / 5]
    assert longer.epochs == math.ceil(numbers.epochs * numbers.large_batch_size / numbers.small_batch_size)
    for regime in REGIMES.values():
        regime(numbers)


def test_a_batch_that_doubles_stops_at_the_large_one():
    regime = REGIMES["growing"](dataclasses.replace(NUMBERS, large_batch_size=40))
    assert list(regime.batch_sizes.values()) == [8, 16, 32, 40]


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("growing", {"epochs": 3}, "growing needs an epoch for each of its batches, 8, 16, 32, 64, got epochs=3; use"),
        ("piggyback", {"epochs": 1}, "piggyback needs an epoch for each of its batches, got epochs=1; use at least 2"),
        ("growing", {"large_batch_size": 8}, "growing needs a large_batch_size above small_batch_size=8, got 8"),
        ("piggyback", {"large_batch_size": 4}, "piggyback needs a large_batch_size above small_batch_size=8, got 4"),
        ("longer", {"large_batch_size": 8}, "longer needs a large_batch_size above small_batch_size=8, got 8"),
        (
            "growing",
            {"learning_rate_steps": {11: 0.1, 20: 0.01}},
            "growing needs a step .* inside the run at which its batch of 8 grows, got epochs=11 and "
            "learning_rate_steps={11: 0.1, 20: 0.01}; use more epochs, earlier steps or smaller factors",
        ),
        ("growing", {"learning_rate_steps": {5: 0.95}}, "its batch of 8 grows, .* earlier steps or smaller factors"),
        (
            "growing",
            {"learning_rate_steps": {9: 0.5, 5: 0.1}},
            "growing needs factors of the rate that fall from 1, got 0.5 after 0.1 .* a factor of at most 0.1",
        ),
        ("growing", {"learning_rate_steps": {5: 2.0}}, "got 2 after 1 .*; give epoch 5 a factor of at most 1"),
        ("ghost", {"ghost_batch_size": 65}, "ghost_batch_size=65 is larger than the batch, large_batch_size=64; use"),
    ],
)
def test_numbers_that_a_regime_cannot_work_with_are_refused(name, changed, message):
    with pytest.raises(ValueError, match=message):
        REGIMES[name](dataclasses.replace(NUMBERS, **changed))


# In a real Trainer, on digits


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)
    )


def data(regime):
    splits = DATASETS["digits"](Path("nowhere"))
    augmentation = make_augmentation(regime.numbers.augmentation, splits)
    return InMemoryData(splits, batch_size=regime.batch_size, validation_size=157, augmentation=augmentation)


class Batches(Callback):
    """The sizes of the training batches, epoch by epoch."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.setdefault(trainer.current_epoch, []).append(len(batch[1]))


def fit(name):
    regime, batches = REGIMES[name](ON_DIGITS), Batches()
    trainer = Trainer(
        max_epochs=regime.epochs,
        accelerator="cpu",
        callbacks=[batches],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **regime.trainer,
    )
    trainer.fit(Classifier(network(), regime.numbers, regime.callbacks), data(regime))
    return trainer, batches.seen


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("small", [160] * 5),
        ("large", [640] * 5),
        ("linear-lr", [640] * 5),
        ("sqrt-lr", [640] * 5),
        ("ghost", [640] * 5),
        ("ghost-lr", [640] * 5),
        ("augmented", [640] * 5),
        ("goyal", [640] * 5),
        ("growing", [160, 320, 320, 640, 640]),
        ("piggyback", [160, 640, 640, 640, 640]),
        ("longer", [640] * 20),
    ],
)
def test_every_epoch_has_the_planned_batches(name, sizes):
    trainer, seen = fit(name)
    assert seen == {epoch: [size] * (1280 // size) for epoch, size in enumerate(sizes)}
    assert trainer.global_step == sum(1280 // size for size in sizes)
    assert float(trainer.callback_metrics["validation/accuracy"]) > 0.6  # it learns; chance is 0.1


def test_longer_makes_the_updates_of_the_small_batch():
    assert fit("longer")[0].global_step == fit("small")[0].global_step == 40


@pytest.mark.parametrize(("name", "factor"), [("linear-lr", 4.0), ("sqrt-lr", 2.0)])
def test_the_rate_ends_scaled_by_the_ratio_of_the_batches(name, factor):
    trainer, _ = fit(name)
    (scaling,) = (callback for callback in trainer.callbacks if isinstance(callback, LearningRateScaling))
    assert scaling.current_scale == pytest.approx(factor)


class StopsAt(Callback):
    """Fails inside an epoch, as a machine does."""

    def __init__(self, epoch, batch):
        self.place = epoch, batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.place:
            raise RuntimeError("power cut")


def run(regime, folder):
    outcome = train(
        network(),
        data(regime),
        regime,
        epsilon=(1e-3,),
        measure_every_n_epochs=2,
        folder=folder,
        logger=TensorBoardLogger(folder / "tensorboard", default_hp_metric=False),
        progress=EpochProgress(progress_bar(), "run"),
        trainer={"accelerator": "cpu"},
    )
    return dataclasses.replace(outcome, seconds=0.0), torch.load(folder / "weights.pt", weights_only=True)


@pytest.mark.parametrize(
    ("name", "epoch", "batch"),
    [
        ("small", 2, 3),
        ("growing", 1, 0),  # resumes from the end of the epoch before the growth
        ("growing", 2, 1),
        ("growing", 3, 1),
        ("piggyback", 1, 0),  # and of the epoch before the switch
        ("piggyback", 3, 0),
        ("sqrt-lr", 1, 1),
        ("longer", 9, 1),
    ],
)
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_cut_inside_an_epoch_resumes_to_the_same_weights_and_numbers(name, epoch, batch, tmp_path):
    whole, cut = REGIMES[name](ON_DIGITS), REGIMES[name](ON_DIGITS)
    with pytest.raises(RuntimeError, match="power cut"):
        run(dataclasses.replace(cut, callbacks=(*cut.callbacks, StopsAt(epoch, batch))), tmp_path / "cut")
    assert list((tmp_path / "cut").glob("epoch=*.ckpt"))
    expected, weights = run(whole, tmp_path / "whole")
    found, resumed = run(REGIMES[name](ON_DIGITS), tmp_path / "cut")
    assert found == expected
    assert (found.epochs, found.last_batch_size) == (whole.epochs, whole.last_batch_size)
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


@pytest.mark.parametrize(("name", "epoch", "batch"), [("small", 2, 5), ("growing", 1, 2), ("ghost-lr", 3, 1)])
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_saved_by_the_clock_goes_on_inside_its_epoch(name, epoch, batch, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SAVED_EVERY", timedelta(microseconds=1))
    monkeypatch.setattr(checkpoints, "ASKED_EVERY", 1)
    cut = REGIMES[name](ON_DIGITS)
    with pytest.raises(RuntimeError, match="power cut"):
        run(dataclasses.replace(cut, callbacks=(*cut.callbacks, StopsAt(epoch, batch))), tmp_path / "cut")
    saved = max((tmp_path / "cut").glob("epoch=*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    inside = torch.load(saved, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert inside["processed"] == batch  # the one that failed was not saved
    seen = Batches()
    again = REGIMES[name](ON_DIGITS)
    found, resumed = run(dataclasses.replace(again, callbacks=(*again.callbacks, seen)), tmp_path / "cut")
    assert len(seen.seen.get(epoch, [])) == 1280 // again.batch_sizes.get(epoch, again.last_batch_size) - batch
    expected, weights = run(REGIMES[name](ON_DIGITS), tmp_path / "whole")
    assert found == expected
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


def test_the_papers_numbers_for_f1_on_mnist():
    numbers = recipe("f1").numbers["mnist"]  # Keskar et al.: 256 against 10 % of 60,000, 100 epochs, ADAM's default
    assert (numbers.small_batch_size, numbers.large_batch_size, numbers.epochs) == (256, 6000, 100)
    assert (numbers.learning_rate, numbers.validation_size) == (1e-3, 0)


@pytest.mark.parametrize("kind", ["recipe", "regime", "data set"])
def test_an_unknown_name_is_refused_with_the_nearest(kind):
    with pytest.raises(
        ValueError, match=f"unknown {kind} 'lineer-lr'; did you mean 'linear-lr'\\? known: small, linear-lr"
    ):
        chosen(kind, "lineer-lr", ["small", "linear-lr"])


def test_a_name_near_to_nothing_is_refused_with_all():
    with pytest.raises(ValueError, match="unknown recipe 'xyz'; known: f1, c1"):
        chosen("recipe", "xyz", ["f1", "c1"])
