"""The intervals of a few seeds: against SciPy's tests, and by how often they hold what they are of."""

import math

import numpy as np
import pytest
from scipy import stats

from lightning_gap.recipes.intervals import mean_interval, ratio_interval

TOP, BOTTOM = [2.1, 2.7, 1.6, 3.0], [4.0, 5.1, 4.4, 6.0]


def test_a_mean_has_the_interval_of_a_t_test():
    theirs = stats.ttest_1samp(TOP, 0).confidence_interval(0.95)
    assert mean_interval(TOP) == pytest.approx((np.mean(TOP), theirs.low, theirs.high))


@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf, 1.0]])
def test_of_no_numbers_there_is_no_mean(values):
    assert all(math.isnan(end) for end in mean_interval(values))


def test_one_value_has_no_interval_and_covers_nothing():
    found = mean_interval([3.0])
    assert found.mean == 3
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.sign == 0
    assert not found.covers(3.0)


def test_the_ends_of_a_ratio_are_where_a_paired_t_test_turns():
    """Fieller: r lies inside where the differences n - r d could have mean zero, at a level of 5 %."""
    found = ratio_interval(TOP, BOTTOM)
    assert found.mean == pytest.approx(np.mean(TOP) / np.mean(BOTTOM))
    assert found.low < found.mean < found.high
    for end in found[1:]:
        assert stats.ttest_1samp(np.array(TOP) - end * np.array(BOTTOM), 0).pvalue == pytest.approx(0.05)


def test_a_ratio_lies_in_its_interval_in_95_of_100_samples():
    generator, inside, samples = np.random.default_rng(0), 0, 4000
    for _ in range(samples):
        bottom = generator.normal(2.0, 0.3, 5)
        top = 0.6 * bottom + generator.normal(0.2, 0.25, 5)  # the two go together, as regimes of a seed do
        inside += ratio_interval(top.tolist(), bottom.tolist()).covers((0.6 * 2.0 + 0.2) / 2.0)
    assert inside / samples == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / samples))


def test_a_denominator_that_may_be_zero_leaves_a_ratio_without_interval():
    found = ratio_interval([1.0, 2.0], [-1.0, 1.5])
    assert found.mean == pytest.approx(1.5 / 0.25)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_ratio_is_of_the_same_seeds():
    with pytest.raises(ValueError, match="must have the same seeds, got 2 and 3"):
        ratio_interval([1.0, 2.0], [1.0, 2.0, 3.0])
