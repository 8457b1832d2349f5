import math

import pytest
import torch
from functional.known_losses import vector

from lightning_gap.functional import UndefinedCurvatureError, edge_of_stability, hessian_eigenvalues, optimizer_edge

FROZEN = {"eps": 1.0}  # beside gradients of 1e-12: P is 1 whatever the state


@pytest.mark.parametrize(
    ("kind", "momentum", "edge"),
    [("polyak", 0.0, 2.0), ("polyak", 0.9, 3.8), ("nesterov", 0.9, 1.357143), ("averaged", 0.9, 38.0)],
)
def test_the_edges_are_those_of_the_papers(kind, momentum, edge):
    assert edge_of_stability(0.1, momentum, kind) == pytest.approx(10 * edge, rel=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda w: torch.optim.SGD(w, lr=0.1),
        lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9),
        lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9, nesterov=True),
        lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.5, dampening=0.5),
        lambda w: torch.optim.Adam(w, lr=0.1, betas=(0.9, 0.999), **FROZEN),
        lambda w: torch.optim.AdamW(w, lr=0.1, betas=(0.5, 0.9), weight_decay=0.0, **FROZEN),
        lambda w: torch.optim.RMSprop(w, lr=0.1, momentum=0.9, **FROZEN),
    ],
)
def test_on_a_parabola_torchs_optimizers_shrink_below_the_edge_and_grow_above(make):
    """Adam at its usual momentum: 38.00 over the learning rate, to 0.2 %."""

    def growth(share):
        weight = vector(1e-13)
        optimizer = make([weight])
        sizes, curvature = [], 1.0
        for step in range(280):
            optimizer.zero_grad()
            (curvature / 2 * weight.square().sum()).backward()
            optimizer.step()
            if step == 100:  # when the corrections of the bias are over
                curvature = optimizer_edge(optimizer, [weight]).threshold * share
                weight.data.fill_(1e-13)
            sizes.append(float(weight.detach().abs()))
        return max(sizes[-20:]) / max(sizes[200:220])

    assert growth(0.998) < 0.98
    assert growth(1.002) > 1.02


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: torch.optim.Adam(groups, lr=0.1, betas=(0.8, 0.95)),
        lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.0, eps=0.1),
        lambda groups: torch.optim.Adam(groups, lr=0.1, amsgrad=True, betas=(0.9, 0.5)),
        lambda groups: torch.optim.Adam(groups, lr=torch.tensor(0.1)),
        lambda groups: torch.optim.RMSprop(groups, lr=0.1),
        lambda groups: torch.optim.RMSprop(groups, lr=0.1, centered=True, alpha=0.5),
        lambda groups: torch.optim.SGD(groups, lr=0.1),
    ],
)
def test_p_is_what_the_step_before_was_divided_by(make):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_() for n in (3, 2)]
    optimizer = make([{"params": weights[:1]}, {"params": weights[1:]}])
    for _ in range(4):
        before = [w.detach().clone() for w in weights]
        gradients = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
        edge = optimizer_edge(optimizer, weights)
        for weight, old, gradient, p in zip(weights, before, gradients, edge.preconditioner, strict=True):
            moving = optimizer.state.get(weight, {}).get("exp_avg", gradient)
            torch.testing.assert_close(old - weight.detach(), 0.1 * moving / p, rtol=1e-6, atol=1e-12)
            assert not p.requires_grad


