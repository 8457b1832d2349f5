import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_gap.functional import gradual_warmup, learning_rate_scale

SIZES = st.integers(1, 10**7)


@given(SIZES, SIZES)
def test_linear_rule_multiplies_by_the_ratio_of_batch_sizes(batch, base):
    assert learning_rate_scale(batch, base) * base == pytest.approx(batch)


@given(SIZES, SIZES)
def test_sqrt_rule_keeps_the_covariance_of_the_update(batch, base):
    scale = learning_rate_scale(batch, base, rule="sqrt")
    assert scale**2 / batch == pytest.approx(1 / base)  # eta^2 / B, Hoffer et al. section 3


@pytest.mark.promise("rates")
@given(SIZES, st.sampled_from(["linear", "sqrt"]))
def test_the_base_batch_is_not_scaled(batch, rule):
    assert learning_rate_scale(batch, batch, rule=rule) == 1.0


@given(SIZES, SIZES, SIZES, st.sampled_from(["linear", "sqrt", "none"]))
def test_one_change_of_the_batch_after_another_is_the_change_of_both_and_larger_is_no_less(a, b, c, rule):
    def scale(batch, base):
        return learning_rate_scale(batch, base, rule=rule)

    assert scale(b, a) * scale(c, b) == pytest.approx(scale(c, a), rel=1e-12)
    assert (scale(b, a) - scale(c, a)) * (b - c) >= 0


def test_goyals_imagenet_rates_come_out():
    # Goyal et al. (2017), Table 4: reference rate 0.1 at 256, five epochs of warmup
    rates = {kn: 0.1 * learning_rate_scale(kn, 256) for kn in (128, 512, 8192, 65536)}
    assert rates == pytest.approx({128: 0.05, 512: 0.2, 8192: 3.2, 65536: 25.6})


@pytest.mark.promise("rates")
@given(st.integers(1, 5000), st.floats(1, 1000))
def test_warmup_starts_at_the_base_rate_ends_on_target_and_adds_equal_amounts(steps, scale):
    ramp = [gradual_warmup(step, steps, scale) for step in range(steps + 2)]
    assert ramp[0] == 1.0
    assert ramp[steps] == ramp[steps + 1] == scale
    assert max(abs(b - a - (scale - 1) / steps) for a, b in itertools.pairwise(ramp[:-1])) < 1e-9 * scale


def test_no_warmup_is_the_full_scale_at_once():
    assert gradual_warmup(0, 0, 8.0) == 8.0


@pytest.mark.parametrize("size", [0, -1, 2.5, True, math.nan, "256"])
@pytest.mark.parametrize("argument", ["batch_size", "base_batch_size"])
@pytest.mark.bad_input(17)
def test_a_size_that_is_no_positive_whole_number_is_refused(argument, size):
    sizes = {"batch_size": 64, "base_batch_size": 32} | {argument: size}
    with pytest.raises(ValueError, match=f"^{argument} must be a whole number of samples, at least 1"):
        learning_rate_scale(**sizes)


@pytest.mark.bad_input(18)
def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"rule must be one of 'linear', 'sqrt', 'none' or .*, got 'lineer'; did you mean 'linear'"
    ):
        learning_rate_scale(64, 32, rule="lineer")


@pytest.mark.parametrize("values", [(-1, 5), (0, -5)])
def test_negative_steps_are_refused(values):
    with pytest.raises(ValueError, match=r"step.* must be a number, at least 0, got -"):
        gradual_warmup(*values, 2.0)
