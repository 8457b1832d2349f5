import math

import pytest
import torch
from functional.perturbation.two_passes import batches, network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.functional import hvp
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from lightning_gap.functional import exact_gradient_penalty, finite_difference_penalty


def quadratic(seed, n=6):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    w = torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_()
    a = root + root.T
    return a, w, lambda: w @ a @ w / 2


def by_difference(loss, weights, **given):
    def gradients_at():
        return torch.autograd.grad(loss(), weights, allow_unused=True)

    return finite_difference_penalty(gradients_at, weights, gradients_at(), **given)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.0, 3.0), st.floats(1e-3, 10.0))
def test_on_a_quadratic_both_are_exact_at_any_length(seed, strength, length):
    a, w, loss = quadratic(seed)
    g = a @ w.detach()
    wanted = g + strength * a @ g
    (found,) = by_difference(loss, [w], strength=strength, length=length)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    value, (found,) = exact_gradient_penalty(loss, [w], strength=strength)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(value, loss().detach())


def small_network():
    model, ((x, y),) = network(), batches(1)
    return list(model.parameters()), lambda: cross_entropy(model(x), y), model, x, y


def test_the_exact_one_adds_autograds_hessian_product():
    weights, loss, model, x, y = small_network()
    names, values = zip(*model.named_parameters(), strict=True)

    def of(*values):
        return cross_entropy(functional_call(model, dict(zip(names, values, strict=True)), (x,)), y)

    gradients = torch.autograd.grad(loss(), weights)
    _, products = hvp(of, tuple(v.detach() for v in values), gradients)
    _, found = exact_gradient_penalty(loss, weights, strength=0.7)
    for f, g, p in zip(found, gradients, products, strict=True):
        torch.testing.assert_close(f, g + 0.7 * p, rtol=1e-12, atol=1e-14)
    assert all(weight.grad is None for weight in weights)


def test_the_exact_one_is_the_gradient_of_the_penalised_loss():
    weights, loss, *_ = small_network()

    def objective():
        gradients = torch.autograd.grad(loss(), weights)
        return float(loss().detach() + 0.7 / 2 * sum(g.square().sum() for g in gradients))

    _, found = exact_gradient_penalty(loss, weights, strength=0.7)
    for weight, slope in zip(weights, found, strict=True):
        ends = []
        for h in (1e-5, -1e-5):
            with torch.no_grad():
                weight.flatten()[0] += h
            ends.append(objective())
            with torch.no_grad():
                weight.flatten()[0] -= h
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope.flatten()[0].item(), rel=1e-6, abs=1e-9)


def test_the_error_of_the_difference_falls_with_its_length():
    weights, loss, *_ = small_network()
    _, exact = exact_gradient_penalty(loss, weights, strength=0.7)

    def error(length):
        found = by_difference(loss, weights, strength=0.7, length=length)
        return math.hypot(*(float((f - e).norm()) for f, e in zip(found, exact, strict=True)))

    assert error(0.01) / error(0.001) == pytest.approx(10, rel=0.1)  # of first order


def test_gradient_descent_follows_the_loss_with_half_its_learning_rate_as_strength():
    """Barrett and Dherin (2021): one step on 0.5 a x^2 errs by O(rate^3) from the flow of the modified loss."""
    a = 1.3

    def errors(rate):
        w = torch.ones(1, dtype=torch.float64, requires_grad=True)
        _, (slope,) = exact_gradient_penalty(lambda: a * w.square().sum() / 2, [w], strength=rate / 2)
        step = 1 - rate * a
        return [abs(step - math.exp(-rate * speed)) for speed in (float(slope), a)]

    modified, plain = zip(*map(errors, (0.1, 0.05, 0.025)), strict=True)
    assert [error / rate**3 for error, rate in zip(modified, (0.1, 0.05, 0.025), strict=True)] == pytest.approx(
        [0.71, 0.72, 0.73], abs=0.02
    )
    assert plain[1] / plain[2] == pytest.approx(4, rel=0.05)  # O(rate^2)


def test_weights_come_back_and_gradients_are_read_only():
    weights, loss, *_ = small_network()
    before = [(weight.data_ptr(), weight.detach().clone()) for weight in weights]
    gradients = torch.autograd.grad(loss(), weights)
    kept = [gradient.clone() for gradient in gradients]

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        finite_difference_penalty(fail, weights, gradients, strength=1.0)
    finite_difference_penalty(lambda: torch.autograd.grad(loss(), weights), weights, gradients, strength=1.0)
    for weight, (pointer, value) in zip(weights, before, strict=True):
        assert weight.data_ptr() == pointer
        assert torch.equal(weight, value)
    assert all(torch.equal(a, b) for a, b in zip(gradients, kept, strict=True))


def test_at_a_minimum_there_is_nothing_to_add():
    w = torch.zeros(3, requires_grad=True)
    assert by_difference(lambda: w.square().sum(), [w], strength=1.0)[0].tolist() == [0, 0, 0]
    assert exact_gradient_penalty(lambda: w.square().sum(), [w], strength=1.0)[1][0].tolist() == [0, 0, 0]


def test_a_gradient_that_is_not_finite_stays_that():
    w = torch.ones(1, requires_grad=True)
    (found,) = by_difference(lambda: (w * math.inf).sum(), [w], strength=1.0)
    assert not bool(found.isfinite())
    assert w.tolist() == [1]


def test_frozen_and_unused_weights_have_none():
    frozen, unused, used = nn.Parameter(torch.ones(2), requires_grad=False), *map(nn.Parameter, torch.ones(2, 2))
    _, found = exact_gradient_penalty(lambda: (frozen * used.square()).sum(), [frozen, unused, used], strength=1.0)
    assert found[:2] == [None, None]
    assert found[2].tolist() == [6, 6]  # 2 w + 2 * 2 w
    differences = by_difference(lambda: (frozen * used.square()).sum(), [unused, used], strength=1.0)
    assert differences[0] is None
    torch.testing.assert_close(differences[1], found[2], rtol=1e-4, atol=0)


def test_a_loss_that_is_linear_in_a_weight_is_its_own_gradient():
    w = torch.ones(2, requires_grad=True)
    assert exact_gradient_penalty(lambda: 3 * w.sum(), [w], strength=5.0)[1][0].tolist() == [3, 3]


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 3 * ctx.saved_tensors[0] ** 2 * slope


def fused_attention(w):
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(w, w, w)


@pytest.mark.parametrize("operation", [Once.apply, fused_attention])
def test_without_a_double_backward_the_way_out_is_named(operation):
    w = torch.full((1, 1, 2, 4), 0.5, requires_grad=True)
    with pytest.raises(RuntimeError, match="finite_difference_penalty"):
        exact_gradient_penalty(lambda: operation(w).square().sum(), [w], strength=1.0)
    assert bool(by_difference(lambda: operation(w).square().sum(), [w], strength=1.0)[0].isfinite().all())
