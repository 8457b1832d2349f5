import math

import pytest
import torch
from functional.landscape.landscape_cases import (
    ONCE,
    at,
    batches,
    bowl,
    classified,
    normalised_network,
    of_weight,
    trained,
)
from torch import nn

from lightning_gap.functional import connect, evaluate_points, line_points, loss_barrier

TS = [k / 30 for k in range(31)]


def hill(module, batch):
    """A ridge across the straight line between (-1, 0) and (1, 0), with a pass at height 0 far from it."""
    x, y = module.weight[0]
    return (1 - x.square()).square() * (1 - y.square()).square() + 0.05 * (x.square() - 1).square()


@pytest.mark.parametrize("kind", ["bezier", "chain"])
def test_a_curve_finds_the_way_around_a_hill(kind):
    ends = at(-1.0, 0.1), at(1.0, 0.1)
    curve = connect(bowl(), *ends, hill, ONCE["data"], kind=kind, epochs=400, learning_rate=0.05, momentum=0.5)
    assert torch.equal(curve.nodes[0]["weight"], ends[0]["weight"])
    assert torch.equal(curve.nodes[-1]["weight"], ends[1]["weight"])
    straight, curved = (
        max(evaluate_points(bowl(), points, hill, ONCE).values["data"]["loss"])
        for points in (line_points(*ends, TS), curve.points(TS))
    )
    assert straight > 0.9
    assert curved < 0.5 * straight


def test_one_step_moves_a_node_by_its_share_of_the_gradient_and_of_the_weight_decay():
    """w(t) = (1-t)^2 a + 2t(1-t) theta + t^2 b, loss g.w, so that theta moves by -lr 2t(1-t) (g + decay w(t))."""
    a, b, g = at(1.0, 2.0), at(3.0, -2.0), torch.tensor([0.5, -1.0], dtype=torch.float64)
    curve = connect(
        bowl(), a, b, of_weight(lambda w: w @ g), ONCE["data"], epochs=1, learning_rate=0.1, weight_decay=0.2, seed=3
    )
    t = float(torch.rand((), generator=torch.Generator().manual_seed(3)))
    middle = torch.tensor([2.0, 0.0], dtype=torch.float64)
    share = 2 * t * (1 - t)
    point = (1 - t) ** 2 * a["weight"][0] + share * middle + t**2 * b["weight"][0]
    wanted = middle - 0.1 * share * (g + 0.2 * point)
    assert curve.nodes[1]["weight"][0].tolist() == pytest.approx(wanted.tolist(), rel=1e-12)


def test_networks_with_batch_norm_are_connected_and_left_as_they_were():
    network, data = normalised_network(), batches((32, 32))
    start, end = (trained(network, torch.cat([x for x, _ in data]), seed) for seed in (1, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    network.eval()
    curve = connect(
        network, start, end, lambda m, b: classified(m, b)["loss"], data, bends=2, epochs=30, learning_rate=0.1
    )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not network.training
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())
    assert [len(curve.nodes), curve.kind] == [4, "bezier"]
    assert not any(tensor.requires_grad for node in curve.nodes for tensor in node.values())
    losses = [
        evaluate_points(network, points, classified, {"a": data}, batch_norm="recomputed").values["a"]["loss"]
        for points in (line_points(start, end, TS), curve.points(TS))
    ]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-12)
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=1e-12)
    assert sum(losses[1]) < sum(losses[0])
    assert loss_barrier(TS, losses[1]).height >= 0


def test_frozen_weights_are_not_trained_and_tied_ones_stay_tied():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[2].weight = module[0].weight
    module[1].weight.requires_grad_(False)
    start, end = ({k: torch.full((2, 2), v) for k in module.state_dict()} for v in (0.1, 0.3))
    curve = connect(module, start, end, lambda m, b: m(b).square().mean(), [torch.ones(1, 2)], epochs=2)
    middle = curve.nodes[1]
    assert torch.allclose(middle["1.weight"], torch.full((2, 2), 0.2))
    assert torch.equal(middle["0.weight"], middle["2.weight"])
    assert not torch.allclose(middle["0.weight"], torch.full((2, 2), 0.2))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"end": at(1.0)}, "start and end.*weight"),
        ({"loader": []}, "loader"),
        ({"loader": 3}, "loader.*3"),
        ({"kind": "line"}, "kind.*'line'"),
        ({"bends": 0}, "bends.*0"),
        ({"learning_rate": -1.0}, "learning_rate.*-1"),
        ({"loss_fn": of_weight(lambda w: w.sum() * math.inf)}, "inf.*epoch 0.*learning_rate=0.03"),
        ({"module": bowl().requires_grad_(False)}, "module.*no trained"),
    ],
)
def test_what_cannot_be_connected_is_refused_by_name(change, named):
    given = {"module": bowl(), "start": at(0.0, 1.0), "end": at(1.0, 1.0), "loss_fn": hill, "loader": ONCE["data"]}
    with pytest.raises(ValueError, match=named):
        connect(**{**given, **change})
