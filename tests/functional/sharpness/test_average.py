import math

import pytest
import torch
from functional.known_losses import network, unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from lightning_gap.functional import (
    UndefinedSharpnessError,
    average_sharpness,
)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(-5, 5), st.floats(-3, 3)), min_size=20, max_size=60),
    st.sampled_from([0.01, 0.3]),
    st.booleans(),
)
def test_the_mean_rise_of_a_quadratic_is_half_its_curvature_times_the_variance(terms, epsilon, relative):
    h, slope, start = torch.tensor(terms, dtype=torch.float64).T
    x = start.clone().requires_grad_()
    loss_fn = lambda: 1 + slope @ (x - start) + (h * (x - start) ** 2).sum() / 2  # noqa: E731
    found = average_sharpness(loss_fn, [x], epsilon=epsilon, directions=200, relative=relative)
    s = epsilon * (start.abs() + (0 if relative else 1))
    terms = s**2 * h / 2
    spread = float((2 * terms**2).sum()) ** 0.5 / 200**0.5  # of the mean: chi-squared has variance 2
    assert abs(found.rise - float(terms.sum())) <= 6 * spread + 1e-12
    assert found.standard_error == pytest.approx(spread, rel=0.8, abs=1e-12)
    assert (found.loss, found.directions) == (pytest.approx(1.0), 200)


def test_what_is_linear_cancels():
    x = torch.randn(50, dtype=torch.float64).requires_grad_()
    found = average_sharpness(lambda: 1e3 * x.sum(), [x], epsilon=0.1, directions=3)
    assert abs(found.rise) < 1e-8


def test_random_directions_are_those_of_the_generator_and_leave_no_trace():
    model, x, y = network()
    loss_fn = lambda: cross_entropy(model(x), y)  # noqa: E731
    state = torch.get_rng_state()
    run = lambda seed: average_sharpness(  # noqa: E731
        loss_fn, model.parameters(), epsilon=0.1, directions=2, generator=torch.Generator().manual_seed(seed)
    )
    first = unchanged(list(model.parameters()), lambda: run(1))
    assert first == run(1) != run(2)
    assert average_sharpness(loss_fn, model.parameters(), epsilon=0.1, directions=2) == run(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert math.isnan(average_sharpness(loss_fn, model.parameters(), directions=1).standard_error)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_undefined_loss_has_no_average_either(bad):
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(UndefinedSharpnessError, match="the loss at params must be finite"):
        average_sharpness(lambda: x.sum() + bad, [x])


def test_a_random_loss_has_no_average_either():
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="the loss is random"):
        average_sharpness(lambda: x.sum() + torch.rand(()), [x])


@pytest.mark.parametrize("directions", [0, -1, 1.5, True])
def test_a_number_of_directions_that_is_no_count_is_refused(directions):
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="directions must be a whole number, at least 1"):
        average_sharpness(lambda: x.sum(), [x], directions=directions)


# m_sharpness
