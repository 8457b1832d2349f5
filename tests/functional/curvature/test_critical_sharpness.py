import math

import pytest
import torch
from functional.known_losses import Called, network, unchanged, vector
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from lightning_gap.functional import UndefinedCurvatureError, critical_sharpness


def quadratic(n=12, seed=0, offset=3.0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    hessian = root @ root.T / n
    weight = torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_()
    return weight, hessian, lambda: weight @ hessian @ weight / 2 + offset


def direction_of(kind, gradient):
    """What SGD, Adam after many equal steps, and Adam at its first step subtract, over the learning rate."""
    return {
        "sgd": gradient,
        "adam": gradient / (1.7 * gradient.abs() ** 0.5 + 1e-8),
        "sign": gradient / (gradient.abs() + 1e-8),
    }[kind]


@pytest.mark.parametrize("guess", [1e-3, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("kind", ["sgd", "adam", "sign"])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_exact_on_a_quadratic(kind, guess, seed):
    weight, hessian, loss = quadratic(seed=seed)
    gradient = (hessian @ weight).detach()
    u = direction_of(kind, gradient)
    expected = float(2 * gradient @ u / (u @ hessian @ u))
    found = unchanged([weight], lambda: critical_sharpness(loss, [weight], [u], guess=guess))
    assert found.learning_rate == pytest.approx(expected, rel=1e-12)
    assert found.sharpness == pytest.approx(2 / expected, rel=1e-12)
    assert found.lower < expected < found.upper <= 1.05 * found.lower
    assert found.reason == ""
    if kind == "sgd":
        assert found.sharpness == pytest.approx(float(gradient @ hessian @ gradient / gradient.dot(gradient)))


def test_five_evaluations_are_enough_for_a_parabola_and_the_ends_were_tried():
    weight, hessian, loss = quadratic()
    called = Called(lambda _: loss(), weight)
    gradient = (hessian @ weight).detach()
    start = weight.detach().clone()
    found = critical_sharpness(called, [weight], [gradient], guess=0.5, check_repeatable=False)
    assert len(called.values) == found.evaluations == 5
    rates = [float((start - place).norm() / gradient.norm()) for place in called.places]
    below = [value for rate, value in zip(rates, called.values, strict=True) if rate == pytest.approx(found.lower)]
    above = [value for rate, value in zip(rates, called.values, strict=True) if rate == pytest.approx(found.upper)]
    assert below[-1] <= found.loss < above[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_network_the_loss_crosses_there(dtype):
    model, x, y = network()
    model, x = model.to(dtype), x.to(dtype)
    params = list(model.parameters())
    gradient = torch.autograd.grad(cross_entropy(model(x), y), params)
    found = unchanged(
        params, lambda: critical_sharpness(lambda: cross_entropy(model(x), y), dict(model.named_parameters()), gradient)
    )
    assert found.evaluations <= 10

    def loss_after(rate):
        moved = {n: p.detach() - rate * g for (n, p), g in zip(model.named_parameters(), gradient, strict=True)}
        return float(cross_entropy(torch.func.functional_call(model, moved, (x,)), y))

    assert loss_after(found.lower) <= found.loss < loss_after(found.upper)
    assert loss_after(found.learning_rate) == pytest.approx(found.loss, abs=0.02 * found.loss)


def test_attention_without_double_backward_is_no_obstacle():
    torch.manual_seed(0)
    projection = nn.Linear(8, 24)
    x = torch.randn(2, 5, 8)

    def loss():
        q, k, v = projection(x).unflatten(-1, (1, 24)).transpose(1, 2).chunk(3, dim=-1)
        return scaled_dot_product_attention(q, k, v, is_causal=True).square().mean()

    params = list(projection.parameters())
    gradient = torch.autograd.grad(loss(), params)
    assert 0 < critical_sharpness(loss, params, gradient, guess=10).sharpness < math.inf


@pytest.mark.parametrize(
    ("loss", "direction", "rate", "told"),
    [
        (lambda w: w.square().sum(), [-1.0], math.nan, "lowers the loss"),
        (lambda w: w.square().sum(), [0.0], math.nan, "direction is zero"),
        (lambda w: w.sum(), [1.0], math.inf, "does not exceed"),
        (lambda w: 1e18 + w.square().sum(), [1.0], math.nan, "more than its rounding"),
    ],
)
def test_where_there_is_none_the_reason_is_said(loss, direction, rate, told):
    weight = vector(1.0)
    found = critical_sharpness(lambda: loss(weight), [weight], [torch.tensor(direction).double()], largest=1e4)
    assert told in found.reason
    assert math.isnan(found.learning_rate) if math.isnan(rate) else found.learning_rate == rate
    assert math.isnan(found.sharpness) if math.isnan(rate) else found.sharpness == 0.0


def test_a_loss_that_diverges_is_exceeded():
    weight = vector(1.0)
    found = critical_sharpness(
        lambda: (weight + 2).log().sum(), [weight], [torch.ones(1).double()], guess=1e3, tolerance=0.001, largest=1e6
    )
    assert found.learning_rate == pytest.approx(3.0, rel=0.001)  # log(-0) and beyond is NaN


def test_parts_and_names_are_taken():
    weight = vector(1.0, 2.0)
    parts = critical_sharpness(lambda: (w * w for w in weight), {"w": weight}, [2 * weight.detach()])
    assert parts.sharpness == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"direction": [torch.ones(3)]}, r"direction must hold one tensor in the shape of each of params, \[\(2,\)\]"),
        ({"direction": [1.0]}, "direction must be a Tensor, got 1.0"),
        ({"guess": 0.0}, "guess must be a positive number, got 0.0"),
        ({"tolerance": 1.0}, "tolerance must be a number, above 0 and below 1, got 1.0"),
        ({"largest": math.nan}, "largest must be a positive number, got nan"),
        ({"max_evaluations": 4}, "max_evaluations must be a whole number, at least 5, got 4"),
        ({"loss_fn": lambda: torch.rand(())}, "the loss is random"),
    ],
)
def test_what_cannot_be_is_refused(changed, message):
    weight = vector(1.0, 2.0)
    given = {"loss_fn": lambda: weight.square().sum(), "params": [weight], "direction": [torch.ones(2)]}
    with pytest.raises(ValueError, match=message):
        critical_sharpness(**(given | changed))


@pytest.mark.parametrize(("loss", "direction"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_what_is_not_finite_has_no_curvature(loss, direction):
    weight = vector(1.0)
    with pytest.raises(UndefinedCurvatureError, match="must be finite"):
        critical_sharpness(lambda: weight.sum() * loss, [weight], [torch.full((1,), direction)])
