import pytest
import torch
from functional.perturbation.two_passes import batches, network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import conservative_step, proximal_gradient


def quadratic(seed, n=5):
    """A with eigenvalues between 1 and 4, the minimum, and where to begin."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    a = q @ torch.diag(torch.linspace(1, 4, n, dtype=torch.float64)) @ q.T
    return a, *torch.randn(2, n, generator=generator, dtype=torch.float64)


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 10**6), st.floats(1e-3, 100.0))
def test_many_inner_steps_solve_the_proximal_problem(seed, strength):
    a, minimum, start = quadratic(seed)
    w = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=2 / (5 + 2 * strength))  # the best for eigenvalues of 1 to 4
    first = conservative_step(
        lambda: (w - minimum) @ a @ (w - minimum) / 2, [w], optimizer, strength=strength, inner_steps=70
    )
    solved = torch.linalg.solve(a + strength * torch.eye(5, dtype=torch.float64), a @ minimum + strength * start)
    torch.testing.assert_close(w.detach(), solved, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(first, (start - minimum) @ a @ (start - minimum) / 2)


def test_a_great_strength_comes_down_to_one_gradient_step_of_its_inverse():
    a, minimum, start = quadratic(0)
    for strength in (1e4, 1e6):
        w = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([w], lr=1 / strength)
        conservative_step(
            lambda w=w: (w - minimum) @ a @ (w - minimum) / 2, [w], optimizer, strength=strength, inner_steps=4
        )
        step = a @ (start - minimum) / strength
        torch.testing.assert_close(w.detach(), start - step, rtol=0, atol=float(5 * step.norm() / strength))


def by_autograd(model, optimizer, x, y, strength, inner_steps, loss_of):
    anchor = [weight.detach().clone() for weight in model.parameters()]
    for _ in range(inner_steps):
        pull = sum((w - a).square().sum() for w, a in zip(model.parameters(), anchor, strict=True))
        optimizer.zero_grad()
        (loss_of(model, x, y) + strength / 2 * pull).backward()
        optimizer.step()


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.02)


@pytest.mark.parametrize("strength", [1e-3, 3.0])
def test_adam_on_each_batch_equals_autograd_of_the_whole_objective(strength):
    models = network(), network()
    optimizers = [adam(model) for model in models]
    for x, y in batches(4):
        conservative_step(
            lambda x=x, y=y: cross_entropy(models[0](x), y), models[0].parameters(), optimizers[0], strength=strength
        )
        by_autograd(models[1], optimizers[1], x, y, strength, 3, lambda m, x, y: cross_entropy(m(x), y))
    for ours, wanted in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)


def test_without_strength_these_are_plain_steps_bit_for_bit():
    models = network(), network()
    optimizers = [adam(model) for model in models]
    ((x, y),) = batches(1)
    conservative_step(
        lambda: cross_entropy(models[0](x), y), models[0].parameters(), optimizers[0], strength=0, inner_steps=2
    )
    for _ in range(2):
        optimizers[1].zero_grad()
        cross_entropy(models[1](x), y).backward()
        optimizers[1].step()
    for ours, wanted in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(ours, wanted)


def test_buffers_are_those_of_the_first_pass():
    model, plain = network(norm=True), network(norm=True)
    ((x, y),) = batches(1)
    conservative_step(
        lambda: cross_entropy(model(x), y), model.parameters(), adam(model), inner_steps=4, buffers=model.buffers()
    )
    plain(x)
    for buffer, once in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(buffer, once)


def test_frozen_and_unused_weights_stay_where_they_are():
    frozen, unused, used = nn.Parameter(torch.ones(2), requires_grad=False), *map(nn.Parameter, torch.ones(2, 2))
    optimizer = torch.optim.SGD([unused, used], lr=0.1, momentum=0.9)
    unused.grad = torch.ones(2)  # of another step
    conservative_step(lambda: (frozen * used).sum(), [frozen, unused, used], optimizer)
    assert frozen.tolist() == unused.tolist() == [1, 1]
    assert bool((used < 1).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_term_is_added_to_the_gradients_in_place(dtype):
    weights = [torch.tensor([3.0, -1.0], dtype=dtype), torch.ones(2, dtype=dtype)]
    gradient, anchor = torch.tensor([0.5, 0.5], dtype=dtype), [torch.ones(2, dtype=dtype)] * 2
    proximal_gradient(weights, anchor, [gradient, None], 0.25)
    assert gradient.tolist() == [1.0, 0.0]
    assert weights[0].tolist() == [3, -1]
    assert anchor[0].tolist() == [1, 1]


def test_an_anchor_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"anchor\[0\] must have the shape of weights\[0\], \(2,\), got \(3,\)"):
        proximal_gradient([torch.ones(2)], [torch.ones(3)], [torch.ones(2)], 0.1)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda w, other: torch.optim.LBFGS([w]), "optimizer must step without a closure.*'LBFGS'"),
        (lambda w, other: torch.optim.SGD([other], lr=1), "optimizer must step all trainable weights"),
        (lambda w, other: torch.optim.SGD([w, other], lr=1), "optimizer must step all trainable weights"),
    ],
)
def test_an_optimizer_that_cannot_take_the_inner_steps_is_refused_before_the_first(made, told):
    w, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=told):
        conservative_step(lambda: w.sum(), [w], made(w, other))
    assert w.tolist() == [1, 1]
