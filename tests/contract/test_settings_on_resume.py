"""A run is resumed with the settings of its checkpoint, or the difference is refused before the first step."""

import math

import pytest
import tiny
import torch

from lightning_gap import (
    AdaptiveBatchSize,
    BatchSizeScheduler,
    ExactAccumulation,
    GradientNoiseScaleMonitor,
    LearningRateScaling,
    OptimizerScaling,
    PiggybackWarmStart,
    SharpnessMonitor,
    WeightDistanceMonitor,
)
from lightning_gap.callbacks._callback import KEY
from lightning_gap.functional import AdaBatch, GeometricGrowth, SmithGrowth


def cubic(size, base):
    return (size / base) ** 3


def quartic(size, base):
    return (size / base) ** 4


def samples(batch):
    return len(batch[0])


def labels(batch):
    return len(batch[1])


def fit(callback, epochs=1, ckpt_path=None):
    trainer = tiny.trainer(callback, max_epochs=epochs)
    trainer.fit(tiny.TinyClassifier(), tiny.loader(), ckpt_path=ckpt_path)
    return trainer


@pytest.fixture
def resumed(tmp_path):
    """Train an epoch with one callback, go on with another; the Trainer of the second."""

    def run(first, second, edit=None):
        path = tmp_path / "one.ckpt"
        fit(first).save_checkpoint(path)
        checkpoint = torch.load(path, weights_only=True)
        if edit is not None:
            torch.save(edit(checkpoint), path)
        trainer = tiny.trainer(second, max_epochs=2)
        try:
            trainer.fit(tiny.TinyClassifier(), tiny.loader(), ckpt_path=path)
        except ValueError:
            assert trainer.global_step == 0
            raise
        return trainer

    return run


PLAIN = {"base_batch_size": 16, "warmup_epochs": 1}


@pytest.mark.promise("changed")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"base_batch_size": 8},
            r"base_batch_size=16, this run has base_batch_size=8: .* resume with base_batch_size=16",
        ),
        ({"rule": "sqrt"}, "rule='linear', this run has rule='sqrt'"),
        ({"rule": cubic}, "rule='linear', this run has rule='cubic'"),
        ({"warmup_epochs": 0.5}, r"warmup_epochs=1(\.0)?, this run has warmup_epochs=0.5"),
        ({"warmup_steps": 3}, "warmup_steps=None, this run has warmup_steps=3"),
        ({"warmup": "constant"}, "warmup='gradual', this run has warmup='constant'"),
        ({"warmup_start": 0.5}, r"warmup_start=1.0, this run has warmup_start=0.5"),
        ({"when_batch_changes": "keep"}, "when_batch_changes='rescale', this run has when_batch_changes='keep'"),
    ],
)
def test_another_scaling_is_refused(resumed, changed, message):
    with pytest.raises(ValueError, match=f"trained with LearningRateScaling's {message}"):
        resumed(LearningRateScaling(**PLAIN), LearningRateScaling(**PLAIN | changed))


