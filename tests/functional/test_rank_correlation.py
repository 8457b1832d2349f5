import itertools
import math

import pytest
import scipy.stats
import torch

from lightning_gap.functional import rank_correlation


def series(runs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    measures = torch.randn(runs, generator=generator).tolist()
    return measures, (0.5 * torch.tensor(measures) + torch.randn(runs, generator=generator)).tolist()


def signs(values):
    return [(b > a) - (b < a) for a, b in itertools.combinations(values, 2)]


def total(measures, gaps):
    return sum(m * g for m, g in zip(signs(measures), signs(gaps), strict=True))


@pytest.mark.parametrize("runs", [2, 3, 5, 8, 20, 60])
@pytest.mark.parametrize("seed", range(3))
def test_without_ties_it_is_scipys_tau_with_its_exact_p_value(runs, seed):
    measures, gaps = series(runs, seed)
    expected = scipy.stats.kendalltau(measures, gaps, method="exact")
    found = rank_correlation(measures, gaps)
    assert found.tau == pytest.approx(expected.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.exact, found.ties, found.runs) == (True, 0, runs)
    assert math.isnan(found.granulated)
    assert (found.worst, found.groups) == (None, ())


@pytest.mark.parametrize("runs", [2, 4, 7])
def test_the_same_order_is_1_and_the_reversed_one_minus_1(runs):
    gaps = [0.1 * k**2 for k in range(runs)]
    for measures, tau in (([math.exp(g) for g in gaps], 1.0), ([-g for g in gaps], -1.0)):
        found = rank_correlation(measures, gaps)
        assert found.tau == tau
        assert found.p_value == pytest.approx(2 / math.factorial(runs))  # the least there is


def test_ties_count_0_and_their_p_value_is_that_of_all_orders():
    measures, gaps = [1.0, 1.0, 2.0, 3.0, 3.0], [0.1, 0.2, 0.2, 0.5, 0.4]
    found = rank_correlation(measures, gaps)
    assert found.tau == pytest.approx(total(measures, gaps) / 10)
    assert found.ties == 3  # the first two, the last two; the second and third by their gaps
    orders = list(itertools.permutations(gaps))
    far = sum(abs(total(measures, order)) >= abs(total(measures, gaps)) for order in orders)
    assert found.p_value == pytest.approx(far / len(orders))
    assert found.exact


@pytest.mark.parametrize("runs", [4, 12])
def test_a_measure_that_is_always_the_same_says_nothing(runs):
    found = rank_correlation([5.0] * runs, list(range(runs)))
    assert (found.tau, found.p_value, found.ties) == (0.0, 1.0, runs * (runs - 1) // 2)


def test_many_runs_with_ties_have_the_p_value_of_random_orders():
    measures, gaps = series(30)
    measures[0] = measures[1]
    found = rank_correlation(measures, gaps)
    assert not found.exact
    assert found == rank_correlation(measures, gaps)
    other = rank_correlation(measures, gaps, seed=1)
    assert found.p_value != other.p_value
    expected = scipy.stats.kendalltau(measures, gaps, method="asymptotic").pvalue
    assert found.p_value == pytest.approx(expected, rel=0.25, abs=0.003)
    same = list(range(30))
    same[1] = 0
    assert rank_correlation(same, same, permutations=99).p_value == 1 / 100  # never 0


def test_infinite_values_are_the_highest_and_tie_with_each_other():
    found = rank_correlation([1.0, math.inf, math.inf], [0.1, 0.2, 0.3])
    assert found.tau == pytest.approx(2 / 3)
    assert found.ties == 1
    assert rank_correlation([-math.inf, 1.0, math.inf], [0.1, 0.2, 0.3]).tau == 1.0


def design():
    """Two learning rates, three batch sizes, two depths: every combination once."""
    rows = list(itertools.product([0.1, 0.2], [64, 128, 256], ["shallow", "deep"]))
    return dict(zip(("lr", "batch", "depth"), map(list, zip(*rows, strict=True)), strict=True)), rows


def test_the_granulated_coefficient_is_the_mean_over_groups_that_differ_in_one_hyperparameter():
    columns, rows = design()
    measures, gaps = series(len(rows), seed=3)
    found = rank_correlation(measures, gaps, hyperparameters=columns)
    means = {}
    for axis, name in enumerate(columns):
        taus = []
        for fixed in sorted({row[:axis] + row[axis + 1 :] for row in rows}, key=str):
            group = [i for i, row in enumerate(rows) if row[:axis] + row[axis + 1 :] == fixed]
            taus.append(scipy.stats.kendalltau([measures[i] for i in group], [gaps[i] for i in group]).statistic)
        means[name] = sum(taus) / len(taus)
        own = [group for group in found.groups if group.hyperparameter == name]
        assert sorted(group.tau for group in own) == pytest.approx(sorted(taus))
    assert dict(found.by_hyperparameter) == pytest.approx(means)
    assert found.granulated == pytest.approx(sum(means.values()) / 3)
    assert len(found.groups) == 6 + 4 + 6
    assert found.worst.tau == min(group.tau for group in found.groups)
    assert found.tau == rank_correlation(measures, gaps).tau


def test_one_hyperparameter_that_moves_both_is_found_out():
    """The batch size moves measure and gap; among runs of one batch size the measure is wrong every time."""
    columns = {"batch": [64] * 3 + [1024] * 3, "lr": [1, 2, 3] * 2}
    measures = [1.3, 1.2, 1.1, 9.3, 9.2, 9.1]
    gaps = [0.11, 0.12, 0.13, 0.91, 0.92, 0.93]
    found = rank_correlation(measures, gaps, hyperparameters=columns)
    assert found.tau == pytest.approx((9 - 6) / 15)
    assert dict(found.by_hyperparameter) == {"batch": 1.0, "lr": -1.0}
    assert (found.worst.hyperparameter, found.worst.tau, found.worst.pairs) == ("lr", -1.0, 3)
    assert found.worst.fixed == {"batch": 64}


def test_runs_that_differ_in_their_seed_alone_are_no_pair():
    columns = {"lr": [1, 1, 2, 2]}
    found = rank_correlation([1.0, 2.0, 4.0, 3.0], [0.2, 0.1, 0.3, 0.4], hyperparameters=columns)
    (group,) = found.groups
    assert (group.tau, group.pairs, group.fixed) == (1.0, 4, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"measures": [1.0, math.nan]}, r"measures\[1\] must be a number, got nan; NaN has no rank; leave the run out"),
        ({"gaps": [None, 1.0]}, r"gaps\[0\] must be"),
        ({"gaps": [1.0]}, "measures and gaps must be those of the same runs, at least two, got 2 and 1"),
        ({"measures": [1.0], "gaps": [1.0]}, "at least two, got 1 and 1"),
        ({"hyperparameters": [1, 2]}, "hyperparameters must be a Mapping"),
        ({"hyperparameters": {"lr": [1]}}, r"hyperparameters\['lr'\] must hold one value for each of 2 runs"),
        ({"hyperparameters": {"lr": [[], []]}}, r"hyperparameters\['lr'\] must hold plain numbers or texts"),
        ({"hyperparameters": {"lr": [1, 1]}}, r"hyperparameters\['lr'\] never differs alone.*leave it out"),
        ({"hyperparameters": {"lr": [1, 2], "wd": [1, 2]}}, r"hyperparameters\['lr'\] never differs alone"),
        ({"permutations": 0}, "permutations must be a whole number, at least 1, got 0"),
    ],
)
def test_what_has_no_rank_or_does_not_pair_up_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        rank_correlation(**{"measures": [1.0, 2.0], "gaps": [0.1, 0.2], **given})
