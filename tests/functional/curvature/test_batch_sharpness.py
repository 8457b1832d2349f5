import itertools
import math
import statistics

import pytest
import torch
from functional.known_losses import network, unchanged, vector
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from lightning_gap.functional import UndefinedCurvatureError, batch_sharpness, critical_sharpness


def dense(model, loss):
    """Gradient and Hessian as torch makes them of the flat weights."""
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)

    def of(flat):
        parts = torch.split(flat, [s.numel() for s in shapes])
        return loss({n: part.view(s) for n, part, s in zip(names, parts, shapes, strict=True)})

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return torch.autograd.functional.jacobian(of, flat), torch.autograd.functional.hessian(of, flat)


def batches_of(x, y, size=6):
    return list(zip(x.split(size), y.split(size), strict=True))


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_is_the_mean_of_the_batches_own_ratios(momentum, in_parts):
    model, x, y = network()
    params = list(model.parameters())
    velocity = [torch.randn(p.shape, generator=torch.Generator().manual_seed(3)).double() / 30 for p in params]
    expected = []
    for batch in batches_of(x, y):
        g, hessian = dense(model, lambda w, b=batch: cross_entropy(torch.func.functional_call(model, w, (b[0],)), b[1]))
        s = g + momentum * torch.cat([v.flatten() for v in velocity])
        expected.append(float(s @ hessian @ s / (s @ g)))

    def loss(batch):
        pieces = zip(*(tensor.split(2) for tensor in batch), strict=True)
        parts = (cross_entropy(model(inputs), labels, reduction="sum") / len(batch[1]) for inputs, labels in pieces)
        return parts if in_parts else cross_entropy(model(batch[0]), batch[1])

    losses = [lambda b=batch: loss(b) for batch in batches_of(x, y)]
    for exact, tolerance in ((True, 1e-11), (False, 1e-5)):
        found = unchanged(
            params,
            lambda exact=exact: batch_sharpness(
                losses, params, velocity=velocity, momentum=momentum, second_derivatives=exact
            ),
        )
        assert found.value == pytest.approx(statistics.fmean(expected), rel=tolerance)
        assert found.standard_error == pytest.approx(statistics.stdev(expected) / math.sqrt(5), rel=1e-3)
        assert found.batches == 5


def test_with_all_data_in_a_batch_it_is_the_curvature_along_the_gradient():
    model, x, y = network()
    g, hessian = dense(model, lambda w: cross_entropy(torch.func.functional_call(model, w, (x,)), y))
    found = batch_sharpness([lambda: cross_entropy(model(x), y)], model.parameters())
    assert found.value == pytest.approx(float(g @ hessian @ g / (g @ g)), rel=1e-12)
    assert math.isnan(found.standard_error)
    assert not found.converged


def test_with_a_hessian_of_c_times_the_identity_it_is_c_whatever_the_batch():
    weight = vector(1.0, -2.0, 3.0)
    targets = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = [lambda t=t: 7.0 / 2 * (weight - t).square().sum() for t in targets]
    for exact in (True, False):
        found = batch_sharpness(losses, [weight], second_derivatives=exact)
        assert found.value == pytest.approx(7.0, rel=1e-7)
        assert (found.batches, found.converged) == (10, True)
    stepped = batch_sharpness(losses, [weight], velocity=[weight.detach()], momentum=0.9)
    w = weight.detach()
    shown = [7 * (s @ s) / (s @ g) for t in targets for g in [7 * (w - t)] for s in [g + 0.9 * w]]
    assert stepped.value == pytest.approx(float(statistics.fmean(map(float, shown[: stepped.batches]))))


def test_along_the_gradient_of_a_quadratic_it_is_the_critical_sharpness():
    weight = vector(1.0, 2.0)
    curvatures = torch.tensor([1.0, 5.0], dtype=torch.float64)

    def loss():
        return (curvatures * weight**2).sum() / 2

    batch = batch_sharpness([loss], [weight])
    critical = critical_sharpness(loss, [weight], [curvatures * weight.detach()])
    assert batch.value == pytest.approx(critical.sharpness, rel=1e-12)


def test_it_stops_by_the_error_of_the_mean_of_ratios():
    """Ratios that scatter by 100 %, of batches whose ratio of means is known at once: norms that are the same."""
    weight = vector(1.0)
    generator = torch.Generator().manual_seed(0)

    def losses():
        while True:
            curvature = 2 * float(torch.rand((), generator=generator)) ** 2
            # gradient 1 at the weight, and this curvature
            yield lambda c=curvature: ((weight - weight.detach()) + c / 2 * (weight - weight.detach()) ** 2).sum()

    found = batch_sharpness(losses(), [weight], tolerance=0.1)
    assert found.converged
    assert found.standard_error <= 0.1 * found.value
    assert 50 < found.batches < 150  # (0.9 / 0.1)^2 = 80
    assert found.value == pytest.approx(2 / 3, abs=3 * found.standard_error)
    cut = batch_sharpness(losses(), [weight], tolerance=0.1, max_batches=12)
    assert (cut.batches, cut.converged) == (12, False)


def test_without_double_backward_it_says_what_to_do_and_differences_agree_with_the_exact_value():
    torch.manual_seed(0)
    projection = nn.Linear(8, 24).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)

    def loss(backend):
        q, k, v = projection(x).unflatten(-1, (1, 24)).transpose(1, 2).chunk(3, dim=-1)
        with nn.attention.sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=True).square().mean()

    fused, plain = (
        lambda b=b: loss(b) for b in (nn.attention.SDPBackend.FLASH_ATTENTION, nn.attention.SDPBackend.MATH)
    )
    params = list(projection.parameters())
    with pytest.raises(ValueError, match=r"no double backward .*pass second_derivatives=False"):
        batch_sharpness([fused], params)
    exact = batch_sharpness([plain], params).value
    assert batch_sharpness([fused], params, second_derivatives=False).value == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss_fns": []}, "loss_fns is empty"),
        ({"loss_fns": lambda: 1.0}, "loss_fns must be loss functions, one for each batch"),
        ({"loss_fns": [1.0]}, "loss_fns must be a function of no arguments, got 1.0"),
        ({"momentum": 0.9}, "momentum needs velocity=..., .* got 0.9"),
        ({"momentum": 1.0}, "momentum must be a number, at least 0 and below 1, got 1.0"),
        ({"velocity": [torch.ones(3)]}, r"velocity must hold one tensor in the shape of each of params, \[\(2,\)\]"),
        ({"tolerance": 0.0}, "tolerance must be a number, above 0 and below 1, got 0.0"),
        ({"min_batches": 1}, "min_batches must be a whole number, at least 2, got 1"),
        ({"max_batches": 0}, "max_batches must be a whole number, at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(changed, message):
    weight = vector(1.0, 2.0)
    given = {"loss_fns": [lambda: weight.square().sum()], "params": [weight]}
    with pytest.raises(ValueError, match=message):
        batch_sharpness(**(given | changed))


@pytest.mark.parametrize("exact", [True, False])
def test_random_and_undefined_losses_are_refused(exact):
    weight = vector(1.0, 2.0)
    with pytest.raises(ValueError, match="the loss is random"):
        batch_sharpness([lambda: (weight * torch.rand(2)).sum()], [weight], second_derivatives=exact)
    flat = itertools.repeat(lambda: (weight - weight.detach()).square().sum())
    with pytest.raises(UndefinedCurvatureError, match="the ratio of batch 0 is not finite"):
        batch_sharpness(flat, [weight], second_derivatives=exact)
