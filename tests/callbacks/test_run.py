"""Callbacks meet in the run of their Trainer: their order makes no difference, and one thing is claimed once."""

import gc
import random
import re
import weakref
from functools import cache
from pathlib import Path

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

import lightning_gap
from lightning_gap import (
    AdaptiveBatchSize,
    BatchSizeScheduler,
    CurvatureMonitor,
    ExactAccumulation,
    GeneralizationGapMonitor,
    GhostBatchNormSwap,
    GradientNoiseScaleMonitor,
    LearningRateScaling,
    PiggybackWarmStart,
    RecomputeBatchNorm,
    ResumableLoader,
    ResumeExactly,
    SharpnessMonitor,
    WeightDistanceMonitor,
)
from lightning_gap.callbacks._callback import GapCallback
from lightning_gap.callbacks._run import run_of
from lightning_gap.functional import SmithGrowth

SMALL = {"samples": 16, "chunk_size": 8, "max_time_share": None}  # a busy machine leaves out no measurement
OWNERS = {
    "schedule": lambda: BatchSizeScheduler({0: 8, 2: 16}, max_micro_batch=8),
    "growth with its own learning rate": lambda: BatchSizeScheduler(SmithGrowth(8, [1, 2], 16, factor=2.0)),
    "adaptive": lambda: AdaptiveBatchSize(8, 24, test="noise_scale", measure_every_n_steps=1, micro_batches=2),
    "piggyback": lambda: PiggybackWarmStart(1, 24, optimizer_state="reset"),
}


def samples(batch):
    return len(batch[0])


def everybody(owner):
    keeps = "keep" if "growth" in owner else "rescale"
    return [
        OWNERS[owner](),
        LearningRateScaling(8, warmup_epochs=1, when_batch_changes=keeps),
        ExactAccumulation(samples),
        GhostBatchNormSwap(2),
        ResumeExactly(),
        RecomputeBatchNorm(),
        SharpnessMonitor(**SMALL, max_evaluations=2),
        CurvatureMonitor(**SMALL, max_products=3, probes=0),
        GradientNoiseScaleMonitor(**SMALL, probes=0),
        GeneralizationGapMonitor(**SMALL),
        WeightDistanceMonitor(),
    ]


def fit(*callbacks, ckpt_path=None, **options):
    torch.manual_seed(0)
    module = tiny.Validated()
    trainer = tiny.trainer(*callbacks, **({"max_epochs": 3} | options))
    loader = ResumableLoader(tiny.dataset(52), batch_size=8, shuffle=True)
    trainer.fit(module, loader, tiny.loader(24, seed=2), ckpt_path=ckpt_path)
    return tiny.state_of(module), {key: float(value) for key, value in trainer.callback_metrics.items()}


@cache
def expected(owner):
    return fit(*everybody(owner))


def assert_as_expected(owner, found):
    (weights, logged), (expected_weights, expected_logged) = found, expected(owner)
    assert tiny.same(weights, expected_weights)
    assert logged == pytest.approx(expected_logged, nan_ok=True, rel=0, abs=0)


