"""The gap to the small batch: its interval, and the share that a remedy brings back."""

import math

import pytest
from scipy import stats

from lightning_gap.recipes.gap import gaps, recovered, what_to_look_at

SMALL, LARGE, GHOST = [0.98, 0.99, 0.985], [0.96, 0.975, 0.97], [0.975, 0.985, 0.985]


def test_the_interval_is_that_of_a_paired_t_test():
    found = gaps({"small": SMALL, "large": LARGE})["large"]
    theirs = stats.ttest_rel(SMALL, LARGE).confidence_interval(0.95)
    assert found.mean == pytest.approx(100 * (sum(SMALL) - sum(LARGE)) / 3)
    assert found.mean - found.half_width == pytest.approx(100 * theirs.low)
    assert found.mean + found.half_width == pytest.approx(100 * theirs.high)
    assert found.is_there


def test_a_remedy_brings_back_its_share_of_the_gap():
    found = gaps({"small": SMALL, "large": LARGE, "ghost": GHOST, "worse": [0.95, 0.96, 0.96]})
    # 5 / 3 points and 1 / 3 point
    assert recovered(found, "ghost") == f"{100 * (1 - (0.5 + 0.5 + 0) / (2 + 1.5 + 1.5)):.0f}"
    assert float(recovered(found, "worse")) < 0
    assert (recovered(found, "small"), recovered(found, "large")) == ("-", "-")
    sentence = what_to_look_at(found)
    assert "1.67 points" in sentence
    assert "3 trials" in sentence
    assert "ghost brings back 80 %" in sentence


@pytest.mark.parametrize("large", [SMALL, [0.99, 0.995, 0.99], [0.94, 0.99, 0.98]])
def test_where_the_interval_covers_zero_there_is_no_gap_to_share(large):
    found = gaps({"small": SMALL, "large": large, "ghost": GHOST})
    assert not found["large"].is_there
    assert recovered(found, "ghost") == "no gap"
    assert "may be none" in what_to_look_at(found)


def test_one_trial_shows_no_interval():
    found = gaps({"small": SMALL[:1], "large": LARGE[:1], "ghost": GHOST[:1]})
    assert math.isnan(found["large"].half_width)
    assert (found["large"].interval, recovered(found, "ghost")) == ("-", "-")
    assert "--trials 3" in what_to_look_at(found)


def test_without_the_small_batch_there_is_nothing_to_compare_with():
    assert gaps({"large": LARGE, "ghost": GHOST}) == {}
    assert what_to_look_at({}) == ""
