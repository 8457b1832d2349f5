import math

import numpy as np
import pytest
from functional.landscape.landscape_cases import ONCE, at, bowl, of_weight

from lightning_gap.functional import evaluate_points, instability, line_points, loss_barrier

ALPHAS = [k / 20 for k in range(-10, 31)]


def along(loss, start, end):
    points = line_points(at(start), at(end), ALPHAS)
    return evaluate_points(bowl((0.0,)), points, of_weight(lambda w: loss(w[0])), ONCE).values["data"]["loss"]


def test_a_convex_loss_has_no_barrier_and_yet_an_instability():
    losses = along(lambda w: (w - 0.5).square(), -1.0, 3.0)
    assert loss_barrier(ALPHAS, losses).height == pytest.approx(0, abs=1e-12)
    assert instability(ALPHAS, losses).height == pytest.approx((2.5**2 - 1.5**2) / 2)
    assert instability(ALPHAS, losses).alpha == 1.0


@pytest.mark.parametrize(("c", "start", "end"), [(1.0, 0.0, 2.0), (3.0, -1.0, 4.0)])
def test_a_concave_parabola_rises_by_an_eighth_of_curvature_times_length_squared(c, start, end):
    found = loss_barrier(ALPHAS, along(lambda w: -0.5 * c * w.square(), start, end))
    assert found.height == pytest.approx(c * (end - start) ** 2 / 8)
    assert found.alpha == 0.5


def test_a_double_well_has_the_height_of_its_saddle_by_both_definitions():
    losses = along(lambda w: (w.square() - 1).square(), -1.0, 1.0)
    assert loss_barrier(ALPHAS, losses) == instability(ALPHAS, losses)
    assert loss_barrier(ALPHAS, losses).height == pytest.approx(1.0)


def test_positions_outside_the_ends_do_not_count_and_may_be_numpys():
    assert loss_barrier(np.array([2.0, 1.0, 0.0, -1.0]), np.array([9.0, 1.0, 1.0, 9.0])).height == 0.0


def test_diverged_points_are_not_passed_over():
    assert loss_barrier([0.0, 0.5, 1.0], [1.0, math.inf, 1.0]).height == math.inf
    assert math.isnan(loss_barrier([0.0, 0.5, 1.0], [1.0, math.nan, 1.0]).height)
    assert loss_barrier([0.0, 0.5, 1.0], [1.0, math.nan, 1.0]).alpha == 0.5


@pytest.mark.parametrize("function", [loss_barrier, instability])
def test_ends_must_be_there(function):
    with pytest.raises(ValueError, match=r"alphas.*0 and 1.*0\.5"):
        function([0.0, 0.5], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"alphas and .*2 and 1"):
        function([0.0, 1.0], [1.0])
