import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from functional.odd_values import DOUBTFUL, JUNK

from lightning_gap.functional import (
    BatchSizeTest,
    GradientStatistics,
    RandomSubspace,
    RatioAverage,
    average_sharpness,
    gradient_noise,
    gradient_statistics,
    hessian_eigenvalues,
    hessian_trace,
    layer_sharpness,
    learning_rate_gain,
    m_sharpness,
    next_batch_size,
    noise_from_norms,
    norm_test,
    optimal_learning_rate,
    orthogonality_test,
    sharpness,
    sharpness_profile,
    spectral_density,
    subspace_sharpness,
    weight_quantiles,
)
from lightning_gap.functional._validation import (
    check_counts,
    flag,
    one_of,
    real_number,
    seed_number,
    text,
    whole_number,
)


@pytest.mark.parametrize(
    ("value", "plain"),
    [(3, 3), (np.int64(3), 3), (np.uint8(200), 200), (2**63 - 1, 2**63 - 1)],
)
def test_a_whole_number_comes_back_as_a_plain_int(value, plain):
    found = whole_number("count", value)
    assert (found, type(found)) == (plain, int)


@pytest.mark.parametrize("value", [3, 0.25, np.float32(0.25), np.float64(1e-300), np.int8(3), Fraction(1, 4)])
def test_a_real_number_comes_back_as_a_plain_float(value):
    found = real_number("share", value)
    assert (found, type(found)) == (value, float)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            lambda: whole_number("n", 2**63),
            r"^n must be a whole number, at most \d{19}, got 9223372036854775808$",
        ),
        (lambda: whole_number("n", 11, most=10, hint="fewer"), "^n must be a whole number, at most 10, got 11; fewer$"),
        (lambda: whole_number("n", -(10**5000)), "^n must be a whole number, at least 1, got a value of type int$"),
        (lambda: real_number("x", 10**400), "^x must be a finite number, got 10000"),
        (lambda: real_number("x", 0.0, above=0), r"^x must be a positive number, got 0\.0$"),
        (lambda: real_number("x", Fraction(1, 10**400), above=0), "^x must be a positive number, got Fraction"),
        (lambda: real_number("x", 1, at_least=0, below=1), "^x must be a number, at least 0 and below 1, got 1$"),
        (lambda: seed_number("seed", -1), "^seed must be a whole number, at least 0, got -1; a seed such as 0$"),
        (lambda: one_of("norm", np.array(["l2", "max"]), ("l2", "max")), "^norm must be one of 'l2', 'max', got array"),
        (lambda: flag("at_start", 1), "^at_start must be True or False, got 1$"),
        (lambda: text("suffix", 1), "^suffix must be a text, got 1$"),
    ],
)
def test_a_refusal_names_argument_value_and_what_is_allowed(check, message):
    with pytest.raises(ValueError, match=message):
        check()


def test_flags_of_numpy_are_made_plain():
    assert flag("at_start", np.bool_(True)) is True


@pytest.mark.parametrize("value", [*JUNK.values(), "3", None, True], ids=[*JUNK, "text", "None", "True"])
def test_what_only_looks_like_a_number_is_none(value):
    for check in (whole_number, real_number):
        with pytest.raises(ValueError, match=r"^count must be a "):
            check("count", value)


# Every argument of the functions


def weight():
    return torch.ones(30, dtype=torch.float64, requires_grad=True)


def of_weights(function, **needed):
    def call(**terms):
        w = weight()
        return function(lambda: w.square().sum(), [w], **(needed | terms))

    return call


def noise(**terms):
    w = weight()
    return gradient_noise(lambda: ((w * k).square().sum() / 4 for k in (1, 2, 3, 4)), [w], sizes=[2] * 4, **terms)


