import math

import pytest
import torch
from functional.known_losses import Called, network, unchanged, vector
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import UndefinedSharpnessError, sharp_share


def rotation(n, seed=0):
    """A random orthogonal matrix."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q


@pytest.mark.parametrize("k", [1, 6, 60])
@pytest.mark.parametrize("turned", [False, True])
def test_k_sharp_directions_of_n_are_k_over_n_however_the_axes_lie(k, turned):
    n = 120
    turn = rotation(n) if turned else torch.eye(n, dtype=torch.float64)
    weight = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    found = sharp_share(lambda: (turn @ weight)[:k].square().sum(), [weight], radius=0.1, directions=1000)
    assert found.share == pytest.approx(k / n, abs=5 * found.standard_error)
    assert found.standard_error < 0.1 * k / n
    assert found.worst_rise == pytest.approx(0.01, rel=1e-6)  # the first direction's, at the radius
    assert found.average_rise == found.share * found.worst_rise
    assert (found.weights, found.directions, found.radius, found.relative) == (n, 1000, 0.1, False)


def test_a_bowl_is_sharp_in_all_directions_and_what_is_linear_cancels():
    weight = torch.zeros(50, dtype=torch.float64, requires_grad=True)
    bowl = sharp_share(lambda: weight.square().sum(), [weight], radius=0.3)
    assert bowl.share == pytest.approx(1, rel=1e-9)
    assert bowl.standard_error < 1e-9
    tilted = sharp_share(lambda: weight.square().sum() + 5 * weight[0], [weight], radius=0.3)
    assert tilted.average_rise == pytest.approx(bowl.average_rise, rel=1e-9)
    assert tilted.worst_rise == pytest.approx(0.09 + 5 * 0.3, rel=1e-6)


def trained():
    model, x, y = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    params = list(model.parameters())

    def loss_fn():  # with weight decay, so that there is a minimum
        decay = sum(p.square().sum() for p in params)
        return cross_entropy(model(x), y) + 0.01 * decay

    def closure():
        optimizer.zero_grad()
        loss = loss_fn()
        loss.backward()
        return loss

    optimizer.step(closure)
    model.zero_grad()
    return model, params, loss_fn


def test_close_to_a_minimum_it_is_the_trace_over_n_times_the_largest_eigenvalue():
    """Of the whole Hessian, by autograd; and the share of eigenvectors that are sharp is within its bound."""
    model, params, loss_fn = trained()
    names = [name for name, _ in model.named_parameters()]
    flat = nn.utils.parameters_to_vector(params).detach()
    x, y = network()[1:]

    def of_vector(w):
        parts = [part.view_as(p) for part, p in zip(w.split([p.numel() for p in params]), params, strict=True)]
        logits = torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (x,))
        return cross_entropy(logits, y) + 0.01 * w.square().sum()

    eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(of_vector, flat))
    expected = float(eigenvalues.mean() / eigenvalues[-1])
    found = unchanged(params, lambda: sharp_share(loss_fn, params, radius=1e-3, directions=400, max_evaluations=200))
    assert found.share == pytest.approx(expected, abs=5 * found.standard_error + 0.02 * expected)
    assert expected < 0.5
    assert eigenvalues[0] > 0
    for c in (0.1, 0.5, 0.9):
        assert float((eigenvalues >= c * eigenvalues[-1]).double().mean()) <= expected / c + 1e-12


@pytest.mark.parametrize("method", ["corner", "apgd"])
def test_the_worst_is_that_of_everything_evaluated_and_all_evaluations_are_counted(method):
    weight = vector(*(0.1 * k for k in range(12)))
    called = Called(lambda w: 5 + torch.sin(7 * w).sum(), weight)
    found = sharp_share(called, [weight], radius=0.5, method=method, directions=8)
    assert found.evaluations == len(called.values) - 1  # one call checks that the loss is not random
    assert found.worst_rise == max(called.values) - found.loss
    assert found.steepest_sampled == max(called.values[-16:]) - found.loss
    assert max((place - called.places[0]).norm() for place in called.places) <= 0.5 + 1e-9


def test_an_ellipsoid_is_not_changed_by_a_rescaling():
    weight = vector(1.0, -2.0, 3.0, 0.5)
    curvature = torch.tensor([4.0, 1.0, 0.5, 2.0], dtype=torch.float64)
    found = []
    for factor in (1.0, 10.0):
        centre = weight.detach().clone() * factor
        moved = centre.clone().requires_grad_()
        loss_fn = lambda w=moved, c=centre, f=factor: (curvature * ((w - c) / f).square()).sum()  # noqa: E731
        found.append(sharp_share(loss_fn, [moved], radius=0.1, relative=True))
    assert found[0].share == pytest.approx(found[1].share, rel=1e-9)


def test_the_generator_decides_the_directions():
    weight = torch.zeros(30, dtype=torch.float64, requires_grad=True)
    loss_fn = lambda: weight[:3].square().sum()  # noqa: E731
    run = lambda seed: sharp_share(  # noqa: E731
        loss_fn, [weight], radius=0.1, generator=None if seed is None else torch.Generator().manual_seed(seed)
    )
    assert run(0) == run(None) == run(0)
    assert run(1).share != run(0).share


def test_what_has_no_share_is_nan_and_never_a_number():
    weight = vector(0.0, 0.0)
    assert math.isnan(sharp_share(lambda: 1 - weight.square().sum(), [weight], radius=0.1).share)  # a top
    beyond = lambda bad: lambda: torch.where(weight.norm() > 0.05, bad, weight.square().sum()).sum()  # noqa: E731
    assert math.isnan(sharp_share(beyond(math.nan), [weight], radius=0.1).share)
    assert math.isnan(sharp_share(beyond(math.inf), [weight], radius=0.1).share)
    assert weight.tolist() == [0.0, 0.0]
    with pytest.raises(UndefinedSharpnessError, match="the loss at params must be finite"):
        sharp_share(lambda: weight.sum() + math.nan, [weight], radius=0.1)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"radius": 0}, "radius must be a positive number, got 0; a Euclidean distance"),
        ({"radius": 0.1, "directions": 0}, "directions must be a whole number, at least 1, got 0"),
        ({"radius": 0.1, "method": "best"}, "norm='l2' goes with method='corner' or 'apgd'"),
    ],
)
def test_arguments_out_of_range_are_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        sharp_share(lambda: None, [vector(1.0)], **terms)