@pytest.mark.promise("changed")
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (LearningRateScaling(16, rule=cubic), LearningRateScaling(16, rule=quartic), "rule='cubic', .* rule='quartic'"),
        (OptimizerScaling(16, "sqrt"), OptimizerScaling(16, "linear"), r"rule=\['sqrt'\], .* rule=\['linear'\]"),
        (OptimizerScaling(16, "sqrt"), OptimizerScaling(8, "sqrt"), "base_batch_size=16, .* base_batch_size=8"),
        (
            BatchSizeScheduler({0: 16, 1: 24}),
            BatchSizeScheduler({0: 24}),
            r"batches of 16 and a learning-rate factor of 1.0 in epoch 0, this run's schedule has 24",
        ),
        (
            BatchSizeScheduler(SmithGrowth(16, [1], 48, factor=2.0)),
            BatchSizeScheduler(SmithGrowth(24, [1], 48, factor=2.0)),
            r"batches of 16 and a learning-rate factor of 1.0 in epoch 0, this run's schedule has 24",
        ),
        (
            BatchSizeScheduler(lambda epoch: 16),
            BatchSizeScheduler(lambda epoch: 24 if epoch == 0 else 16),
            r"batches of 16 and a learning-rate factor of 1.0 in epoch 0, this run's schedule has 24",
        ),
        (
            AdaptiveBatchSize(16, 48, micro_batches=2),
            AdaptiveBatchSize(16, 48, micro_batches=2, theta=0.5),
            "theta=0.9, this run has theta=0.5",
        ),
        (
            PiggybackWarmStart(1, 48, optimizer_state="keep"),
            PiggybackWarmStart(1, 48, optimizer_state="reset"),
            "optimizer_state='keep', this run has optimizer_state='reset'",
        ),
        (ExactAccumulation(samples), ExactAccumulation(labels), "count='samples', this run has count='labels'"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
@pytest.mark.filterwarnings("ignore:the schedule changes the batch size at epoch 1")
@pytest.mark.filterwarnings("ignore:warmup_epochs=5")
def test_another_schedule_is_refused(first, second, message, tmp_path):
    trainer = tiny.trainer(first, max_epochs=2, max_steps=2)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    torch.load(tmp_path / "two.ckpt", weights_only=True)
    second_trainer = tiny.trainer(second, max_epochs=2)
    with pytest.raises(ValueError, match=message):
        second_trainer.fit(tiny.TinyClassifier(), tiny.loader(), ckpt_path=tmp_path / "two.ckpt")
    assert second_trainer.global_step == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (LearningRateScaling(**PLAIN), LearningRateScaling(**PLAIN, micro_batch_size=16)),
        (OptimizerScaling(16, "sqrt"), OptimizerScaling(16, ["sqrt"], micro_batch_size=16)),
        (BatchSizeScheduler({0: 16}), BatchSizeScheduler({0: 16}, max_micro_batch=8)),
        (BatchSizeScheduler(AdaBatch(16, 32)), BatchSizeScheduler(AdaBatch(16, 32))),
        (BatchSizeScheduler(lambda epoch: 16), BatchSizeScheduler(lambda epoch: 16 + 8 * epoch)),
        (LearningRateScaling(16, rule=cubic, warmup_epochs=0), LearningRateScaling(16, rule=cubic, warmup_epochs=0)),
        (SharpnessMonitor(samples=16), SharpnessMonitor(samples=16, every_n_epochs="log", max_time_share=None)),
        (WeightDistanceMonitor(), WeightDistanceMonitor(per_layer=True)),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_what_decides_nothing_may_change(resumed, first, second):
    assert resumed(first, second).current_epoch == 2


@pytest.mark.promise("changed")
def test_a_monitor_that_measures_otherwise_says_so(resumed):
    for first, second, message in (
        (SharpnessMonitor(1e-3, samples=16), SharpnessMonitor((1e-3, 5e-4), samples=16), "SharpnessMonitor's epsilon"),
        (
            GradientNoiseScaleMonitor(samples=16, chunk_size=8),
            GradientNoiseScaleMonitor(samples=32, chunk_size=8),
            "samples=16, this run has samples=32",
        ),
    ):
        with pytest.warns(UserWarning, match=message):
            resumed(first, second)


def test_two_of_a_class_are_each_compared_with_their_own(tmp_path):
    def monitors(seed):
        return [SharpnessMonitor(samples=16), SharpnessMonitor(samples=32, seed=seed, suffix="_more")]

    trainer = tiny.trainer(*monitors(1), max_epochs=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    tiny.trainer(*monitors(1)).fit(tiny.TinyClassifier(), tiny.loader(), ckpt_path=tmp_path / "one.ckpt")
    with pytest.warns(UserWarning, match="seed=1, this run has seed=2"):
        tiny.trainer(*monitors(2)).fit(tiny.TinyClassifier(), tiny.loader(), ckpt_path=tmp_path / "one.ckpt")


def test_a_checkpoint_of_before_and_one_of_a_plain_run_are_resumed(resumed, tmp_path):
    def before(checkpoint):
        assert checkpoint.pop(KEY)["LearningRateScaling"]["base_batch_size"] == 16
        return checkpoint

    assert (
        resumed(LearningRateScaling(**PLAIN), LearningRateScaling(8, warmup_epochs=0), edit=before).current_epoch == 2
    )
    plain = tiny.trainer(max_epochs=1)
    plain.fit(tiny.TinyClassifier(), tiny.loader())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    assert fit(BatchSizeScheduler(GeometricGrowth(16, 48)), 2, tmp_path / "plain.ckpt").current_epoch == 2


def test_validating_a_checkpoint_compares_nothing(tmp_path):
    fit(LearningRateScaling(**PLAIN)).save_checkpoint(tmp_path / "one.ckpt")
    trainer = tiny.trainer(LearningRateScaling(8, warmup_epochs=0))
    found = trainer.validate(tiny.Validated(), tiny.loader(), ckpt_path=tmp_path / "one.ckpt", verbose=False)
    assert math.isfinite(found[0]["val_loss"])