def test_groups_with_other_rates_are_taken_into_p():
    first, second, still = vector(1.0), vector(2.0), vector(3.0)
    groups = [{"params": [first]}, {"params": [second], "lr": 0.05}, {"params": [still], "lr": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.2)
    edge = optimizer_edge(optimizer, {"a": first, "b": second, "c": still})
    assert [float(p) for p in edge.preconditioner] == [1.0, 4.0, math.inf]
    assert edge.threshold == pytest.approx(10.0)
    scaled = optimizer_edge(optimizer, [first, second], learning_rates=[0.1, 0.4, 0.0])
    assert [float(p) for p in scaled.preconditioner] == [4.0, 1.0]
    assert scaled.threshold == pytest.approx(5.0)


def test_what_an_update_had_stands_in_for_what_the_optimizer_holds():
    weights = vector(1.0, 2.0), vector(1.0, 2.0)
    held = torch.optim.Adam([weights[0]], lr=0.1, betas=(0.9, 0.99))
    used = torch.optim.Adam([weights[1]], lr=0.1, betas=(0.6, 0.9))
    for optimizer, weight in zip((held, used), weights, strict=True):
        weight.square().sum().backward()
        optimizer.step()
    held.state[weights[0]]["exp_avg_sq"] = used.state[weights[1]]["exp_avg_sq"]
    expected = optimizer_edge(used, [weights[1]])
    found = optimizer_edge(held, [weights[0]], hyperparameters=[{"betas": (0.6, 0.9)}])
    assert found.threshold == expected.threshold
    assert torch.equal(found.preconditioner[0], expected.preconditioner[0])
    with pytest.raises(ValueError, match="hyperparameters must hold one for each of 1 parameter groups"):
        optimizer_edge(held, [weights[0]], hyperparameters=[{}, {}])


def test_a_weight_without_a_step_is_not_moved():
    used, unused = vector(1.0), vector(2.0)
    optimizer = torch.optim.Adam([used, unused])
    with pytest.raises(UndefinedCurvatureError, match="Adam has taken no step yet"):
        optimizer_edge(optimizer, [used, unused])
    used.sum().backward()
    optimizer.step()
    assert float(optimizer_edge(optimizer, [used, unused]).preconditioner[1]) == math.inf


def test_the_eigenvalues_are_those_of_the_preconditioned_hessian():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    hessian = root + root.T
    p = torch.rand(8, generator=generator, dtype=torch.float64) + 0.1
    p[3] = math.inf
    weight = torch.randn(8, generator=generator, dtype=torch.float64).requires_grad_()
    found = hessian_eigenvalues(
        lambda: weight @ hessian @ weight / 2, [weight], preconditioner=[p], tolerance=1e-9, max_products=8
    )
    expected = torch.linalg.eigvalsh(hessian / p.sqrt()[:, None] / p.sqrt())
    assert found.largest == pytest.approx(float(expected[-1]), rel=1e-9)
    assert found.smallest == pytest.approx(float(expected[0]), rel=1e-9)


class Own(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})


def sharded(weight):
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    optimizer.state[weight]["exp_avg_sq"] = torch.ones(1)
    return optimizer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: Own([w]), "optimizer must be SGD, Adam, AdamW or RMSprop, whose edge is known, got Own"),
        (lambda w: torch.optim.NAdam([w]), "got NAdam"),
        (lambda w: torch.optim.SGD([vector(1.0)], lr=0.1), r"params holds params\[0\], which SGD does not"),
        (lambda w: torch.optim.SGD([w], lr=0.1, maximize=True), "maximize=True"),
        (lambda w: torch.optim.SGD([w], lr=0.0), "learning_rates must not all be 0"),
        (sharded, r"no whole exp_avg_sq for params\[0\]"),
    ],
)
def test_an_optimizer_without_such_a_state_is_refused(make, message):
    weight = vector(1.0, 2.0)
    with pytest.raises(ValueError, match=message):
        optimizer_edge(make(weight), [weight])


def test_groups_that_differ_in_momentum_have_no_one_edge():
    first, second = vector(1.0), vector(2.0)
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second], "momentum": 0.5}], lr=0.1)
    with pytest.raises(ValueError, match="differ in momentum"):
        optimizer_edge(optimizer, [first, second])


@pytest.mark.parametrize(
    ("preconditioner", "message"),
    [
        ([torch.ones(3)], r"preconditioner must hold one tensor in the shape of each of params, \[\(2,\)\]"),
        ([torch.tensor([1.0, 0.0])], r"preconditioner must be positive, got 0\.0"),
        ([torch.tensor([1.0, math.nan])], "preconditioner must be positive, got nan"),
    ],
)
def test_a_preconditioner_that_is_none_is_refused(preconditioner, message):
    weight = vector(1.0, 2.0)
    with pytest.raises(ValueError, match=message):
        hessian_eigenvalues(lambda: weight.square().sum(), [weight], preconditioner=preconditioner)
