import math

import pytest
import torch
from functional.known_losses import Called, indefinite, vector

from lightning_gap.functional import RandomSubspace, sharpness


def by_hand(function, weight, epsilon, norm, steps=20):
    """Algorithm 1 of Croce and Hein (2020), line by line, on one vector: the highest value seen.

    Every iterate is kept. In the ball the gradient is that of the coordinates, divided by its norm.
    """
    centre = weight.detach().clone()
    scale = epsilon * (torch.ones_like(centre) if norm == "l2" else centre.abs() + 1)

    def f(u):
        at = (centre + scale * u).requires_grad_()
        value = function(at)
        (gradient,) = torch.autograd.grad(value, at)
        return float(value.detach()), scale * gradient

    def project(u):
        return u.clamp(-1, 1) if norm == "max" else u / max(1.0, float(u.norm()))

    def normalised(gradient):
        return gradient.sign() if norm == "max" else gradient / gradient.norm()

    p = [0.0, 0.22]
    while p[-1] + max(p[-1] - p[-2] - 0.03, 0.06) <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    w = [math.ceil(share * steps) for share in p]
    eta, x = 2.0, [torch.zeros_like(centre)]
    best, highest = x[0], f(x[0])[0]
    noted, rose = [(eta, highest)], []  # at the checkpoints; of each step
    for k in range(steps):
        value, gradient = f(x[k])
        new = project(x[k] + eta * normalised(gradient))
        if k:
            new = project(x[k] + 0.75 * (new - x[k]) + 0.25 * (x[k] - x[k - 1]))
        rose.append(f(new)[0] > value)
        if f(new)[0] > highest:
            best, highest = new, f(new)[0]
        x.append(new)
        if k + 1 in w[1:]:
            last = w[w.index(k + 1) - 1]
            few = sum(rose[last:]) < 0.75 * (k + 1 - last)
            if few or noted[-1] == (eta, highest):
                noted.append((eta, highest))
                eta, x[k + 1] = eta / 2, best
            else:
                noted.append((eta, highest))
    return highest


@pytest.mark.parametrize("norm", ["max", "l2"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_it_is_algorithm_1(norm, seed, epsilon):
    weight, quadratic = indefinite(seed=seed)
    function = lambda w: quadratic(w) + 5 * torch.sin(9 * w).sum()  # noqa: E731  many hills, so that steps are halved
    called = Called(function, weight)
    found = sharpness(called, [weight], epsilon=epsilon, norm=norm, method="apgd", max_evaluations=21)
    assert found.highest_loss == max(called.values)
    assert found.highest_loss == pytest.approx(by_hand(function, weight, epsilon, norm), rel=1e-9)
    assert (found.method, found.found_by, found.evaluations, found.gradients) == ("apgd", "apgd", 21, 20)


@pytest.mark.parametrize("norm", ["max", "l2"])
def test_a_linear_loss_is_climbed_to_the_wall(norm):
    x = vector(1.0, -2.0, 0.5)
    slope = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
    found = sharpness(lambda: 10 + slope @ x, [x], epsilon=0.1, norm=norm, method="apgd", relative=True)
    reached = slope * x.detach()
    rise = 0.1 * (reached.abs().sum() if norm == "max" else reached.norm())
    assert found.highest_loss - found.loss == pytest.approx(float(rise), rel=1e-12)


def test_the_maximum_inside_the_box_is_found():
    """A concave quadratic: no corner is its maximum, and steps must become small."""
    x = vector(1.0, -2.0, 3.0)
    centre = torch.tensor([1.05, -1.9, 3.02], dtype=torch.float64)
    loss = lambda: 5 - (x - centre).square().sum()  # noqa: E731
    found = sharpness(loss, [x], epsilon=0.1, method="apgd", max_evaluations=60)
    assert found.highest_loss == pytest.approx(5, abs=1e-4)
    assert found.at_bound < 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_no_percentage(bad):
    x = vector(0.0)
    called = Called(lambda w: torch.where(w > 0.05, bad, w).sum(), x)
    found = sharpness(called, [x], epsilon=0.1, method="apgd")
    assert str(found.percent) == str(bad)
    assert found.non_finite == sum(not math.isfinite(value) for value in called.values) > 0
    assert x.tolist() == [0.0]


def test_it_goes_with_a_subspace_and_from_a_flat_start():
    weight, function = indefinite()
    found = sharpness(lambda: function(weight), [weight], epsilon=0.3, method="apgd", subspace=RandomSubspace(4))
    assert found.percent > 0
    x = vector(0.0, 0.0)
    found = sharpness(lambda: x.square().sum(), [x], method="apgd")
    assert found.random_start
    assert found.highest_loss == pytest.approx(2e-6)
