import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_gap.functional.sharpness._gradient_ascent import (
    incremental_ascent,
    normalized_gradient_ascent,
    sign_gradient_ascent,
)

CLIMBS = [sign_gradient_ascent, normalized_gradient_ascent]


class Recorded:
    """Evaluates a function of one vector, keeping every point, value and whether a gradient was asked for."""

    def __init__(self, function):
        self.function, self.points, self.values, self.asked = function, [], [], []

    def __call__(self, point, with_gradient):
        (u,) = point
        u = u.detach().double().requires_grad_()
        value = self.function(u)
        self.points.append(u.detach().clone())
        self.values.append(float(value.detach()))
        self.asked.append(with_gradient)
        return self.values[-1], list(torch.autograd.grad(value, [u], allow_unused=True)) if with_gradient else []

    def climb(self, how, start, evaluations):
        value, gradient = self([start], True)
        return how(self, [start], value, gradient, evaluations)


def quadratic(hessian, slope):
    return lambda u: slope @ u + u @ hessian @ u / 2


def zeros(n):
    return torch.zeros(n, dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(CLIMBS), st.integers(1, 12))
def test_the_highest_loss_is_that_of_the_point_the_point_is_inside_and_nothing_seen_is_higher(seed, how, evaluations):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    slope = torch.randn(5, generator=generator, dtype=torch.float64)
    recorded = Recorded(quadratic(root + root.T, slope))  # indefinite
    found = recorded.climb(how, zeros(5), evaluations)
    assert found.highest == max(recorded.values)
    assert found.highest == pytest.approx(float(recorded.function(found.point[0].double())), rel=1e-12, abs=1e-12)
    inside = [u.abs().max() if how is sign_gradient_ascent else u.norm() for u in recorded.points]
    assert max(map(float, inside)) <= 1 + 1e-12
    assert len(recorded.values) - 1 <= evaluations


@pytest.mark.parametrize("how", CLIMBS)
@pytest.mark.parametrize("evaluations", [1, 2, 5])
def test_only_the_last_evaluation_asks_for_no_gradient(how, evaluations):
    recorded = Recorded(lambda u: -(u**2).sum() + 1e-9 * u.sum())  # every step falls
    recorded.climb(how, zeros(3), evaluations)
    assert recorded.asked[1:] == [True] * (evaluations - 1) + [False]


def test_one_step_reaches_the_best_corner_of_a_separable_convex_function_and_the_next_confirms_it():
    slope = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    recorded = Recorded(quadratic(torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)), slope))
    found = recorded.climb(sign_gradient_ascent, zeros(3), 10)
    assert found.point[0].tolist() == [1.0, -1.0, 1.0]
    assert found.highest == 3 + 1 + 0.5 + 0.5 + 1
    assert found.stopped_because == "confirmed by its gradient"
    assert len(recorded.values) == 2


def test_the_first_step_reaches_any_corner_also_from_another_one():
    recorded = Recorded(lambda u: u.sum())
    found = recorded.climb(sign_gradient_ascent, -torch.ones(4, dtype=torch.float64), 3)
    assert found.point[0].tolist() == [1.0] * 4


def test_a_step_that_does_not_climb_is_halved():
    recorded = Recorded(lambda u: 0.3 * u.sum() - u.square().sum())  # highest at 0.15
    found = recorded.climb(sign_gradient_ascent, zeros(1), 6)
    assert [float(u) for u in recorded.points] == [0, 1, 1, 0.5, 0.25, 0.0, 0.125] or [
        float(u) for u in recorded.points[:5]
    ] == [0, 1, 1, 0.5, 0.25]
    assert found.highest == max(recorded.values)
    assert float(found.point[0]) in (0.25, 0.125)


def test_coordinates_without_gradient_stay_where_they_are():
    recorded = Recorded(lambda u: u[0] + 0 * u.sum())
    found = recorded.climb(sign_gradient_ascent, torch.tensor([0.0, 0.25, -0.5], dtype=torch.float64), 3)
    assert found.point[0].tolist() == [1.0, 0.25, -0.5]


@pytest.mark.parametrize("how", CLIMBS)
def test_losses_that_are_not_finite_are_passed_over_and_counted(how):
    recorded = Recorded(lambda u: torch.where(u > 0.6, math.nan, u).sum())
    found = recorded.climb(how, zeros(1), 4)
    assert found.highest == 0.5
    assert float(found.point[0]) == 0.5
    assert found.non_finite >= 2
    assert found.non_finite == sum(not math.isfinite(value) for value in recorded.values)


