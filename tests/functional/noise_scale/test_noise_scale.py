import math

import numpy as np
import pytest
from functional.noisy_quadratic import MEAN, SIGMA, A, G, draw

from lightning_gap.functional import (
    GradientNoise,
    RatioAverage,
    learning_rate_gain,
    noise_from_norms,
    optimal_learning_rate,
)

# The two-batch estimators


@pytest.mark.parametrize(("small", "large"), [(1, 2), (8, 32), (50, 60000)])
def test_expected_lengths_give_gradient_and_noise_back(small, large):
    lengths = [float(G @ G + SIGMA.trace() / size) for size in (small, large)]
    found = noise_from_norms(*lengths, small_batch_size=small, large_batch_size=large)
    assert found.gradient_norm_squared == pytest.approx(float(G @ G), rel=1e-9)
    assert found.variance == pytest.approx(float(SIGMA.trace()), rel=1e-6)
    assert found.simple_scale == pytest.approx(float(SIGMA.trace() / (G @ G)), rel=1e-6)
    assert math.isnan(found.critical_batch)


def test_averaged_over_draws_they_are_unbiased_though_many_are_negative():
    found = []
    for seed in range(3000):
        gradients = -(draw(8, seed) - 0.97 * MEAN) @ A  # almost at the minimum
        small = float(gradients.view(4, 2, 6).mean(1).square().sum(1).mean())
        found.append(noise_from_norms(small, float(gradients.mean(0) @ gradients.mean(0)), small_batch_size=2,
                                      large_batch_size=8))  # fmt: skip
    for name, expected in (("gradient_norm_squared", 0.03**2 * G @ G), ("variance", SIGMA.trace())):
        values = np.array([getattr(noise, name) for noise in found])
        assert abs(values.mean() - float(expected)) < 3 * values.std() / math.sqrt(len(values)), name
    assert 0.3 < np.mean([noise.gradient_norm_squared < 0 for noise in found]) < 0.8


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 4), "small_batch_size must be a whole number of samples, at least 1, got 0"),
        ((4, 8.0), "large_batch_size must be a whole number of samples, at least 1, got 8.0"),
        ((4, 4), "large_batch_size must exceed small_batch_size=4, got 4"),
        ((True, 4), "small_batch_size must be a whole number of samples, at least 1, got True"),
    ],
)
def test_sizes_that_tell_nothing_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        noise_from_norms(1.0, 1.0, small_batch_size=sizes[0], large_batch_size=sizes[1])


def test_a_scale_of_estimates_that_are_not_positive_is_missing():
    assert math.isnan(GradientNoise(-1.0, 2.0).simple_scale)
    assert math.isnan(GradientNoise(1.0, 2.0, gradient_curvature=0.0, curvature_variance=1.0).critical_batch)
    assert math.isnan(GradientNoise(1.0, 2.0, gradient_curvature=1.0, curvature_variance=-1.0).critical_batch)


# Averages


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_averages_are_weighted_sums_over_the_sum_of_the_weights(decay):
    pairs = [(3.0, 1.0), (5.0, -2.0), (4.0, 4.0)]
    average = RatioAverage(decay)
    for pair in pairs:
        average.update(*pair)
    weights = [decay**2, decay, 1.0]
    expected = [sum(w * pair[i] for w, pair in zip(weights, pairs, strict=True)) / sum(weights) for i in (0, 1)]
    assert average.averages == pytest.approx(tuple(expected), rel=1e-12)
    assert average.ratio == pytest.approx(expected[0] / expected[1], rel=1e-12)


def test_a_measurement_counts_for_the_time_since_the_one_before_it():
    """Two measurements that are equal, one of them left out: the same average."""
    every, rarely = RatioAverage(0.7), RatioAverage(0.7)
    for average in (every, rarely):
        average.update(5.0, 1.0)
    every.update(2.0, 4.0)
    every.update(2.0, 4.0)
    rarely.update(2.0, 4.0, elapsed=2.0)
    assert rarely.averages == pytest.approx(every.averages, rel=1e-12)
    weights = [0.3 * 0.7**2, 1 - 0.7**2]
    expected = tuple((weights[0] * a + weights[1] * b) / sum(weights) for a, b in ((5.0, 2.0), (1.0, 4.0)))
    assert rarely.averages == pytest.approx(expected, rel=1e-12)
    rarely.update(9.0, 9.0, elapsed=0.0)  # again at the same place: nothing new
    assert rarely.averages == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_first_measurement_is_known_though_no_time_has_passed(decay):
    average = RatioAverage(decay)
    average.update(6.0, 3.0, elapsed=0.0)
    assert average.ratio == 2.0


