import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_gap.functional import (
    EpochBatch,
    epoch_batch_at,
    planned_optimizer_steps,
    split_batch,
    train_longer,
)
from lightning_gap.functional.batch_size.schedule import checked_milestones

EPOCHS = st.integers(0, 400)
MILESTONES = st.lists(EPOCHS, min_size=1, max_size=4, unique=True).map(sorted).map(tuple)


def test_milestones_say_the_size_from_their_epoch_on():
    assert [epoch_batch_at({0: 8, 2: 16, 5: 4}, epoch) for epoch in range(7)] == [
        EpochBatch(size) for size in (8, 8, 16, 16, 16, 4, 4)
    ]


@pytest.mark.parametrize(
    ("milestones", "message"),
    [
        ({}, "schedule is empty; give batch sizes by epoch"),
        ({1: 8}, "schedule begins at epoch 1; say the batch size of epoch 0 too"),
        ({0: 8, 4: 16, 2: 32}, r"schedule's epochs must .* rising order, .* got \(0, 4, 2\)"),
        ({-1: 8, 0: 16}, "schedule's epochs must be a whole number, at least 0, got -1"),
        ({0: 8, 1.5: 16}, r"schedule's epochs must be a whole number, at least 0, got 1\.5"),
        ({"0": 8}, "schedule's epochs must be a whole number, at least 0, got '0'"),
        ({0: 0}, "schedule in epoch 0 must be a whole number of samples, at least 1, got 0"),
        ({0: 8, 3: 2.5}, r"schedule in epoch 3 must be a whole number of samples, at least 1, got 2\.5"),
    ],
)
@pytest.mark.bad_input(27)
def test_milestones_that_are_no_schedule_are_refused(milestones, message):
    with pytest.raises(ValueError, match=message):
        checked_milestones(milestones)


@pytest.mark.parametrize("asked", ["32", None, True, -4])
def test_a_function_that_returns_no_size_is_refused(asked):
    with pytest.raises(ValueError, match="schedule in epoch 3 must be a whole number of samples, at least 1"):
        epoch_batch_at(lambda epoch: asked, 3)
    with pytest.raises(
        ValueError, match=r"schedule in epoch 3: learning_rate_factor must be a positive number, got 0\.0"
    ):
        epoch_batch_at(lambda epoch: EpochBatch(8, 0.0), 3)


@settings(max_examples=400)
@given(st.integers(1, 5000), st.integers(1, 8), st.integers(1, 6), st.none() | st.integers(1, 600))
def test_a_split_makes_up_the_batch_in_equal_parts_within_the_limit(size, processes, accumulate, limit):
    try:
        split = split_batch(size, processes=processes, accumulate=accumulate, max_micro_batch=limit)
    except ValueError:
        fewest = accumulate if limit is None else max(accumulate, math.ceil(size / (processes * limit)))
        most = fewest if limit is None else 2 * fewest
        assert all(size % (processes * k) for k in range(fewest, most + 1))
        return
    assert split.micro_batch_size * split.accumulate * processes == size
    assert split.accumulate >= accumulate
    if limit is None:
        assert split.accumulate == accumulate
    else:
        assert split.micro_batch_size <= limit
        fewer = range(accumulate, split.accumulate)
        assert not any(size % (processes * k) == 0 and size // (processes * k) <= limit for k in fewer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 9, "processes": 2}, "a batch of 9 cannot be shared equally by 2 processes in 1 .* instance 8"),
        (
            {"batch_size": 997, "max_micro_batch": 100},
            "split equally over 1 processes .* max_micro_batch=100; use .* 1000",
        ),
    ],
)
@pytest.mark.bad_input(37)
def test_a_batch_that_has_no_equal_split_is_refused_with_one_that_has(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_batch(**arguments)


@given(st.integers(1, 500), MILESTONES, st.integers(1, 512), st.integers(1, 64))
def test_training_longer_makes_as_many_updates(epochs, milestones, base, ratio):
    longer = train_longer(epochs, milestones, batch_size=ratio * base, base_batch_size=base)
    samples = 512 * 64 * 3
    assert longer.epochs * Fraction(samples, ratio * base) == epochs * Fraction(samples, base)
    assert longer.milestones == tuple(ratio * milestone for milestone in milestones)


def test_training_longer_rounds_up_and_refuses_what_is_no_regime():
    longer = train_longer(10, (3,), batch_size=150, base_batch_size=100)
    assert (longer.epochs, longer.milestones) == (15, (5,))
    for wrong in ({"epochs": 0}, {"batch_size": 0}, {"base_batch_size": 2.5}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a whole number, at least 1"):
            train_longer(**({"epochs": 3, "batch_size": 8, "base_batch_size": 4} | wrong))


@given(st.dictionaries(st.integers(1, 9), st.integers(1, 50), max_size=4), st.integers(1, 200), st.integers(1, 12))
def test_planned_steps_are_those_of_a_loop_over_all_epochs(sizes, samples, epochs):
    schedule = {0: 7} | dict(sorted(sizes.items()))
    steps = 0
    for epoch in range(epochs):
        left = samples
        while left > 0:
            left -= epoch_batch_at(schedule, epoch).batch_size
            steps += 1
    assert planned_optimizer_steps(schedule, samples=samples, epochs=epochs) == steps