@pytest.mark.parametrize("how", CLIMBS)
def test_an_infinite_loss_is_the_highest_and_ends_the_ascent(how):
    recorded = Recorded(lambda u: torch.where(u > 0.6, math.inf, u).sum())
    found = recorded.climb(how, zeros(1), 4)
    assert (found.highest, float(found.point[0]), found.stopped_because) == (math.inf, 1.0, "loss not finite")
    assert found.non_finite == 1


@pytest.mark.parametrize("how", CLIMBS)
def test_a_loss_of_minus_infinity_is_passed_over(how):
    recorded = Recorded(lambda u: torch.where(u > 0.6, -math.inf, u).sum())
    assert recorded.climb(how, zeros(1), 4).highest == 0.5


@pytest.mark.parametrize("how", CLIMBS)
def test_from_a_start_without_a_finite_loss_any_finite_one_is_higher(how):
    evaluate = lambda point, with_gradient: (-5.0, [torch.ones(2)] if with_gradient else [])  # noqa: E731
    found = how(evaluate, [torch.zeros(2)], -math.inf, [torch.ones(2)], 2)
    assert found.highest == -5.0


@pytest.mark.parametrize("how", CLIMBS)
def test_no_evaluation_left_gives_the_start(how):
    found = how(None, [torch.full((2,), 0.5)], 3.0, [torch.ones(2)], 0)
    assert (found.highest, found.point[0].tolist()) == (3.0, [0.5, 0.5])
    assert found.stopped_because == "evaluations used up"


def test_the_point_of_several_tensors_is_taken_as_one_vector():
    seen = []

    def evaluate(point, with_gradient):
        seen.append([u.double().clone() for u in point])
        return float(len(seen)), [torch.tensor([3.0]), torch.tensor([[4.0]])]

    slope = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    normalized_gradient_ascent(evaluate, [torch.zeros(1), torch.zeros(1, 1)], 0.0, slope, 1)
    assert [float(u) for u in seen[0]] == pytest.approx([0.6, 0.8])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6).filter(lambda g: max(map(abs, g)) > 1e-3))
def test_the_first_step_in_the_ball_is_that_of_sharpness_aware_minimization(slope):
    slope = torch.tensor(slope, dtype=torch.float64)
    recorded = Recorded(lambda u: slope @ u)
    recorded.climb(normalized_gradient_ascent, torch.zeros_like(slope), 1)
    torch.testing.assert_close(recorded.points[1], slope / slope.norm())


def test_ties_of_the_gradient_do_not_make_the_ball_ascent_wander():
    recorded = Recorded(lambda u: u.sum())
    found = recorded.climb(normalized_gradient_ascent, zeros(4), 10)
    assert found.stopped_because == "confirmed by its gradient"
    assert len(recorded.values) == 2
    assert found.highest == pytest.approx(2.0, rel=1e-12)


def test_halves_step_in_turn_along_their_own_gradients_by_two_and_at_last_by_one():
    first, second = Recorded(lambda u: u @ torch.tensor([3.0, -1.0, 0.0]).double()), Recorded(lambda u: -u.sum())
    point = incremental_ascent([first, second], [torch.tensor([2.0, -0.5, 0.0])], 2)
    assert [u.tolist() for u in first.points] == [[0.25, -0.25, 0.0], [-1.0, -1.0, -1.0]]
    assert [u.tolist() for u in second.points] == [[1.0, -1.0, 0.0], [0.0, -1.0, -1.0]]
    assert point[0].tolist() == [-1.0, -1.0, -1.0]
    assert all(first.asked + second.asked)


def test_halves_that_agree_end_at_their_corner():
    slope = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)
    point = incremental_ascent([Recorded(lambda u: slope @ u)] * 2, [slope], 1)
    assert point[0].tolist() == slope.sign().tolist()


def test_a_half_without_a_finite_loss_leads_nowhere():
    assert incremental_ascent([Recorded(lambda u: torch.log(u - 1).sum())], [zeros(2)], 3) is None


def test_each_step_follows_the_gradient_at_the_highest_point():
    recorded = Recorded(lambda u: u[0] - 0.1 * u[1] + 0.5 * u[0] * u[1])  # the first corner is (1, -1), of height 0.6
    found = recorded.climb(sign_gradient_ascent, zeros(2), 2)
    assert found.point[0].tolist() == [1.0, 1.0]
    assert found.highest == pytest.approx(1.4)


def test_a_point_in_half_precision_is_moved_in_place_to_save_memory():
    point, slope = torch.zeros(3, dtype=torch.float16), torch.tensor([1, -1, 1], dtype=torch.int8)
    found = sign_gradient_ascent(Recorded(lambda u: (u * slope).sum()), [point], 0.0, [slope.clone()], 3)
    assert found.point[0] is point
    assert point.tolist() == slope.tolist()
