import math
import weakref
from functools import partial

import pytest
import torch
from functional.interrupts import interrupt_at_many_instants
from functional.perturbation.two_passes import batches, network, ones, perturbed_gradient, sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, linear, mse_loss
from torch.nn.utils import vector_to_parameters

from lightning_gap.functional import ascent_direction, perturbed, sharpness_aware_gradient

BY_NAME = [name.endswith("weight") for name, _ in network().named_parameters()]
KINDS = {
    "sam": ({}, ones),
    "asam": ({"adaptive": True}, sizes(0.0)),
    "asam with eta": ({"adaptive": True, "eta": 0.01}, sizes(0.01)),
    "asam without biases": ({"adaptive": BY_NAME, "eta": 0.01}, sizes(0.01, biases=False)),
    "box": ({"norm": "max"}, ones),
    "adaptive box": ({"norm": "max", "adaptive": True}, sizes(0.0)),
}


def trained(model, gradients, steps=6):
    """Weights after some steps with momentum along what ``gradients(model, x, y)`` gives."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for x, y in batches(steps):
        for weight, gradient in zip(model.parameters(), gradients(model, x, y), strict=True):
            weight.grad = gradient
        optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def ours(model, x, y, **given):
    return sharpness_aware_gradient(lambda: cross_entropy(model(x), y), model.parameters(), **given)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_training_equals_two_passes_by_hand_step_for_step(kind):
    given, scale = KINDS[kind]

    def by_hand(model, x, y):
        row = perturbed_gradient(model, x, y, 0.3, scale, given.get("norm", "l2"))
        shaped = [torch.empty_like(weight) for weight in model.parameters()]
        vector_to_parameters(row, shaped)
        return shaped

    found = trained(network(), partial(ours, rho=0.3, **given))
    torch.testing.assert_close(found, trained(network(), by_hand), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("adaptive", [False, True])
def test_training_equals_that_of_pytorch_optimizer(adaptive):
    sam = pytest.importorskip("pytorch_optimizer").SAM
    model = network()
    optimizer = sam(
        model.parameters(), torch.optim.SGD, rho=0.3, adaptive=adaptive, perturb_eps=0.0, lr=0.1, momentum=0.9,
        weight_decay=1e-3,
    )  # fmt: skip
    for x, y in batches(6):

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            return loss

        closure()
        optimizer.step(closure)
    wanted = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    found = trained(network(), partial(ours, rho=0.3, adaptive=adaptive))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)  # theirs keeps the norm in float32


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(1e-3, 10.0))
def test_on_a_quadratic_the_gradient_has_a_closed_form_in_the_ball_and_in_the_box(seed, rho):
    torch.manual_seed(seed)
    root = torch.randn(7, 7, dtype=torch.float64)
    a, w = root @ root.T, torch.randn(7, dtype=torch.float64, requires_grad=True)
    g = (a @ w).detach()
    for norm, e in (("l2", rho * g / g.norm()), ("max", rho * g.sign())):
        loss, (found,) = sharpness_aware_gradient(lambda: w @ a @ w / 2, [w], rho=rho, norm=norm)
        torch.testing.assert_close(found, a @ (w.detach() + e), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(loss, (w @ a @ w / 2).detach(), rtol=0, atol=0)


def test_plain_descent_ends_in_the_orbit_of_period_two():
    w = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.3)
    for _ in range(100):
        _, (w.grad,) = sharpness_aware_gradient(lambda: w.square().sum(), [w], rho=0.05)
        optimizer.step()
    assert abs(w.item()) == pytest.approx(0.3 * 2 * 0.05 / (2 - 0.3 * 2), rel=1e-12)  # eta a rho / (2 - eta a)


def random_weights(*shapes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("eta", [0.0, 0.01])
def test_rho_is_the_norm_of_what_is_added(eta):
    weights, gradients = random_weights((4, 5), (5,), ()), random_weights((4, 5), (5,), (), seed=1)

    def over_t(adaptive, norm):
        found = ascent_direction(weights, gradients, rho=0.2, adaptive=adaptive, norm=norm, eta=eta)
        return torch.cat(
            [(e / (w.abs() + eta) if adaptive else e).flatten() for e, w in zip(found, weights, strict=True)]
        )

    for adaptive in (False, True):
        assert float(over_t(adaptive, "l2").norm()) == pytest.approx(0.2, rel=1e-12)
        torch.testing.assert_close(over_t(adaptive, "max").abs(), torch.full((26,), 0.2, dtype=torch.float64))


def test_adaptive_perturbation_does_not_see_a_rescaling_of_relu_layers():
    first, second, x, y = random_weights((6, 4), (2, 6), (9, 4), (9, 2))

    def loss_around(c, **given):
        pair = [(c * first).requires_grad_(), (second / c).requires_grad_()]

        def loss():
            return mse_loss(torch.relu(x @ pair[0].T) @ pair[1].T, y)

        gradients = torch.autograd.grad(loss(), pair)
        with perturbed(pair, ascent_direction(pair, gradients, rho=0.3, **given)):
            return loss().item()

    unmoved, *others = (loss_around(c, adaptive=True) for c in (1.0, 0.1, 10.0))
    assert others == pytest.approx([unmoved] * 2, rel=1e-12)
    assert loss_around(0.1, adaptive=True, eta=0.01) != pytest.approx(unmoved, rel=1e-4)
    assert loss_around(0.1) > 1.2 * loss_around(1.0)


@pytest.mark.parametrize("norm", ["l2", "max"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_factor_on_the_loss_changes_nothing(norm, adaptive):
    weights, gradients = random_weights((4, 5), (5,)), random_weights((4, 5), (5,), seed=1)
    scaled = [65536 * gradient for gradient in gradients]  # a power of two, as a gradient scaler's
    given = {"rho": 0.1, "norm": norm, "adaptive": adaptive}
    for e, f in zip(
        ascent_direction(weights, gradients, **given), ascent_direction(weights, scaled, **given), strict=True
    ):
        torch.testing.assert_close(e, f, rtol=1e-14, atol=0)


@pytest.mark.parametrize("norm", ["l2", "max"])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf, -math.inf])
def test_no_gradient_and_one_that_is_not_finite_perturb_nothing(norm, adaptive, bad):
    weights = random_weights((4, 5), (5,))
    gradients = [torch.zeros(4, 5).double(), torch.full((5,), bad).double()]
    if bad:
        gradients[0] += 1
    for e, w in zip(ascent_direction(weights, gradients, rho=0.1, norm=norm, adaptive=adaptive), weights, strict=True):
        assert torch.equal(e, torch.zeros_like(w))


def test_a_weight_without_gradient_stays_and_leaves_the_others_theirs():
    weights, (gradient,) = random_weights((3,), (2,)), random_weights((3,), seed=1)
    found = ascent_direction(weights, [gradient, None], rho=0.1)
    torch.testing.assert_close(found[0], 0.1 * gradient / gradient.norm())
    assert torch.equal(found[1], torch.zeros_like(weights[1]))
    assert not ascent_direction(weights, [None, None], rho=0.1)[0].any()


def test_a_tied_weight_counts_and_moves_once():
    (weight,), (gradient,) = random_weights((3,)), random_weights((3,), seed=1)
    once = ascent_direction([weight], [gradient], rho=0.1)
    twice = ascent_direction([weight, weight], [gradient, gradient], rho=0.1)
    assert torch.equal(twice[0], once[0])
    before = weight.clone()
    with perturbed([weight, weight], twice):
        torch.testing.assert_close(weight, before + once[0])
    assert torch.equal(weight, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_direction_has_the_type_of_the_weight_and_the_precision_of_it(dtype, adaptive):
    weights, gradients = random_weights((40, 50), (50,)), random_weights((40, 50), (50,), seed=1)
    exact = ascent_direction(weights, gradients, rho=0.1, adaptive=adaptive)
    found = ascent_direction(
        [w.to(dtype) for w in weights], [g.to(dtype) for g in gradients], rho=0.1, adaptive=adaptive
    )
    for e, wanted in zip(found, exact, strict=True):
        assert e.dtype is dtype
        assert float((e.double() - wanted).norm() / wanted.norm()) < 4 * torch.finfo(dtype).eps


def test_arguments_are_read_only():
    weights, gradients = random_weights((4,)), random_weights((4,), seed=1)
    kept = [tensor.clone() for tensor in (*weights, *gradients)]
    for adaptive in (False, True):
        for norm in ("l2", "max"):
            ascent_direction(weights, gradients, rho=0.1, adaptive=adaptive, norm=norm)
    assert all(torch.equal(a, b) for a, b in zip((*weights, *gradients), kept, strict=True))


def test_a_mark_for_each_weight_is_wanted():
    with pytest.raises(ValueError, match=r"adaptive .* each of the 2 weights, got \[True\]"):
        ascent_direction([torch.ones(1)] * 2, [torch.ones(1)] * 2, rho=0.1, adaptive=[True])


@pytest.mark.parametrize("direction", [0.1, 1e30, math.inf, math.nan])
def test_the_very_bits_come_back_in_the_same_storage_also_after_an_exception(direction):
    weights = [torch.tensor([-0.0, 1e-30, 0.1, 3e8]).requires_grad_(), torch.ones(2, 3, dtype=torch.bfloat16).T]
    before = [(weight.data_ptr(), weight.detach().clone(), weight._version) for weight in weights]

    def fail():
        with perturbed(weights, [torch.full_like(weight, direction) for weight in weights]):
            assert not torch.equal(weights[0], before[0][1])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for weight, (pointer, value, version) in zip(weights, before, strict=True):
        assert weight.data_ptr() == pointer
        assert torch.equal(weight.detach().contiguous().view(torch.uint8), value.contiguous().view(torch.uint8))
        assert weight._version > version  # a graph of before, whose values are gone for a while, cannot be misused


def test_weights_that_share_memory_come_back():
    whole = torch.arange(4.0)
    parts = [whole[:3], whole[1:]]
    with perturbed(parts, [torch.ones(3), torch.ones(3)]):
        assert whole.tolist() == [1, 3, 4, 4]
    assert whole.tolist() == [0, 1, 2, 3]


def test_a_loss_under_autocast_sees_the_moved_weights_and_then_the_old_ones():
    weight, x = torch.ones(2, 2, requires_grad=True), torch.ones(1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = [linear(x, weight).sum().item()]
        with perturbed([weight], [torch.ones(2, 2)]):
            values.append(linear(x, weight).sum().item())
        values.append(linear(x, weight).sum().item())
    assert values == [4, 8, 4]


def test_directions_that_the_caller_gives_away_are_freed_inside_the_block():
    alive = []

    def drawn():
        direction = torch.ones(3)
        alive.append(weakref.ref(direction))
        return [direction]

    with perturbed([torch.zeros(3)], drawn()):
        assert alive[0]() is None


# An interrupt that falls into a `__del__` or a callback of the garbage collector is ignored by Python, with a warning.
lost_interrupts = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def stay(weights, before):
    """Whether the weights are where they were; they are put there."""
    same = all(torch.equal(weight, value) for weight, value in zip(weights, before, strict=True))
    for weight, value in zip(weights, before, strict=True):
        weight.detach().copy_(value)
    return same


@pytest.mark.promise("interrupt")
@lost_interrupts
def test_no_instant_of_an_interrupt_leaves_a_weight_moved(monkeypatch):
    weights = [torch.ones(3) for _ in range(40)]
    before, directions = [weight.clone() for weight in weights], [torch.ones(3)] * 40

    def work():
        with perturbed(weights, directions):
            pass

    cut, failed = interrupt_at_many_instants(monkeypatch, work, lambda: stay(weights, before), instants=200)
    assert failed == 0
    assert cut > 5


@pytest.mark.promise("interrupt")
@lost_interrupts
def test_no_instant_of_an_interrupt_leaves_weights_or_gradients_off(monkeypatch):
    model = nn.Sequential(*(part for _ in range(8) for part in (nn.Linear(4, 4), nn.BatchNorm1d(4))))
    x, y = torch.randn(6, 4), torch.arange(6) % 4
    weights = [weight.detach().clone() for weight in model.parameters()]
    pointers = [weight.data_ptr() for weight in model.parameters()]

    def work():
        ours(model, x, y, rho=5.0, buffers=model.buffers())

    def check():
        same = pointers == [weight.data_ptr() for weight in model.parameters()]
        return stay(list(model.parameters()), weights) and same and torch.is_grad_enabled()

    cut, failed = interrupt_at_many_instants(monkeypatch, work, check, instants=30)
    assert failed == 0
    assert cut > 5


def test_without_a_radius_it_is_the_plain_gradient_bit_for_bit():
    model, ((x, y),) = network(), batches(1)
    plain = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    for found, wanted in zip(ours(model, x, y, rho=0.0), plain, strict=True):
        assert torch.equal(found, wanted)


def test_both_passes_have_one_dropout_mask_and_the_generator_moves_once():
    model = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, 3)).double()
    ((x, y),) = batches(1)
    masks = []
    model[1].register_forward_hook(lambda *args: masks.append(args[2] == 0))
    torch.manual_seed(3)
    ours(model, x, y, rho=0.1)
    after = torch.get_rng_state()
    assert torch.equal(*masks)
    torch.manual_seed(3)
    model(x)
    assert torch.equal(torch.get_rng_state(), after)
    ours(model, x, y, rho=0.1)
    assert not torch.equal(masks[0], masks[-1])


def test_buffers_are_those_of_the_first_pass_and_batch_statistics_are_used_in_both():
    model, plain = network(norm=True), network(norm=True)
    ((x, y),) = batches(1)
    found = ours(model, x, y, rho=0.5, buffers=model.buffers())
    wanted = perturbed_gradient(network(norm=True), x, y, 0.5, ones, "l2")
    torch.testing.assert_close(torch.cat([g.flatten() for g in found]), wanted, rtol=1e-11, atol=1e-12)
    plain(x)
    for buffer, once in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(buffer, once)


def test_frozen_and_unused_weights_stay_and_gradients_are_not_written():
    model, ((x, y),) = network(), batches(1)
    frozen, unused = nn.Parameter(torch.ones(2), requires_grad=False), nn.Parameter(torch.ones(2))
    model[0].weight.grad = kept = torch.ones_like(model[0].weight)
    weights = [frozen, *model.parameters(), unused]
    _, gradients = sharpness_aware_gradient(lambda: cross_entropy(model(x), y), weights, rho=0.1)
    for gradient, wanted in zip(gradients, [None, *ours(model, x, y, rho=0.1), None], strict=True):
        assert (gradient is None) if wanted is None else torch.equal(gradient, wanted)
    assert model[0].weight.grad is kept
    assert bool((kept == 1).all())


def detached(w):
    return w.detach().sum()


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda w: w, r"loss_fn must return a scalar tensor, got shape \(2,\)"),
        (lambda w: 1.0, "loss_fn must return a scalar tensor, got float"),
        (detached, "loss_fn returned a loss without a graph"),
        (lambda w: torch.ones((), requires_grad=True).exp(), "weights play no part in the loss"),
        (lambda w: torch.utils.checkpoint.checkpoint(torch.sum, w, use_reentrant=True), "use_reentrant=False"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused_and_weights_stay(loss, told):
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=told):
        sharpness_aware_gradient(lambda: loss(w), [w], rho=0.1)
    assert w.tolist() == [1, 1]


def test_weights_that_are_all_frozen_are_refused():
    w, other = torch.ones(2), torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="weights are all frozen"):
        sharpness_aware_gradient(lambda: (w * other).sum(), [w], rho=0.1)


@pytest.mark.gpu
def test_weights_may_lie_on_several_devices_and_both_passes_have_one_mask_there():
    weights, gradients = random_weights((4, 5), (5,)), random_weights((4, 5), (5,), seed=1)
    spread = [[values[0].cuda(), values[1]] for values in (weights, gradients)]
    for norm in ("l2", "max"):
        wanted = ascent_direction(weights, gradients, rho=0.1, norm=norm, adaptive=True)
        for e, there, w in zip(
            wanted, ascent_direction(*spread, rho=0.1, norm=norm, adaptive=True), spread[0], strict=True
        ):
            assert there.device == w.device
            torch.testing.assert_close(there.cpu(), e, rtol=1e-14, atol=0)
    model = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, 3)).double().cuda()
    masks = []
    model[1].register_forward_hook(lambda *args: masks.append(args[2] == 0))
    ours(model, *(values.cuda() for values in batches(1)[0]), rho=0.1)
    ours(model, *(values.cuda() for values in batches(1)[0]), rho=0.1)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])
