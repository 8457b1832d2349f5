"""Each cause, planted and absent, on numbers that are worked out by hand; and what cannot be told."""

import pytest

from lightning_gap.recipes.doctor import diagnose
from lightning_gap.recipes.doctor.facts import Facts, Reading, share_in_the_last_fifth

HEALTHY = {  # batch 320 of a rate tuned for 32: nothing to find
    "batch_size": 320,
    "base_batch_size": 32,
    "first_batch_size": 320,
    "steps": 40,
    "scale": 10,
    "first_scale": 1,
    "peak_rate": 0.5,
    "last_rate": 0.001,
    "clip": 0,
    "train_loss": 0.002,
    "still_falling": 0.01,
    "batch_norm": 2,
    "ghosts": 2,
    "stored_statistics": 1,
    "weighed": 1,
    "weight_decay": 1e-4,
    "decay_in_gradient": 0,
    "ema_decay": 0,
}


def facts(**changed):
    values = {**HEALTHY, **changed}
    return Facts(name="run", **{name: None if v is None else Reading(v, f"file: {name}") for name, v in values.items()})


def told(changed, small=None):
    (found,) = diagnose([facts(**changed)], small=None if small is None else facts(**small))
    return found


def test_nothing_is_found_where_nothing_is_wrong():
    found = told({})
    assert not found.applying
    assert not found.untold
    assert "none of 8" in str(found)
    assert "docs/large-batch-run-is-worse.md" in str(found)


SMALL = {"batch_size": 32, "steps": 400, "train_loss": 0.002, "peak_rate": 0.05, "weight_decay": 1e-4}
PLANTED = [  # cause, what is planted, beside which small batch, numbers and fix that must be told
    ("too few updates", {"still_falling": 0.25}, None, ["40 steps", "400", "25 %", "BatchSizeScheduler"]),
    ("too few updates", {"train_loss": 0.09}, SMALL, ["40 steps", "400", "0.09", "0.002"]),
    ("learning rate not scaled", {"scale": 1}, None, ["× 1 ", "× 10", "LearningRateScaling(base_batch_size=32)"]),
    ("learning rate not scaled", {"scale": None, "peak_rate": 0.1}, SMALL, ["× 2 ", "× 10"]),
    ("no warmup", {"first_scale": 10}, None, ["× 10 in the first step", "warmup_epochs=5"]),
    (
        "BatchNorm batch too large",
        {"ghosts": None},
        None,
        ["320 samples", "32", "GhostBatchNormSwap(ghost_batch_size=32)"],
    ),
    ("BatchNorm batch too large", {"ghosts": 0, "accumulate": 2}, None, ["160 samples"]),
    ("running statistics lag", {"last_rate": 0.5, "gap_loss": -0.37}, None, ["100 %", "-0.37", "RecomputeBatchNorm()"]),
    (
        "ragged accumulation",
        {"weighed": 0, "micro_batches": 10, "updates": 3},
        None,
        ["10 micro", "3 steps", "ExactAccumulation()"],
    ),
    # rate as it was, a tenth of the steps: a tenth of the decay; ten times the value would make up for it
    ("weight decay does not follow", {"scale": 1}, None, ["0.0001", "0.1 times", "weight_decay=0.001"]),
    # 0.999 ** 40 = 0.961; and 0.999 ** 10 = 0.99004
    ("averaged weights do not follow", {"ema_decay": 0.999}, None, ["40 steps", "96 %", "0.999**10"]),
    (
        "averaged weights do not follow",
        {"ema_decay": 0.999},
        {**SMALL, "ema_decay": 0.999},
        ["0.9900"[:4], "decay=0.99"],
    ),
]


@pytest.mark.parametrize(("name", "changed", "small", "words"), PLANTED)
def test_a_planted_cause_is_named_with_its_number_its_place_and_its_fix(name, changed, small, words):
    (applies,) = [(c, t) for c, t in told(changed, small).applying.items() if c.name == name]
    cause, verdict = applies
    assert all(word in f"{verdict.number} {verdict.fix}" for word in words), verdict
    assert "file: " in verdict.source
    assert cause.card.startswith("docs/methods/")
    assert verdict.fix in str(told(changed, small))