def test_the_size_of_a_measurement_does_not_decide_where_it_is_divided_by_it():
    """Two measurements of equal weight, a scale of 10 a million times the size of one of 30."""
    average = RatioAverage(0.5)
    average.update(10.0 * 1e6, 1.0 * 1e6, scale=1e6, elapsed=1.0)
    average.update(30.0, 1.0, elapsed=math.log(2 / 3) / math.log(0.5))  # weights 1 / 3 and 1 / 3
    assert average.ratio == pytest.approx(20.0, rel=1e-12)


@pytest.mark.parametrize("terms", [{"scale": 0.0}, {"scale": math.nan}, {"elapsed": -1.0}, {"elapsed": math.inf}])
def test_a_scale_or_a_time_that_is_none_is_refused(terms):
    with pytest.raises(ValueError, match=f"^{next(iter(terms))} must be a "):
        RatioAverage(0.5).update(1.0, 1.0, **terms)


def test_an_average_goes_on_from_its_state_bit_for_bit():
    whole, half, rest = RatioAverage(0.7), RatioAverage(0.7), RatioAverage(0.7)
    for average in (whole, half):
        average.update(0.1, 0.3)
    rest.load_state_dict(half.state_dict())
    for average in (whole, rest):
        average.update(0.7, -0.2)
    assert whole.state_dict() == rest.state_dict()
    assert whole.averages == rest.averages


def test_a_ratio_that_means_nothing_is_missing():
    average = RatioAverage(0.5)
    assert math.isnan(average.ratio)
    average.update(1.0, -1.0)
    assert (average.averages, math.isnan(average.ratio)) == ((1.0, -1.0), True)


@pytest.mark.parametrize("decay", [-0.1, 1, 1.0, math.nan, True, "0.5", None])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay must be a number, at least 0 and below 1, .*got {decay!r}"):
        RatioAverage(decay)


def test_a_measurement_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="numerator must be a finite number, got nan"):
        RatioAverage(0.5).update(math.nan, 1.0)


# Learning rates


@pytest.mark.parametrize("batch", [1, 30, 1000])
def test_the_best_rate_is_that_of_the_lowest_expected_loss_after_a_step(batch):
    bend, noise = float(G @ A @ G), float((A @ SIGMA).trace())
    rates = np.linspace(1e-4, 1, 200_001)
    expected_loss = -rates * float(G @ G) + rates**2 / 2 * (bend + noise / batch)  # relative to the present one
    found = optimal_learning_rate(batch, noise_scale=noise / bend, max_learning_rate=float(G @ G) / bend)
    assert found == pytest.approx(rates[expected_loss.argmin()], abs=1e-5)


def test_the_gain_is_linear_for_small_batches_and_none_for_large_ones():
    assert learning_rate_gain(64, 64, noise_scale=10.0) == 1.0
    assert learning_rate_gain(8, 2, noise_scale=1e9) == pytest.approx(4.0)
    assert learning_rate_gain(8_000_000, 2_000_000, noise_scale=10.0) == pytest.approx(1.0, abs=1e-4)
    assert learning_rate_gain(1000, 1, noise_scale=1000.0) == pytest.approx(1001 / 2)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"noise_scale": 0.0}, "noise_scale must be a positive number, got 0.0"),
        ({"noise_scale": math.nan}, "noise_scale must be a positive number, got nan"),
        ({"max_learning_rate": -1.0}, "max_learning_rate must be a positive number, got -1.0"),
        ({"batch_size": 0}, "batch_size must be a whole number of samples, at least 1, got 0"),
    ],
)
def test_rates_without_a_meaning_are_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        optimal_learning_rate(**({"batch_size": 8, "noise_scale": 9.0, "max_learning_rate": 0.1} | terms))
