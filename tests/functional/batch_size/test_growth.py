import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_gap.functional import AdaBatch, GeometricGrowth, SmithGrowth

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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmithGrowth(128, (1, 1), 256), r"milestones must .* rising order, .* got \(1, 1\)"),
        (lambda: SmithGrowth(128, (-1,), 256), "milestones must be a whole number, at least 0, got -1"),
        (lambda: SmithGrowth(128, (1,), 64), "max_batch_size=64 is below batch_size=128"),
        (lambda: SmithGrowth(128, (1,), 256, factor=1.0), r"factor must be a number, above 1, got 1\.0"),
        (lambda: SmithGrowth(0, (1,), 256), "batch_size must be a whole number of samples"),
        (lambda: AdaBatch(8, 64, every_n_epochs=0), "every_n_epochs must be a whole number"),
        (lambda: AdaBatch(8, 64, learning_rate_factor=-1), "learning_rate_factor must be a positive number, got -1"),
        (lambda: GeometricGrowth(8, 64, multiple_of=0), "multiple_of must be a whole number"),
        (
            lambda: GeometricGrowth(9, 64, multiple_of=4),
            "batch_size=9 must be a multiple of multiple_of=4; use for instance 12",
        ),
    ],
)
@pytest.mark.bad_input(30)
def test_growth_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