ABSENT = [
    ("too few updates", {"still_falling": 0.25, "batch_size": 32}, None),
    ("too few updates", {"steps": 400, "still_falling": 0.25}, SMALL),  # longer
    ("too few updates", {"train_loss": 0.0021, "still_falling": 0.25}, SMALL),
    ("learning rate not scaled", {"scale": 3.17}, None),  # the root of 10 is 3.162
    ("learning rate not scaled", {"scale": 1, "first_batch_size": 32}, None),  # the batch grows instead
    ("no warmup", {"first_scale": 10, "clip": 5}, None),
    ("no warmup", {"first_scale": 1.5, "scale": 1.5}, None),
    ("BatchNorm batch too large", {"batch_norm": 0, "ghosts": None}, None),
    ("BatchNorm batch too large", {"accumulate": 10, "ghosts": None}, None),
    ("running statistics lag", {"last_rate": 0.5, "stored_statistics": 0}, None),
    ("running statistics lag", {"last_rate": 0.5, "batch_norm": 0}, None),
    ("ragged accumulation", {"micro_batches": 10, "updates": 3}, None),  # weighed
    ("ragged accumulation", {"weighed": 0, "micro_batches": 10, "updates": 10}, None),
    ("weight decay does not follow", {"scale": 1, "weight_decay": 0}, None),
    ("weight decay does not follow", {"scale": 1, "weight_decay": 1e-3}, {**SMALL, "peak_rate": 0.5}),
    ("weight decay does not follow", {"scale": 3.17, "used_weight_decay": 3.17e-4}, None),
    ("averaged weights do not follow", {"ema_decay": None, "used_ema_decay": 0.99}, None),
    ("averaged weights do not follow", {"ema_decay": 0.99}, {**SMALL, "ema_decay": 0.999}),
]


@pytest.mark.parametrize(("name", "changed", "small"), ABSENT)
def test_a_cause_that_is_not_there_is_not_named(name, changed, small):
    found = told(changed, small)
    assert name not in [cause.name for cause in (*found.applying, *found.untold)]


UNKNOWN = [
    ("too few updates", {"still_falling": None}, "train_loss"),
    ("too few updates", {"base_batch_size": None}, "--base_batch_size"),
    ("too few updates", {"batch_size": None}, "batch/size"),
    ("learning rate not scaled", {"scale": None}, "LearningRateMonitor"),
    ("no warmup", {"first_scale": None, "scale": None}, "lr/scale"),
    ("BatchNorm batch too large", {"batch_norm": None}, "checkpoint"),
    ("running statistics lag", {"last_rate": None}, "learning rate"),
    ("ragged accumulation", {"weighed": None}, "ExactAccumulation"),
    ("ragged accumulation", {"weighed": 0, "micro_batches": 12, "updates": 3}, "ExactAccumulation"),  # 5, 5, 2?
    ("weight decay does not follow", {"weight_decay": None}, "checkpoint"),
    ("weight decay does not follow", {"decay_in_gradient": 1}, "AdamW"),
    ("averaged weights do not follow", {"ema_decay": None}, "ema_decay"),
]


@pytest.mark.parametrize(("name", "changed", "word"), UNKNOWN)
def test_what_is_not_there_is_asked_for_and_not_guessed(name, changed, word):
    found = told(changed)
    assert name not in [cause.name for cause in found.applying]
    (unknown,) = [unknown for cause, unknown in found.untold.items() if cause.name == name]
    assert word in unknown.add


def test_what_the_command_names_comes_before_what_was_read():
    run = facts(scale=3.2)
    (read,), (named,) = diagnose([run]), diagnose([run], base_batch_size=16)
    assert "learning rate not scaled" not in [cause.name for cause in read.applying]
    assert "learning rate not scaled" in [cause.name for cause in named.applying]  # the root of 20 is 4.5


def test_the_fall_of_a_loss_in_its_last_fifth():
    # fifths of two points: means 9.5, 7.5, 5.5, 4, 3; (4 - 3) / (9.5 - 3)
    losses = (10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.5, 3.5, 3.25, 2.75)
    assert share_in_the_last_fifth(losses) == pytest.approx(1 / 6.5)
    assert share_in_the_last_fifth((1.0, 2.0, 3.0, 4.0, 5.0)) == 0.0
    assert share_in_the_last_fifth((2.0, 1.0)) != share_in_the_last_fifth((2.0, 1.0))  # NaN