STATISTICS = GradientStatistics(2, 8, 20.0, 5.0, 40.0)
SEARCH = ("epsilon", "method", "max_evaluations", "max_iterations", "subspace", "relative", "norm", "restarts")
FUNCTIONS = {
    "sharpness": (of_weights(sharpness), (*SEARCH, "generator", "report_on")),
    "sharpness_profile": (of_weights(sharpness_profile, epsilons=(0.1,)), SEARCH[1:]),
    "layer_sharpness": (
        lambda **terms: (lambda w: layer_sharpness(lambda: w.sum(), {"a.w": w}, **terms))(weight()),
        ("epsilon", "max_evaluations", "relative"),
    ),
    "subspace_sharpness": (
        of_weights(subspace_sharpness, subspace=RandomSubspace(2)),
        ("epsilon", "draws", "method", "max_evaluations", "max_iterations", "restarts"),
    ),
    "m_sharpness": (
        lambda **terms: (lambda w: m_sharpness([lambda: w.sum()], [w], **terms))(weight()),
        ("epsilon", "norm", "max_evaluations", "relative"),
    ),
    "average_sharpness": (of_weights(average_sharpness), ("epsilon", "directions", "relative", "generator")),
    "hessian_eigenvalues": (of_weights(hessian_eigenvalues), ("tolerance", "max_products", "ends", "generator")),
    "hessian_trace": (of_weights(hessian_trace), ("probes", "generator")),
    "spectral_density": (of_weights(spectral_density), ("steps", "probes", "generator")),
    "gradient_noise": (noise, ("probes", "population", "generator")),
    "RandomSubspace": (RandomSubspace, ("dimension", "seed", "scale")),
    "RatioAverage": (lambda **terms: RatioAverage(**({"decay": 0.5} | terms)), ("decay",)),
    "BatchSizeTest": (
        lambda **terms: BatchSizeTest(**({"test": "norm"} | terms)),
        ("test", "theta", "nu"),
    ),
    "next_batch_size": (
        lambda **terms: next_batch_size(**({"wanted": 9.0, "current": 8, "smallest": 8, "largest": 64} | terms)),
        ("current", "smallest", "largest", "multiple_of", "max_growth", "monotone"),
    ),
    "gradient_statistics": (
        lambda **terms: gradient_statistics([torch.ones(2), torch.zeros(2)], **({"samples_each": 1} | terms)),
        ("samples_each",),
    ),
    "norm_test": (lambda **terms: norm_test(STATISTICS, **terms), ("theta", "population")),
    "orthogonality_test": (lambda **terms: orthogonality_test(STATISTICS, **terms), ("nu", "population")),
    "noise_from_norms": (
        lambda **terms: noise_from_norms(13.0, 4.0, **({"small_batch_size": 1, "large_batch_size": 4} | terms)),
        ("small_batch_size", "large_batch_size"),
    ),
    "optimal_learning_rate": (
        lambda **terms: optimal_learning_rate(
            **({"batch_size": 8, "noise_scale": 9.0, "max_learning_rate": 1.0} | terms)
        ),
        ("batch_size", "noise_scale", "max_learning_rate"),
    ),
    "learning_rate_gain": (lambda **terms: learning_rate_gain(9, 3, **terms), ("noise_scale",)),
    "weight_quantiles": (lambda **terms: weight_quantiles([torch.ones(3)], [*terms.values()]), ("levels",)),
}


@pytest.mark.parametrize(("name", "argument"), [(name, a) for name, (_, many) in FUNCTIONS.items() for a in many])
def test_an_argument_of_a_function_is_refused_by_name_or_means_something(name, argument):
    call = FUNCTIONS[name][0]
    for label, value in {**JUNK, **DOUBTFUL}.items():
        if label in ("function", "type") and argument == "report_on":
            continue
        told = ""
        try:
            call(**{argument: value})
        except (TypeError, ValueError) as error:
            told = str(error)
        assert argument in told or (not told and label not in JUNK), (value, told)
        assert told or label != "true" or argument in ("relative", "monotone")


def test_what_is_no_number_in_a_measurement_is_missing_and_not_refused():
    assert math.isnan(noise_from_norms(math.inf, 4.0, small_batch_size=1, large_batch_size=4).simple_scale)
    assert norm_test(GradientStatistics(2, 8, math.nan, math.nan, math.nan)).batch_size is None


@pytest.mark.parametrize("value", [0, -1, 2.0, 2.5, True, "3", None, float("nan")])
def test_what_is_no_count_is_refused_by_name_and_value(value):
    with pytest.raises(ValueError, match=rf"^second must be a whole number, at least 1, got {value!r}$"):
        check_counts(first=1, second=value)
    with pytest.raises(ValueError, match=rf"^first must be a whole number of samples, at least 1, got {value!r}$"):
        check_counts(unit="samples", first=value, second=1)


def test_counts_pass():
    check_counts(first=1, second=10**9)
