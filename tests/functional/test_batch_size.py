import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_gap.functional import (
    AdaBatch,
    GeometricGrowth,
    SmithGrowth,
    Stage,
    planned_optimizer_steps,
    split_batch,
    stage_at,
    train_longer,
)
from lightning_gap.functional.batch_size import checked_milestones

EPOCHS = st.integers(0, 400)
MILESTONES = st.lists(EPOCHS, min_size=1, max_size=4, unique=True).map(sorted).map(tuple)


@given(st.integers(1, 512), MILESTONES, st.integers(2, 8), EPOCHS)
def test_smiths_growth_divides_the_noise_scale_as_the_decay_it_replaces(size, milestones, factor, epoch):
    stage = SmithGrowth(size, milestones, max_batch_size=16 * size, factor=factor)(epoch)
    decays = sum(epoch >= milestone for milestone in milestones)
    noise = stage.learning_rate_factor / stage.batch_size  # with rate 1: Smith et al., g = eta N / B
    assert noise * size == pytest.approx(1 / factor**decays)
    assert stage.learning_rate_factor == 1.0 or stage.batch_size == 16 * size


def test_smiths_paper_settings():
    grow = SmithGrowth(128, (60, 120, 160), max_batch_size=5120)
    assert [grow(epoch).batch_size for epoch in (59, 60, 119, 120, 160, 199)] == [128, 640, 640, 3200, 5120, 5120]
    assert [grow(epoch).learning_rate_factor for epoch in (0, 60, 120)] == [1.0] * 3


@given(st.integers(1, 300), st.integers(1, 30), EPOCHS)
def test_adabatch_keeps_the_ratio_of_a_fixed_batch_with_the_steeper_decay(size, every, epoch):
    stage = AdaBatch(size, 2**12 * size, every_n_epochs=every)(epoch)
    baseline = 0.375 ** (epoch // every)  # the paper's fixed batch: rate x 0.375 an interval
    assert stage.learning_rate_factor / stage.batch_size * size == pytest.approx(baseline)


@given(st.integers(1, 100), st.integers(1, 12), st.integers(1, 60), st.floats(1.01, 3.0))
def test_geometric_growth_follows_the_papers_rule_and_stays_divisible(multiple, start, epoch, factor):
    grow = GeometricGrowth(start * multiple, 1000 * multiple, factor=factor, multiple_of=multiple)
    size, following = grow(epoch), grow(epoch + 1)
    assert following % multiple == size % multiple == 0
    wanted = min(Fraction(factor).limit_denominator(10**9) * size + 1, 1000 * multiple)
    assert wanted - Fraction(1, 10**5) <= following < wanted + multiple + 1


def test_geometric_growth_is_friedlander_and_schmidts():
    sizes, grow = [1], GeometricGrowth(1, 50)
    for _ in range(40):
        sizes.append(math.ceil(min(1.1 * sizes[-1] + 1, 50)))
    assert [grow(epoch) for epoch in range(41)] == sizes


def test_milestones_say_the_size_from_their_epoch_on():
    assert [stage_at({0: 8, 2: 16, 5: 4}, epoch) for epoch in range(7)] == [
        Stage(size) for size in (8, 8, 16, 16, 16, 4, 4)
    ]


@pytest.mark.parametrize(
    ("milestones", "message"),
    [
        ({}, "schedule is empty; give batch sizes by epoch"),
        ({1: 8}, "schedule begins at epoch 1; say the batch size of epoch 0 too"),
        ({0: 8, 4: 16, 2: 32}, r"epochs in the order \[0, 4, 2\]; write them in rising order"),
        ({-1: 8, 0: 16}, "schedule has epoch -1; epochs are whole numbers from 0"),
        ({0: 8, 1.5: 16}, "schedule has epoch 1.5"),
        ({0: 0}, "schedule gives 0 in epoch 0; it must be a whole number of samples, at least 1"),
        ({0: 8, 3: 2.5}, "schedule gives 2.5 in epoch 3"),
    ],
)
def test_milestones_that_are_no_schedule_are_refused(milestones, message):
    with pytest.raises(ValueError, match=message):
        checked_milestones(milestones)


@pytest.mark.parametrize("asked", ["32", None, True, -4])
def test_a_function_that_returns_no_size_is_refused(asked):
    with pytest.raises(ValueError, match="it must be a whole number of samples, at least 1"):
        stage_at(lambda epoch: asked, 3)
    with pytest.raises(ValueError, match=r"multiplies the learning rate by 0\.0 in epoch 3"):
        stage_at(lambda epoch: Stage(8, 0.0), 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmithGrowth(128, (1, 1), 256), "milestones must rise, each named once"),
        (lambda: SmithGrowth(128, (-1,), 256), "milestones must be epochs"),
        (lambda: SmithGrowth(128, (1,), 64), "max_batch_size=64 is below batch_size=128, which is to grow"),
        (lambda: SmithGrowth(128, (1,), 256, factor=1.0), "factor must be larger than 1"),
        (lambda: SmithGrowth(0, (1,), 256), "batch_size must be a whole number of samples"),
        (lambda: AdaBatch(8, 64, every_n_epochs=0), "every_n_epochs must be a whole number"),
        (lambda: AdaBatch(8, 64, learning_rate_factor=-1), "learning_rate_factor must be positive"),
        (lambda: GeometricGrowth(8, 64, multiple_of=0), "multiple_of must be a whole number"),
        (lambda: GeometricGrowth(9, 64, multiple_of=4), "batch_size=9 is no multiple of multiple_of=4"),
    ],
)
def test_growth_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@settings(max_examples=2000)
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
            left -= stage_at(schedule, epoch).batch_size
            steps += 1
    assert planned_optimizer_steps(schedule, samples=samples, epochs=epochs) == steps
