import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_gap.functional import layer_distances, log_fit, weight_distance

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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.uint8, torch.complex64])
def test_weights_of_any_type_count(dtype):
    weights, start = torch.tensor([3, 200, 7]).to(dtype), torch.tensor([5, 201, 4]).to(dtype)
    assert weight_distance([weights], [start]) == pytest.approx(math.sqrt(4 + 1 + 9))


def test_neither_set_is_changed():
    weights, start = torch.tensor([1.0]), torch.tensor([2.0], requires_grad=True)
    assert weight_distance([weights], [start]) == 1.0
    assert (weights.item(), start.item(), start.grad) == (1.0, 2.0, None)


def test_no_weights_have_not_moved():
    assert weight_distance([], []) == 0.0
    assert layer_distances({}, {}) == {}


def test_layers_are_numpys_norms_and_their_squares_add_up():
    torch.manual_seed(0)
    names = ["scale", "body.0.weight", "body.0.bias", "head.weight"]
    now, start = ({name: torch.randn(7) for name in names} for _ in range(2))
    found = layer_distances(now, dict(reversed(start.items())))  # by name, not by order
    layers = {"": names[:1], "body.0": names[1:3], "head": names[3:]}
    for layer, members in layers.items():
        differences = [now[name].numpy().astype(float) - start[name].numpy().astype(float) for name in members]
        assert found[layer] == pytest.approx(np.linalg.norm(np.concatenate(differences)), rel=1e-7)
    assert list(found) == list(layers)
    assert math.hypot(*found.values()) == pytest.approx(weight_distance(now.values(), start.values()), rel=1e-12)


def test_layers_of_other_names_or_shapes_are_refused():
    with pytest.raises(ValueError, match=r"same names; only one of them has a\.bias, b\.bias"):
        layer_distances({"a.bias": torch.zeros(1)}, {"b.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match="must pair up"):
        layer_distances({"a.bias": torch.zeros(1)}, {"a.bias": torch.zeros(2)})


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1e3)), min_size=3, max_size=20, unique_by=lambda p: p[0]))
def test_log_fit_is_scipys_regression_on_the_logarithm(points):
    steps, distances = zip(*points, strict=True)
    expected = stats.linregress(np.log(steps), distances)
    fit = log_fit(steps, distances)
    assert fit.slope == pytest.approx(expected.slope, rel=1e-6, abs=1e-6)
    assert fit.intercept == pytest.approx(expected.intercept, rel=1e-6, abs=1e-5)
    if np.std(distances) > 1e-3:
        assert fit.r_squared == pytest.approx(expected.rvalue**2, abs=1e-6)


def test_log_fit_is_numpys_polynomial_of_degree_one():
    steps = np.array([1, 2, 4, 8, 13, 16, 26, 32, 39])
    distances = 0.3 * np.log(steps) + 1.0 + 0.05 * np.sin(steps)
    slope, intercept = np.polyfit(np.log(steps), distances, 1)
    residual = distances - np.polyval([slope, intercept], np.log(steps))
    fit = log_fit(steps.tolist(), distances.tolist())
    assert (fit.slope, fit.intercept) == pytest.approx((slope, intercept), rel=1e-10)
    assert fit.r_squared == pytest.approx(1 - residual.var() / distances.var(), rel=1e-10)


def test_a_run_that_diverged_fits_nothing():
    assert math.isnan(log_fit([1, 2, 3], [1.0, math.nan, 2.0]).r_squared)


@pytest.mark.parametrize("steps", [[], [0, 1], [5, 5]])
def test_steps_without_a_line_through_them_are_refused(steps):
    with pytest.raises(
        ValueError, match=r"steps must (hold at least two different values|be a whole number, at least 1)"
    ):
        log_fit(steps, [1.0] * len(steps))


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="one length"):
        log_fit([1, 2], [1.0])
