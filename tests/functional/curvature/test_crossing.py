import math

import pytest

from lightning_gap.functional.curvature._crossing import Crossing


def search(rise, first, *, noise=0.0, tolerance=0.05, largest=math.inf, trials=30):
    tried = []

    def watched(x):
        tried.append(x)
        return rise(x)

    found = Crossing(watched, noise, tolerance, largest, trials)
    return found, found.find(first), tried


@pytest.mark.parametrize("first", [1e-6, 0.3, 1.9, 2.0, 2.1, 50.0, 1e6])
def test_a_parabola_is_found_exactly_from_anywhere(first):
    found, reason, tried = search(lambda x: x * (x - 2), first)
    assert reason == ""
    assert found.crossing == pytest.approx(2.0, rel=1e-14)
    assert found.lower <= 2.0 < found.upper <= 1.05 * found.lower
    assert {found.lower, found.upper} <= set(tried)
    if 0.3 <= first <= 2.1:
        assert len(tried) <= 4


@pytest.mark.parametrize(
    ("rise", "crossing"),
    [
        (lambda x: math.expm1(x) - 3 * x, 1.9038136944),
        (lambda x: x**4 - x, 1.0),
        (lambda x: math.inf if x > 1.5 else -x, 1.5),
        (lambda x: abs(x - 1) - 1, 2.0),
        (lambda x: 1.0 if x > 0.7 else -1e-3 * x, 0.7),
    ],
)
@pytest.mark.parametrize("first", [0.01, 1.0, 7.0])
def test_other_functions_are_bracketed_within_the_tolerance(rise, crossing, first):
    found, reason, _ = search(rise, first, tolerance=0.01)
    assert reason == ""
    assert found.lower <= crossing <= found.upper <= 1.01 * found.lower
    assert found.lower <= found.crossing <= found.upper
    assert rise(found.lower) <= 0 < rise(found.upper)


def test_the_lower_end_is_tried_also_where_the_first_trial_rises():
    """Public code halves no further, and takes the first trial for a lower end."""
    found, _, tried = search(lambda x: x * (x - 1e-3), 1.0)
    assert found.crossing == pytest.approx(1e-3)
    assert found.lower in tried


@pytest.mark.parametrize(
    ("rise", "reason"),
    [
        (lambda x: x, "no descent"),
        (lambda x: math.nan, "no descent"),
        (lambda x: 1e-9 * x, "no descent"),
        (lambda x: 0.0, "no rise"),
        (lambda x: -x, "no rise"),
    ],
)
def test_it_says_why_there_is_no_crossing(rise, reason):
    _, said, tried = search(rise, 1.0, noise=1e-6, largest=1e3)
    assert said == reason
    assert len(tried) <= 30
    assert max(tried) <= 1e3


def test_a_rise_from_the_start_is_told_by_few_trials():
    _, said, tried = search(lambda x: x + x**2, 1.0)
    assert said == "no descent"
    assert len(tried) <= 6


def test_a_fall_within_the_noise_is_none():
    assert search(lambda x: x * (x - 2), 1.0, noise=1.1)[1] == "no descent"
    assert search(lambda x: x * (x - 2), 1.0, noise=0.9)[1] == ""


def test_where_trials_run_out_the_bracket_is_wider():
    found, reason, tried = search(lambda x: math.inf if x > 1.5 else -x, 1.0, tolerance=1e-6, trials=6)
    assert reason == ""
    assert len(tried) == 6
    assert 0 < found.lower <= 1.5 < found.upper
