import itertools
import math
import sys

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import RandomSubspace, sharpness
from lightning_gap.functional.sharpness._lbfgsb import lbfgsb_ascent
from lightning_gap.functional.sharpness.random_subspace import SubspaceBasis


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(40, 6, dtype=torch.float64), torch.randint(3, (40,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    return list(model.parameters()), lambda: cross_entropy(model(x), y)


def by_hand(params, loss_fn, a, epsilon, **options):
    """Metric 2.1 straight from the paper: SciPy on y with a dense A, best value seen; in percent."""
    start = torch.cat([p.detach().flatten() for p in params]).numpy()
    box = epsilon * (np.abs(np.linalg.pinv(a) @ start) + 1)
    seen = []

    def negative(y):
        nn.utils.vector_to_parameters(torch.from_numpy(start + a @ y), params)
        loss = loss_fn()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)]).numpy()
        seen.append(float(loss.detach()))
        return -seen[-1], -(a.T @ gradient)

    bounds = list(zip(-box, box, strict=True))
    y = np.zeros(a.shape[1])
    scipy.optimize.minimize(negative, y, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 10, **options})
    nn.utils.vector_to_parameters(torch.from_numpy(start), params)
    return 100 * (max(seen) - seen[0]) / (1 + seen[0]), len(seen)


ZERO = {"ftol": 0.0, "gtol": 0.0}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("epsilon", [1e-3, 5e-3])
@pytest.mark.parametrize("dimension", [None, 5])
def test_it_is_scipys_lbfgsb_called_by_hand(seed, epsilon, dimension):
    params, loss_fn = network(seed)
    subspace = None if dimension is None else RandomSubspace(dimension, seed=seed)
    n = sum(p.numel() for p in params)
    a = np.eye(n)
    if subspace:
        basis, units = SubspaceBasis(subspace, params), torch.eye(dimension, dtype=torch.float64)
        a = torch.stack([torch.cat([c.flatten() for c in basis.expand(e)]) for e in units], 1).numpy()
    percent, evaluations = by_hand(params, loss_fn, a, epsilon, **ZERO)
    found = sharpness(loss_fn, params, epsilon=epsilon, method="lbfgsb", subspace=subspace)
    assert found.percent == pytest.approx(percent, rel=1e-6)
    assert found.evaluations == found.gradients == evaluations  # SciPy's first one is the one at the weights
    assert found.stopped_because in ("iterations used up", "converged")


def test_a_minimum_whose_gradient_is_below_scipys_tolerance_is_not_flat():
    """Flat at its foot and steep behind: with the default tolerances SciPy stops where it starts."""
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    loss_fn = lambda: 5e-6 * x.sum() + 1e6 * (x**2).sum()  # noqa: E731
    assert by_hand([x], loss_fn, np.eye(2), 1e-2) == (0.0, 1)
    found = sharpness(loss_fn, [x], epsilon=1e-2, method="lbfgsb")
    assert found.largest_gradient < 1e-5
    assert found.percent == pytest.approx(100 * (2 * 1e6 * 1e-4 + 2 * 5e-8), rel=1e-9)


@pytest.mark.parametrize("relative", [False, True])
def test_the_maximum_inside_the_box_is_found(relative):
    """A concave quadratic: no corner is its maximum."""
    x = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    centre = torch.tensor([1.05, -1.9, 3.02], dtype=torch.float64)
    h = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)
    found = sharpness(
        lambda: 5 - (h * (x - centre) ** 2).sum(),
        [x],
        epsilon=0.1,
        method="lbfgsb",
        max_iterations=50,
        relative=relative,
    )
    assert found.highest_loss == pytest.approx(5, rel=1e-9)
    assert found.at_bound < 1


def test_a_box_without_width_somewhere_is_no_hindrance():
    x = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    found = sharpness(lambda: (x + 1).square().sum(), [x], epsilon=0.5, method="lbfgsb", relative=True)
    assert found.highest_loss == pytest.approx(1 + 16)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_ends_the_ascent_before_scipy_sees_it(bad, monkeypatch):
    shown = spy_on(monkeypatch)
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    calls = []

    def loss_fn():
        calls.append(1)
        loss = (x**2).sum() + 0.1 * x.sum()
        return loss + bad if len(calls) >= 5 else loss

    result = sharpness(loss_fn, [x], epsilon=5.0, method="lbfgsb")
    assert result.non_finite
    assert str(result.percent) == ("inf" if bad == math.inf else "nan")
    assert result.stopped_because == "loss not finite"
    assert all(np.isfinite(value) and np.isfinite(gradient).all() for value, gradient in shown)


def spy_on(monkeypatch):
    """What SciPy is given by the objective."""
    shown, minimize = [], scipy.optimize.minimize

    def spied(objective, *args, **kwargs):
        def noted(y):
            value, gradient = objective(y)
            shown.append((value, gradient.copy()))
            return value, gradient

        return minimize(noted, *args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "minimize", spied)
    return shown


def cliff(weight, edge=0.02):
    """Finite at 0, NaN beyond the edge."""
    return 10 - torch.log(edge - weight).sum()


