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
from torch.nn.functional import cross_entropy

from lightning_gap.functional import evaluate_points, line_points, surface_points

MODES = ["running", "batch", "recomputed"]
ALPHAS = [-0.5, 0.0, 0.25, 1.0, 1.5]


def by_hand(network, start, end, alphas, splits, mode):
    """Loss by split at each point, on copies, without a word of ours."""
    found = {name: [] for name in splits}
    for alpha in alphas:
        network.load_state_dict(
            {k: (1 - alpha) * v + alpha * end[k] if v.is_floating_point() else v for k, v in start.items()}
        )
        network.eval()
        norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        if mode == "recomputed":
            torch.optim.swa_utils.update_bn([x for x, _ in next(iter(splits.values()))], network)
            network.eval()
        if mode == "batch":
            for norm in norms:
                norm.train()
        for name, given in splits.items():
            with torch.no_grad():
                total = sum(float(cross_entropy(network(x), y, reduction="sum")) for x, y in given)
            found[name].append(total / sum(len(y) for _, y in given))
    return found


@pytest.mark.promise("landscape")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at_once", [1, 3])
def test_losses_on_a_line_are_those_of_a_loop_by_hand(mode, at_once):
    network = normalised_network()
    data = batches()
    start, end = (trained(network, data[0][0], seed) for seed in (1, 2))
    splits = {"train": data, "test": data[1:]}
    found = evaluate_points(
        network, line_points(start, end, ALPHAS), classified, splits, batch_norm=mode, points_at_once=at_once
    )
    assert (found.points_at_once, found.reason) == (at_once, "")
    wanted = by_hand(normalised_network(), start, end, ALPHAS, splits, mode)
    for name in splits:
        assert found.values[name]["loss"] == pytest.approx(wanted[name], rel=1e-12, nan_ok=True)


@pytest.mark.promise("landscape")
def test_a_surface_of_a_quadratic_is_its_closed_form():
    curvature = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    points = surface_points(at(1.0, -1.0), [at(1.0, 0.0), at(0.5, 2.0)], [[-1.0, 0.0, 1.0], [-2.0, 0.0, 0.5, 1.0]])
    found = evaluate_points(bowl(), points, of_weight(lambda w: w @ curvature @ w / 2), ONCE).grid("data", "loss")
    for i, a in enumerate((-1.0, 0.0, 1.0)):
        for j, b in enumerate((-2.0, 0.0, 0.5, 1.0)):
            x, y = 1 + a + 0.5 * b, -1 + 2 * b
            assert float(found[i, j]) == pytest.approx((3 * x * x + 2 * x * y + 2 * y * y) / 2, rel=1e-14)


def test_values_that_are_not_finite_are_values():
    points = line_points(at(0.0), at(1.0), [0.0, 0.5, 1.0])
    losses = [
        evaluate_points(bowl((0.0,)), points, of_weight(lambda w: w[0].log() / (1 - w[0])), ONCE, points_at_once=n)
        for n in (1, 3)
    ]
    for found in losses:
        first, middle, last = found.values["data"]["loss"]
        assert first == -math.inf
        assert middle == pytest.approx(2 * math.log(0.5))
        assert math.isnan(last)


def test_scaled_relu_layers_are_the_same_function_and_ten_times_as_sharp():
    """Dinh et al.: (w1, w2) -> (10 w1, w2 / 10) leaves every loss, and shrinks the surroundings tenfold along w2."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)).double()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    scaled = {"0.weight": 10 * state["0.weight"], "2.weight": state["2.weight"] / 10}
    ray = {"2.weight": torch.randn_like(state["2.weight"])}

    def losses(centre, steps):
        points = surface_points(centre, [ray], [steps])
        return evaluate_points(module, points, classified, {"a": batches()}).values["a"]["loss"]

    assert losses(scaled, [0.0, 0.1, -0.3]) == pytest.approx(losses(state, [0.0, 1.0, -3.0]), rel=1e-12)
    assert losses(scaled, [1.0]) != pytest.approx(losses(state, [1.0]), rel=1e-2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"splits": {}}, "splits"),
        ({"splits": [torch.ones(1)]}, "splits.*list"),
        ({"splits": {"train": torch.ones(3)}}, "train.*pass \\[batch\\]"),
        ({"splits": {"train": []}}, "train.*empty"),
        ({"splits": {"train": [torch.tensor(1.0)]}}, "train.*count"),
        ({"statistics": "valid"}, "statistics.*'data'.*'valid'"),
        ({"measure": lambda module, batch: module.weight}, "measure.*'loss'.*\\(1, 2\\)"),
        ({"measure": lambda module, batch: {}}, "measure"),
        ({"points": line_points(at(1.0), at(1.0), [0.0])}, "points.*weight"),
        ({"points": line_points({"w": torch.ones(1)}, {"w": torch.ones(1)}, [0.0])}, "points.*w, weight"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(change, named):
    given = {
        "module": bowl(),
        "points": line_points(at(0.0, 0.0), at(1.0, 1.0), [0.0, 1.0]),
        "measure": of_weight(torch.sum),
        "splits": ONCE,
    }
    with pytest.raises(ValueError, match=named):
        evaluate_points(**{**given, **change})
