import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_gap.functional import log_fit, weight_distance

NUMBERS = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=30)


@given(NUMBERS)
def test_distance_is_numpys_norm_of_the_difference(pairs):
    a, b = np.array(pairs).T
    cut = len(a) // 2
    ours = weight_distance(
        [torch.tensor(a[:cut]), torch.tensor(a[cut:])], [torch.tensor(b[:cut]), torch.tensor(b[cut:])]
    )
    assert ours == pytest.approx(np.linalg.norm(a - b), rel=1e-12, abs=1e-12)


def test_a_small_step_of_many_float32_weights_is_not_lost_in_rounding():
    start = torch.full((10**6,), 1.0)
    assert weight_distance([start + 2**-20], [start]) == pytest.approx(2**-20 * 1000, rel=1e-12)


def test_weights_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match="weights and reference must pair up"):
        weight_distance([torch.zeros(3)], [torch.zeros(1)])  # would broadcast


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1e3)), min_size=3, max_size=20, unique_by=lambda p: p[0]))
def test_log_fit_is_scipys_regression_on_the_logarithm(points):
    steps, distances = zip(*points, strict=True)
    expected = stats.linregress(np.log(steps), distances)
    fit = log_fit(steps, distances)
    assert fit.slope == pytest.approx(expected.slope, rel=1e-6, abs=1e-6)
    assert fit.intercept == pytest.approx(expected.intercept, rel=1e-6, abs=1e-5)
    if np.std(distances) > 1e-3:
        assert fit.r_squared == pytest.approx(expected.rvalue**2, abs=1e-6)


@pytest.mark.parametrize("steps", [[], [0, 1], [5, 5]])
def test_steps_without_a_line_through_them_are_refused(steps):
    with pytest.raises(ValueError, match="steps must hold at least two different values"):
        log_fit(steps, [1.0] * len(steps))


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="one length"):
        log_fit([1, 2], [1.0])
