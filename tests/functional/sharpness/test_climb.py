import math

import pytest
import torch
from functional.known_losses import Called, indefinite, vector

from lightning_gap.functional import RandomSubspace, sharpness, sharpness_profile


@pytest.mark.parametrize("most", [2, 3, 7, 20])
def test_no_more_evaluations_than_allowed_are_made(most):
    weight, function = indefinite()
    called = Called(function, weight)
    found = sharpness(called, [weight], epsilon=0.3, max_evaluations=most)
    assert found.evaluations == len(called.values) - 1 <= most
    assert found.gradients >= found.evaluations - 1
    assert (found.stopped_because == "evaluations used up") == (found.evaluations == most) or most == 20


def test_an_exactly_flat_start_needs_a_random_one_and_stays_within_its_budget():
    x = vector(0.0, 0.0)
    called = Called(lambda w: (w**2).sum(), x)
    found = sharpness(called, [x], max_evaluations=4)
    assert found.random_start
    assert found.evaluations == len(called.values) - 1 <= 4
    assert found.percent > 0


def test_evaluations_without_a_finite_loss_are_counted():
    x = vector(0.0)
    called = Called(lambda w: -torch.log(0.4 - w).sum(), x)
    found = sharpness(called, [x], epsilon=1.0)
    assert found.non_finite == sum(not math.isfinite(value) for value in called.values) > 0
    assert math.isnan(found.highest_loss)


def test_a_random_start_without_a_finite_loss_is_counted_too():
    x = vector(0.0)
    called = Called(lambda w: torch.where(w.abs() > 0.01, math.nan, w).sum(), x)
    found = sharpness(called, [x], epsilon=1.0, restarts=3)
    assert found.non_finite == sum(not math.isfinite(value) for value in called.values) > 0
    assert math.isnan(found.percent)


class InHalves(Called):
    """A watched loss with two halves, watched too."""

    def __init__(self, first, second, weight):
        super().__init__(lambda w: (first(w) + second(w)) / 2, weight)
        self.watched = [Called(first, weight), Called(second, weight)]

    def halves(self):
        return self.watched


@pytest.mark.parametrize("subspace", [None, RandomSubspace(4)])
@pytest.mark.parametrize("epsilon", [0.05, 0.3])
@pytest.mark.parametrize(("most", "passes"), [(2, 0), (3, 0), (4, 1), (5, 2), (6, 2), (7, 3), (20, 3)])
def test_half_of_the_evaluations_and_at_most_three_are_made_by_halves(subspace, epsilon, most, passes):
    weight, function = indefinite()
    loss = InHalves(lambda w: function(w) + w.sum(), lambda w: function(w) - w.sum(), weight)
    centre = weight.detach().clone()
    found = sharpness(loss, [weight], epsilon=epsilon, subspace=subspace, max_evaluations=most)
    assert [len(half.values) for half in loss.watched] == [passes, passes]
    assert found.evaluations == len(loss.values) - 1 + passes <= most  # one call checks that the loss is not random
    assert found.gradients == found.evaluations - (found.stopped_because == "evaluations used up")
    assert found.highest_loss == max(loss.values)
    places = [*loss.places, *loss.watched[0].places, *loss.watched[1].places]
    if subspace is None:
        box = epsilon * (centre.abs() + 1)
        assert all(bool(((place - centre).abs() <= box + 1e-12).all()) for place in places)
    assert torch.equal(weight, centre)


@pytest.mark.parametrize("most", [3, 4, 5, 7, 11])
@pytest.mark.parametrize("apart", [3, 30])
def test_halves_that_lead_downhill_are_given_up(most, apart):
    """Convex, so that the corner which the gradient at the weights names is higher than they are: 1 + 0.6 + 0.5."""
    x = vector(0.0)
    loss = InHalves(*(lambda w, s=s: (1 + 0.6 * w + 0.5 * w**2 + s * apart * w).sum() for s in (1, -1)), x)
    found = sharpness(loss, [x], epsilon=1.0, max_evaluations=most)
    assert found.highest_loss == pytest.approx(2.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_halves_that_lead_to_where_the_whole_is_not_finite_are_no_percentage(bad):
    x = vector(0.0)
    loss = InHalves(lambda w: (w + 9 * w).sum(), lambda w: (w - 9 * w).sum(), x)
    loss.function = lambda w: torch.where(w < -0.5, bad, w).sum()
    found = sharpness(loss, [x], epsilon=1.0, max_evaluations=20)
    assert str(found.percent) == str(bad)
    assert found.non_finite == 1


def test_the_other_searches_start_at_random_whatever_the_number_of_evaluations():
    weight, function = indefinite()
    centre = weight.detach().clone()
    for restarts, loss in ((1, lambda: function(weight)), (0, lambda: (weight - centre).square().sum())):
        found = sharpness(loss, [weight], epsilon=0.3, method="lbfgsb", max_evaluations=2, restarts=restarts)
        assert found.percent > 0


def test_halves_find_the_hill_that_the_nearest_corner_hides():
    """Up at the centre, down at a quarter of the box, up again at its wall: that corner is a low hill of its own."""

    def function(w):
        ridge = w.clamp(-0.05, 0.05) - (w.clamp(0.05, 0.2) - 0.05)
        return (ridge + (w.clamp(min=0.2) - 0.2) - 2 * (w.clamp(max=-0.05) + 0.05)).sum()

    x = vector(0.0)
    halves, whole = (sharpness(f, [x], epsilon=0.5) for f in (InHalves(function, function, x), lambda: function(x)))
    assert whole.highest_loss == pytest.approx(0.2)
    assert halves.highest_loss == pytest.approx(0.85)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_half_that_is_not_finite_is_no_percentage(bad, which):
    weight, function = indefinite()
    halves = [function, lambda w: torch.where(w.abs().max() > 0, bad, w).sum()]
    loss = InHalves(*(halves if which else halves[::-1]), weight)
    loss.function = function
    found = sharpness(loss, [weight], epsilon=0.3, max_evaluations=7)
    assert found.non_finite == 1
    assert sum(len(half.values) for half in loss.watched) <= 2  # one evaluation is gone
    assert str(found.percent) == str(found.highest_loss) == str(bad)


def test_halves_go_with_restarts_and_with_several_epsilon():
    weight, function = indefinite()
    loss = InHalves(lambda w: function(w) + w.sum(), lambda w: function(w) - w.sum(), weight)
    alone = [sharpness(loss, [weight], epsilon=epsilon) for epsilon in (0.3, 0.1)]
    both = sharpness_profile(loss, [weight], (0.3, 0.1))
    assert [s.percent for s in both] == [s.percent for s in alone]
    again = sharpness(loss, [weight], epsilon=0.3, restarts=2)
    assert again.percent >= alone[0].percent
    assert again.evaluations > alone[0].evaluations


def test_other_searches_have_no_use_for_halves():
    weight, function = indefinite()
    loss = InHalves(function, function, weight)
    for terms in ({"norm": "l2"}, {"method": "lbfgsb"}):
        sharpness(loss, [weight], epsilon=0.3, **terms)
    assert not any(half.values for half in loss.watched)