@pytest.mark.parametrize("seed", [None, 0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("owner", OWNERS)
def test_in_any_order_the_weights_and_the_logged_values_are_the_same_to_the_bit(owner, seed):
    callbacks = everybody(owner)
    callbacks.reverse() if seed is None else random.Random(seed).shuffle(callbacks)
    assert_as_expected(owner, fit(*callbacks))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_resumes_with_its_callbacks_in_another_order(tmp_path):
    saves = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1, save_on_train_epoch_end=False)
    whole, _ = fit(*everybody("adaptive"), saves, enable_checkpointing=True)
    steps = sorted(int(path.stem.removeprefix("step=")) for path in tmp_path.iterdir())
    for step in (steps[1], steps[len(steps) // 2], steps[-2]):
        callbacks = everybody("adaptive")
        random.Random(step).shuffle(callbacks)
        weights, _ = fit(*callbacks, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert tiny.same(weights, whole), step


@pytest.mark.parametrize(
    ("callbacks", "names"),
    [
        (lambda: [OWNERS["schedule"](), OWNERS["adaptive"]()], "BatchSizeScheduler and AdaptiveBatchSize both set"),
        (lambda: [OWNERS["adaptive"](), OWNERS["piggyback"]()], "AdaptiveBatchSize and PiggybackWarmStart both set"),
        (
            lambda: [LearningRateScaling(8), OWNERS["growth with its own learning rate"]()],
            "LearningRateScaling and BatchSizeScheduler both .*when_batch_changes='keep'",
        ),
        (
            lambda: [OWNERS["growth with its own learning rate"](), LearningRateScaling(8)],
            "BatchSizeScheduler and LearningRateScaling both .*when_batch_changes='keep'",
        ),
        (lambda: [ExactAccumulation(samples), BatchSizeScheduler({0: 8}, count=len)], "different count functions"),
        (lambda: [WeightDistanceMonitor(), WeightDistanceMonitor(per_layer=True)], "both log weights/.* suffix"),
    ],
)
def test_what_two_claim_is_refused_and_both_are_named(callbacks, names):
    with pytest.raises((ValueError, RuntimeError), match=names + "|more than one stateful callback"):
        fit(*callbacks())
    first, *_ = callbacks()
    fit(first)  # and nothing of it is left


def test_the_batch_size_is_one_number_for_all_who_ask():
    class Asks(Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, *_):
            metrics = trainer.callback_metrics
            if KEYS[0] in metrics:
                self.seen.append({run_of(trainer).batch_size(trainer), *(int(metrics[key]) for key in KEYS)})

    asks = Asks()
    fit(LearningRateScaling(8, warmup_epochs=0), OWNERS["schedule"](), asks)
    assert {len(sizes) for sizes in asks.seen} == {1}
    assert set.union(*asks.seen) == {8, 16}
    alone = Asks()
    fit(LearningRateScaling(8, warmup_epochs=0), alone, accumulate_grad_batches=3)
    assert set.union(*alone.seen) == {24}


KEYS = ("batch/size", "batch/effective")


def test_no_callback_looks_for_an_attribute_of_another():
    package = Path(lightning_gap.__file__).parent
    for file in [*(package / "callbacks").rglob("*.py"), *(package / "trainer").rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        assert not re.findall(r"(?:get|has|set)attr\((?:other|callback|held|each|another)\b", text), file


def test_a_second_trainer_that_validates_in_the_middle_changes_nothing():
    class Validates(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            others = [callback for callback in trainer.callbacks if callback is not self]
            tiny.trainer(*others).validate(tiny.Validated(), tiny.loader(24, seed=2), verbose=False)

    for owner in ("schedule", "growth with its own learning rate"):
        assert_as_expected(owner, fit(*everybody(owner), Validates()))


def test_whoever_asks_is_told_the_batch_size():
    class Asks(GapCallback):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            self.size = run_of(trainer).batch_size(trainer)

    asks = Asks()
    fit(asks, accumulate_grad_batches=2, max_epochs=1)
    assert asks.size == 16


def test_asking_before_training_begins_is_an_error():
    class TooSoon(GapCallback):
        def on_fit_start(self, trainer, pl_module):
            run_of(trainer).batch_size(trainer)

    class Stranger(Callback):
        def on_train_start(self, trainer, pl_module):
            run_of(trainer).batch_size(trainer)

    for callback in (TooSoon(), Stranger()):
        with pytest.raises(RuntimeError, match="batch size is read when training begins"):
            fit(callback)


def test_a_first_callback_that_does_not_begin_the_run_is_named():
    class Forgets(GapCallback):
        def on_train_start(self, trainer, pl_module):
            pass

    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"Forgets\.on_train_start must call super\(\)"):
            fit(Forgets(), LearningRateScaling(8, warmup_epochs=0))
    fit(LearningRateScaling(8, warmup_epochs=0), Forgets(), max_epochs=1)  # where another is the first, it need not


def test_no_batch_is_kept_when_the_fit_is_over():
    class Batch(list):  # a list that can be referred to weakly
        pass

    seen = []

    class Remembers(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(weakref.ref(batch))

    def collate(samples):
        return Batch(torch.utils.data.default_collate(samples))

    trainer = tiny.trainer(ExactAccumulation(samples), LearningRateScaling(8, warmup_epochs=0), Remembers())
    loader = torch.utils.data.DataLoader(tiny.dataset(), batch_size=8, collate_fn=collate)
    trainer.fit(tiny.TinyClassifier(), loader)
    gc.collect()
    assert seen
    assert not [batch for batch in seen if batch() is not None]
    with pytest.raises(RuntimeError, match="when training begins"):
        run_of(trainer).batch_size(trainer)


def test_a_run_goes_with_its_trainer():
    trainer = tiny.trainer(*everybody("adaptive"), max_epochs=1)
    trainer.fit(tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2))
    run = weakref.ref(run_of(trainer))
    assert run() is run_of(trainer)
    del trainer
    gc.collect()
    assert run() is None


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (lambda: SharpnessMonitor(), {"samples": 8, "chunk_size": 4, "epsilon": 1e-2, "every_n_epochs": 2}),
        (lambda: CurvatureMonitor(probes=0), {"samples": 8, "max_products": 2, "suffix": "_b"}),
        (lambda: GradientNoiseScaleMonitor(probes=0), {"samples": 16, "chunk_size": 4, "at_start": True}),
        (lambda: GeneralizationGapMonitor(), {"samples": 8, "seed": 3}),
    ],
)
def test_arguments_that_are_set_before_fit_count(make, changes):
    late = make()
    for name, value in changes.items():
        setattr(late, name, value)
    early = type(late)(**({"probes": 0} if hasattr(late, "probes") else {}), **changes)
    assert fit(late)[1] == pytest.approx(fit(early)[1], nan_ok=True, rel=0, abs=0)
    late.samples = 0
    with pytest.raises(ValueError, match="samples"):
        fit(late)


def test_the_run_of_a_trainer_ends_with_it():
    trainer = tiny.trainer()
    run = weakref.ref(run_of(trainer))
    assert run_of(trainer) is run()
    del trainer
    gc.collect()
    assert run() is None
