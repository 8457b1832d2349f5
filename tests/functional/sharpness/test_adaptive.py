import math
import statistics

import pytest
import torch
from functional.known_losses import unchanged
from functional.sharpness.test_auto_pgd import by_hand
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import (
    DatasetLoss,
    adaptive_sharpness,
    normalize_logits,
    normalized_logit_loss,
    sharpness,
)


def logits_of(module, batch):
    return module(batch[0]), batch[1]


def network(seed=0, norm=True, steps=200):
    """A trained network in float64, in evaluation mode, and its samples."""
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 16), nn.BatchNorm1d(16) if norm else nn.Identity(), nn.ReLU(), nn.Linear(16, 3)]
    model, x, y = nn.Sequential(*layers).double(), torch.randn(64, 6).double(), torch.randint(3, (64,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), x, y


NORMS = [("max", 0.02), ("l2", 0.5)]


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_logits_times_a_constant_change_the_plain_value_and_not_the_normalised_one(norm, epsilon):
    model, x, y = network()
    terms = {"epsilon": epsilon, "norm": norm}
    found = {}
    for factor in (1.0, 5.0):
        scaled = lambda module, batch, c=factor: (c * module(batch[0]), batch[1])  # noqa: E731
        for normalize in (True, False):
            found[factor, normalize] = adaptive_sharpness(model, scaled, [(x, y)], normalize=normalize, **terms).rise
    assert found[5.0, True] == pytest.approx(found[1.0, True], rel=1e-9)
    assert found[1.0, True] > 0
    assert abs(found[5.0, False] / found[1.0, False] - 1) > 0.1


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
@pytest.mark.parametrize("method", ["apgd", "corner"])
def test_weights_rescaled_from_layer_to_layer_change_nothing(norm, epsilon, method):
    """Dinh et al. (2017): ReLU(c a) w / c = ReLU(a) w; Metric 2.1 changes, which shows that the weights did."""
    model, x, y = network(norm=False)
    params = list(model.parameters())
    terms = {"epsilon": epsilon, "norm": norm, "method": method}

    def measure():
        adaptive = adaptive_sharpness(model, logits_of, [(x, y)], **terms).rise
        return adaptive, sharpness(lambda: cross_entropy(model(x), y), params, epsilon=1e-2).percent

    before, absolute = measure()
    with torch.no_grad():
        model[0].weight.mul_(8)
        model[0].bias.mul_(8)
        model[3].weight.div_(8)
    after, other = measure()
    assert after == pytest.approx(before, rel=1e-9)
    assert abs(other / absolute - 1) > 0.1


class LinearLoss(nn.Module):
    """Logits whose cross-entropy for class 0 is nearly linear: -log(sigmoid(z)) = -z for z far below 0."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w.clone())

    def forward(self, s):
        z = -(s @ self.w) - 100
        return torch.stack([z, torch.zeros_like(z)], dim=1)


@pytest.mark.parametrize("method", ["apgd", "corner", "lbfgsb", "best"])
def test_a_linear_loss_rises_by_rho_times_the_sum_of_absolute_products(method):
    w, s = torch.tensor([0.5, -2.0, 3.0, 0.0]).double(), torch.tensor([[1.0, 2.0, -1.0, 4.0]]).double()
    model, batch = LinearLoss(w), (s, torch.tensor([0]))
    found = adaptive_sharpness(model, logits_of, [batch], epsilon=0.1, method=method, normalize=False)
    assert found.rise == pytest.approx(0.1 * float((s[0] * w).abs().sum()), rel=1e-9)
    if method in ("apgd", "corner"):
        ball = adaptive_sharpness(model, logits_of, [batch], epsilon=0.1, method=method, norm="l2", normalize=False)
        assert ball.rise == pytest.approx(0.1 * float((s[0] * w).norm()), rel=1e-9)


@pytest.mark.parametrize(("norm", "sizes"), [("max", (0.003, 0.03, 0.1)), ("l2", (0.1, 0.5, 2.0))])
@pytest.mark.parametrize("seed", range(2))
def test_it_is_as_high_as_auto_pgd_of_20_steps(norm, sizes, seed):
    """The reference maximiser, written out in its test on one vector."""
    model, x, y = network(seed)
    params = list(model.parameters())
    start = nn.utils.parameters_to_vector(params).detach()

    def loss(ratio):  # of the weights to what they are
        named = dict(zip(dict(model.named_parameters()), split(start * ratio, params), strict=True))
        logits = torch.func.functional_call(model, named, (x,))
        logits = logits - logits.mean(1, keepdim=True)
        return cross_entropy(logits / logits.norm(dim=1, keepdim=True), y)

    for epsilon in sizes:
        found = unchanged(
            params, lambda e=epsilon: adaptive_sharpness(model, logits_of, [(x, y)], epsilon=e, norm=norm)
        )
        ratio = torch.ones_like(start)
        # The box of `by_hand` is relative to |c| + 1 for c = 1: half of it.
        highest = by_hand(loss, ratio, epsilon / 2 if norm == "max" else epsilon, norm)
        assert found.rise >= (1 - 1e-6) * (highest - float(loss(ratio))) > 0


def split(vector, params):
    return [part.view_as(p) for part, p in zip(vector.split([p.numel() for p in params]), params, strict=True)]


def test_corner_ascent_finds_the_same_in_a_small_box_with_fewer_evaluations():
    model, x, y = network()
    terms = {"epsilon": 0.003, "max_evaluations": 21}
    reference = adaptive_sharpness(model, logits_of, [(x, y)], **terms)
    corner = adaptive_sharpness(model, logits_of, [(x, y)], method="corner", **terms)
    assert corner.rise == pytest.approx(reference.rise, rel=1e-6)
    assert corner.groups[0].evaluations < 21 == reference.groups[0].evaluations


def test_every_batch_has_a_maximum_of_its_own_and_the_mean_is_told():
    model, x, y = network()
    batches = [(x[:20], y[:20]), (x[20:], y[20:])]
    found = adaptive_sharpness(model, logits_of, batches, epsilon=0.02)
    alone = [adaptive_sharpness(model, logits_of, [batch], epsilon=0.02).rise for batch in batches]
    assert found.rise == pytest.approx(statistics.fmean(alone), rel=1e-12)
    assert found.standard_error == pytest.approx(statistics.stdev(alone) / math.sqrt(2), rel=1e-9)
    assert [group.samples for group in found.groups] == [20, 44]
    assert {(group.relative, group.norm, group.method) for group in found.groups} == {(True, "max", "apgd")}


def test_frozen_weights_stay_and_modes_come_back():
    model, x, y = network()
    free = adaptive_sharpness(model, logits_of, [(x, y)], epsilon=0.02).rise
    model[0].weight.requires_grad_(False)
    model.train()
    frozen = unchanged(list(model.parameters()), lambda: adaptive_sharpness(model, logits_of, [(x, y)], epsilon=0.02))
    assert all(part.training for part in model.modules())
    assert 0 < frozen.rise < free


def test_the_loss_of_normalised_logits_goes_with_sharpness_on_all_samples_at_once():
    model, x, y = network()
    whole = DatasetLoss(model, normalized_logit_loss(logits_of), [(x, y)])
    found = sharpness(whole, model.parameters(), epsilon=0.02, relative=True, method="apgd", max_evaluations=21)
    alone = adaptive_sharpness(model, logits_of, [(x, y)], epsilon=0.02)
    assert found.highest_loss - found.loss == pytest.approx(alone.rise, rel=1e-12)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 2), (3,)])
def test_normalised_logits_have_mean_0_and_norm_1_over_the_classes(shape):
    logits = 7 + 100 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    found = normalize_logits(logits)
    classes = min(1, len(shape) - 1)
    assert found.shape == logits.shape
    assert found.sum(classes).abs().max() < 1e-12
    assert (found.square().sum(classes) - 1).abs().max() < 1e-12
    assert torch.allclose(normalize_logits(0.01 * logits - 3), found)


def test_logits_that_are_all_equal_give_zeros_and_a_finite_gradient():
    logits = torch.full((2, 3), 5.0, requires_grad=True)
    found = normalize_logits(logits)
    assert found.tolist() == [[0.0] * 3] * 2
    (gradient,) = torch.autograd.grad(cross_entropy(found, torch.tensor([0, 1])), logits)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("bad", [torch.tensor(1.0), torch.ones(2, 3, dtype=torch.long)])
def test_what_are_no_logits_is_refused(bad):
    with pytest.raises(ValueError, match="logits must be floating-point numbers with an axis of classes"):
        normalize_logits(bad)


def test_arguments_that_cannot_be_are_refused_by_name():
    model, x, y = network(steps=0)
    terms = {"epsilon": 0.1}
    with pytest.raises(ValueError, match=r"logits_of must be a function of \(module, batch\), got 'logits'"):
        adaptive_sharpness(model, "logits", [(x, y)], **terms)
    with pytest.raises(ValueError, match="logits_of must return a pair of tensors, logits and targets, got Tensor"):
        adaptive_sharpness(model, lambda m, b: m(b[0]), [(x, y)], **terms)
    with pytest.raises(ValueError, match="batches"):
        adaptive_sharpness(model, logits_of, x, **terms)
    with pytest.raises(ValueError, match="batches"):
        adaptive_sharpness(model, logits_of, [], **terms)
    with pytest.raises(ValueError, match="epsilon must be a positive number, got 0"):
        adaptive_sharpness(model, logits_of, [(x, y)], epsilon=0)
    with pytest.raises(ValueError, match="norm='l2' goes with method='corner' or 'apgd'"):
        adaptive_sharpness(model, logits_of, [(x, y)], norm="l2", method="best", **terms)
    with pytest.raises(ValueError, match="module must be a Module"):
        adaptive_sharpness("model", logits_of, [(x, y)], **terms)
