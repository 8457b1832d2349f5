import math
import statistics

import pytest
import torch
from functional.known_losses import network, timeless, unchanged
from torch.nn.functional import cross_entropy

from lightning_gap.functional import (
    DatasetLoss,
    RandomSubspace,
    layer_sharpness,
    m_sharpness,
    sharpness,
    subspace_sharpness,
)

# layer_sharpness


@pytest.mark.parametrize("relative", [False, True])
def test_each_layer_has_the_sharpness_of_its_weights_alone(relative):
    model, x, y = network()
    named = dict(model.named_parameters())
    calls = []

    def loss_fn():
        calls.append(1)
        return cross_entropy(model(x), y)

    found = unchanged(list(named.values()), lambda: layer_sharpness(loss_fn, named, epsilon=0.01, relative=relative))
    assert list(found) == ["0", "2"]
    assert len(calls) == 2 + sum(layer.evaluations - 1 for layer in found.values())
    for name, layer in found.items():
        own = [p for key, p in named.items() if key.startswith(name)]
        alone = sharpness(loss_fn, own, epsilon=0.01, relative=relative)
        assert (layer.percent, layer.loss) == (alone.percent, alone.loss)
        assert layer.offset_norm == alone.offset_norm
        assert layer.at_bound == alone.at_bound


def test_the_norms_of_a_layer_are_its_own():
    model, x, y = network()
    named = dict(model.named_parameters())
    loss_fn = lambda: cross_entropy(model(x), y)  # noqa: E731
    layer = layer_sharpness(loss_fn, named)["2"]
    alone = sharpness(loss_fn, model[2].parameters())
    assert layer.weight_norm == pytest.approx(alone.weight_norm)
    assert layer.gradient_norm == pytest.approx(alone.gradient_norm)
    assert layer.largest_gradient == pytest.approx(alone.largest_gradient)


def test_layers_that_do_nothing_or_hold_nothing_are_flat():
    w = {
        "used.weight": torch.ones(2, requires_grad=True),
        "idle.weight": torch.ones(2, requires_grad=True),
        "empty.weight": torch.zeros(0, 3, requires_grad=True),
    }
    found = layer_sharpness(lambda: w["used.weight"].sum(), w)
    assert found["used"].percent > 0
    assert found["idle"].percent == 0
    assert "empty" not in found or found["empty"].percent == 0


@pytest.mark.parametrize("failing", [1, 2, 3, 5, 8])
def test_a_loss_that_fails_within_a_layer_leaves_no_trace(failing):
    model, x, y = network()
    calls = []

    def loss_fn():
        calls.append(1)
        if len(calls) == failing:
            raise KeyboardInterrupt
        return cross_entropy(model(x), y)

    def run():
        with pytest.raises(KeyboardInterrupt):
            layer_sharpness(loss_fn, dict(model.named_parameters()), epsilon=0.1)

    unchanged(list(model.parameters()), run)


def test_bad_arguments_for_layers_are_refused():
    w = {"a.weight": torch.ones(1, requires_grad=True)}
    with pytest.raises(ValueError, match="epsilon must be a positive number"):
        layer_sharpness(lambda: w["a.weight"].sum(), w, epsilon=0)
    with pytest.raises(ValueError, match="max_evaluations must be a whole number"):
        layer_sharpness(lambda: w["a.weight"].sum(), w, max_evaluations=1)
    with pytest.raises(ValueError, match=r"b\.bias does not require grad"):
        layer_sharpness(lambda: w["a.weight"].sum(), {**w, "b.bias": torch.ones(1)})


# subspace_sharpness


@pytest.mark.parametrize("method", ["corner", "lbfgsb"])
def test_draws_are_the_subspaces_of_successive_seeds(method):
    model, x, y = network()
    params = list(model.parameters())
    first = RandomSubspace(5, seed=7, scale=0.5)
    calls = []

    def loss_fn():
        calls.append(1)
        return cross_entropy(model(x), y)

    found = unchanged(
        params, lambda: subspace_sharpness(loss_fn, params, epsilon=0.01, subspace=first, draws=3, method=method)
    )
    assert len(calls) == 2 + sum(draw.evaluations - 1 for draw in found.draws)
    alone = [
        sharpness(loss_fn, params, epsilon=0.01, subspace=RandomSubspace(5, seed, 0.5), method=method)
        for seed in (7, 8, 9)
    ]
    assert [timeless(draw) for draw in found.draws] == [timeless(one) for one in alone]
    percents = [one.percent for one in alone]
    assert found.percent == pytest.approx(statistics.fmean(percents))
    assert found.standard_deviation == pytest.approx(statistics.stdev(percents))
    assert found.standard_deviation > 0


def test_by_default_it_is_the_papers_subspace():
    x = torch.linspace(1, 2, 150, dtype=torch.float64).requires_grad_()
    found = subspace_sharpness(lambda: x.square().mean(), [x], draws=1)
    assert found.draws[0].subspace == RandomSubspace(100)
    assert found.draws[0].method == "lbfgsb"
    assert math.isnan(found.standard_deviation)
    assert found.percent == found.draws[0].percent


@pytest.mark.parametrize("draws", [0, -1, 1.5, True])
def test_a_number_of_draws_that_is_no_count_is_refused(draws):
    x = torch.ones(5, requires_grad=True)
    with pytest.raises(ValueError, match="draws must be a whole number, at least 1"):
        subspace_sharpness(lambda: x.sum(), [x], subspace=RandomSubspace(2), draws=draws)


def test_it_is_the_mean_over_groups_of_each_groups_own_worst_case():
    """Linear losses in a ball: the rise is radius times the length of the slope."""
    slopes = torch.tensor([[3.0, 4.0], [0.0, -1.0], [5.0, 12.0]], dtype=torch.float64)
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    losses = [lambda s=s: s @ x for s in slopes]
    found = unchanged([x], lambda: m_sharpness(losses, [x], epsilon=0.1))
    rises = [0.5, 0.1, 1.3]
    assert found.rise == pytest.approx(statistics.fmean(rises))
    assert found.standard_error == pytest.approx(statistics.stdev(rises) / 3**0.5)
    assert [group.highest_loss for group in found.groups] == pytest.approx(rises)
    box = m_sharpness(losses, [x], epsilon=0.1, norm="max")
    assert box.rise == pytest.approx(statistics.fmean([0.7, 0.1, 1.7]))


def test_groups_of_samples_come_from_dataset_losses():
    model, x, y = network()
    groups = [
        DatasetLoss(model, lambda m, b: cross_entropy(m(b[0]), b[1]), [(x[rows], y[rows])])
        for rows in torch.arange(30).split(10)
    ]
    found = m_sharpness(groups, model.parameters(), epsilon=0.1, max_evaluations=4)
    assert len(found.groups) == 3
    for group, rows in zip(found.groups, torch.arange(30).split(10), strict=True):
        alone = sharpness(
            lambda rows=rows: cross_entropy(model(x[rows]), y[rows]),
            model.parameters(),
            epsilon=0.1,
            norm="l2",
            max_evaluations=4,
        )
        assert group.highest_loss == pytest.approx(alone.highest_loss, rel=1e-12)
        assert group.samples == 10


def test_one_group_has_no_standard_error_and_none_is_refused():
    x = torch.zeros(2, requires_grad=True)
    assert math.isnan(m_sharpness([lambda: x.sum()], [x]).standard_error)
    with pytest.raises(ValueError, match="loss_fns is empty; pass one loss for each group"):
        m_sharpness([], [x])