def test_a_random_start_without_a_finite_loss_does_not_reach_scipy_either(monkeypatch):
    shown = spy_on(monkeypatch)
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    result = sharpness(lambda: cliff(x), [x], epsilon=1.0, method="lbfgsb", restarts=3)
    assert math.isnan(result.percent)
    assert result.non_finite >= 1
    assert all(np.isfinite(value) and np.isfinite(gradient).all() for value, gradient in shown)


class RootOfZero(torch.autograd.Function):
    """Nothing, with a gradient that is not finite: as of a square root at 0, times 0."""

    @staticmethod
    def forward(ctx, x):
        return 0 * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


def test_a_gradient_that_is_not_finite_does_not_reach_scipy(monkeypatch):
    shown = spy_on(monkeypatch)
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    calls = []

    def loss_fn():
        calls.append(1)
        loss = x.sum() + (x**2).sum()
        return loss + RootOfZero.apply(x).sum() if len(calls) > 2 else loss

    result = sharpness(loss_fn, [x], epsilon=1.0, method="lbfgsb")
    assert math.isnan(result.percent)  # the value there is a number, but the search could not go on
    assert all(np.isfinite(value) and np.isfinite(gradient).all() for value, gradient in shown)


def test_without_scipy_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    x = torch.ones(2, requires_grad=True)
    for method in ("lbfgsb", "best"):
        with pytest.raises(ImportError, match=f"method='{method}' needs SciPy; install scipy, or use method='corner'"):
            sharpness(lambda: x.sum(), [x], method=method)
    assert x.tolist() == [1.0, 1.0]
    assert sharpness(lambda: x.sum(), [x]).percent > 0


def test_a_search_that_never_steps_below_a_higher_corner_is_an_error_and_not_flat():
    def evaluate(point, with_gradient):  # the slope at the start is so small that the first step ends where it began
        return float(point[0].min() > 0.9), [torch.full((2,), 1e-12)]

    with pytest.raises(ValueError, match=r"L-BFGS-B did not leave its start.*use method='corner'"):
        lbfgsb_ascent(evaluate, [torch.ones(2)], [torch.zeros(2)], 0.0, [torch.full((2,), 1e-12)], 10)


def test_a_loss_that_is_flat_to_the_last_digit_has_no_sharpness():
    x = torch.zeros(3, requires_grad=True)
    found = sharpness(lambda: 1 + 1e-12 * x.sum(), [x], method="lbfgsb")
    assert (found.percent, found.random_start) == (0.0, False)


def test_a_flat_place_is_flat():
    flat = lambda point, with_gradient: (1.0, [torch.zeros(2)])  # noqa: E731
    found = lbfgsb_ascent(flat, [torch.ones(2)], [torch.zeros(2)], 1.0, [torch.zeros(2)], 10)
    assert (found.highest, found.stopped_because) == (1.0, "converged")


def test_it_starts_where_it_is_told_and_knows_the_loss_there():
    """Two hills; the start decides. The known value at the start is not asked for again."""
    asked = []

    def evaluate(point, with_gradient):
        u = point[0].clone().requires_grad_()
        loss = u.square().sum() + 0.1 * u.sum()
        asked.append(point[0].tolist())
        return float(loss.detach()), torch.autograd.grad(loss, [u])

    for start, corner in ((0.5, 1.0), (-0.5, -1.0)):
        asked.clear()
        point = torch.full((1,), start, dtype=torch.float64)
        found = lbfgsb_ascent(
            evaluate, [torch.full((1,), 3.0).double()], [point], 0.25 + 0.1 * start, [(2 * point + 0.1) / 3], 10
        )
        assert found.point[0].tolist() == [corner]
        assert [start] not in asked
        assert found.highest == pytest.approx(1 + 0.1 * corner)


def test_one_tensor_or_several_make_no_difference():
    values = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = values.clone().requires_grad_()
    parts = [values[:2].clone().requires_grad_(), values[2:].view(2, 2).clone().requires_grad_()]
    f = lambda v: (v**3).sum() + v.prod() + 20  # noqa: E731
    one = sharpness(lambda: f(whole), [whole], epsilon=0.1, method="lbfgsb")
    several = sharpness(lambda: f(torch.cat([p.flatten() for p in parts])), parts, epsilon=0.1, method="lbfgsb")
    assert one.percent == pytest.approx(several.percent, rel=1e-12)


def test_convex_quadratics_end_in_a_corner_no_higher_than_the_best():
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
        slope = torch.randn(4, generator=generator, dtype=torch.float64)
        x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        corners = torch.tensor(list(itertools.product([-0.1, 0.1], repeat=4)), dtype=torch.float64)
        best = float((corners @ slope + ((corners @ (root @ root.T)) * corners).sum(1) / 2).max())
        loss_fn = lambda x=x, s=slope, r=root: s @ x + (x @ r).square().sum() / 2  # noqa: E731
        found = sharpness(loss_fn, [x], epsilon=0.1, method="lbfgsb", restarts=8)
        assert found.at_bound == 1.0
        assert found.percent / 100 == pytest.approx(best, rel=1e-6)
