"""The gap to the small batch: its interval, and the share that a remedy brings back."""

import math

import pytest
from scipy import stats

from lightning_gap.recipes.gap import gaps, recovered, share_recovered, what_to_look_at

SMALL, LARGE, GHOST = [0.98, 0.99, 0.985], [0.96, 0.975, 0.97], [0.975, 0.985, 0.985]


def gaps_of(**accuracy):
    """Of values by regime, those of the same place having the same seed; None where that seed was not trained."""
    return gaps(
        {
            name: {seed: value for seed, value in enumerate(values) if value is not None}
            for name, values in accuracy.items()
        }
    )


def test_the_interval_is_that_of_a_paired_t_test():
    found = gaps_of(small=SMALL, large=LARGE)["large"]
    theirs = stats.ttest_rel(SMALL, LARGE).confidence_interval(0.95)
    assert found.found.mean == pytest.approx(100 * (sum(SMALL) - sum(LARGE)) / 3)
    assert found.found.low == pytest.approx(100 * theirs.low)
    assert found.found.high == pytest.approx(100 * theirs.high)
    assert found.interval == f"{100 * theirs.low:.2f} to {100 * theirs.high:.2f}"
    assert found.is_there


def test_a_remedy_brings_back_its_share_of_the_gap():
    found = gaps_of(small=SMALL, large=LARGE, ghost=GHOST, worse=[0.95, 0.96, 0.96])
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
    found = gaps_of(small=SMALL, large=large, ghost=GHOST)
    assert not found["large"].is_there
    assert recovered(found, "ghost") == "no gap"
    assert "may be none" in what_to_look_at(found)


def test_one_trial_shows_no_interval():
    found = gaps_of(small=SMALL[:1], large=LARGE[:1], ghost=GHOST[:1])
    assert math.isnan(found["large"].found.low)
    assert (found["large"].interval, recovered(found, "ghost")) == ("-", "-")
    assert "--trials 3" in what_to_look_at(found)


def test_without_the_small_batch_there_is_nothing_to_compare_with():
    assert gaps_of(large=LARGE, ghost=GHOST) == {}
    assert what_to_look_at({}) == ""


def test_regimes_with_other_seeds_are_compared_over_those_that_both_have():
    found = gaps_of(small=SMALL, large=LARGE, ghost=[None, *GHOST[1:]], sam=[None, None, 0.98], late=[0.97, None, None])
    theirs = stats.ttest_rel(SMALL[1:], GHOST[1:]).confidence_interval(0.95)
    assert found["ghost"].points == pytest.approx([0.5, 0])
    assert found["ghost"].found[1:] == pytest.approx((100 * theirs.low, 100 * theirs.high))
    # large's own gap over the seeds of ghost alone is 1.5 points in both: no doubt that it is there
    share = share_recovered(found, "ghost")
    assert share.mean == pytest.approx(100 * (1 - 0.25 / 1.5))
    assert share.low == pytest.approx(100 * (1 - 100 * theirs.high / 1.5))
    assert (recovered(found, "sam"), recovered(found, "late")) == ("-", "-")  # of one seed nothing can be told
    assert found["large"].points == pytest.approx([2, 1.5, 1.5])


def test_a_regime_that_shares_no_seed_with_small_has_no_gap():
    found = gaps_of(small=[0.98, 0.97, None], large=[0.96, 0.95, 0.95], ghost=[None, None, 0.97])
    assert set(found) == {"small", "large"}
    assert recovered(found, "ghost") == "-"


def test_no_remedy_is_praised_that_makes_it_worse():
    sentence = what_to_look_at(gaps_of(small=SMALL, large=LARGE, worse=[0.95, 0.96, 0.96]))
    assert "worse brings" not in sentence
    assert "no other regime brings any of it back" in sentence
