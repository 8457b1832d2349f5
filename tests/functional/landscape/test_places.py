import pytest
import torch
from functional.interrupts import interrupt_at_many_instants
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
from torch.utils.data import DataLoader, TensorDataset

from lightning_gap.functional import evaluate_points, line_points, swap_batch_norm


def test_tied_and_frozen_weights_move_with_the_states():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (nn.Linear(2, 2, bias=False, dtype=torch.float64) for _ in range(2))
            self.second.weight = self.first.weight
            self.first.weight.requires_grad_(False)

        def forward(self, x):
            return self.second(self.first(x))

    module, eye = Tied(), torch.eye(2, dtype=torch.float64)
    states = [dict.fromkeys(module.state_dict(), k * eye) for k in (1, 3)]
    points, x = line_points(*states, [0.0, 0.5, 1.0]), torch.ones(1, 2, dtype=torch.float64)
    for at_once in (1, 3):
        found = evaluate_points(module, points, lambda m, b: m(b).mean(), {"data": [x]}, points_at_once=at_once)
        assert found.values["data"]["loss"] == [1.0, 4.0, 9.0]
        assert found.reason == ""


def snapshot(module):
    return {
        "state": {name: (value.data_ptr(), value.clone()) for name, value in module.state_dict().items()},
        "modes": [part.training for part in module.modules()],
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        "momenta": [getattr(part, "momentum", None) for part in module.modules()],
        "gradients": [weight.grad for weight in module.parameters()],
        "random": torch.get_rng_state(),
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one is other or torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("mode", ["running", "batch", "recomputed"])
@pytest.mark.parametrize("at_once", [1, 2])
def test_nothing_is_left_of_a_measurement(mode, at_once):
    network, data = normalised_network(), batches()
    swap_batch_norm(network, 4)
    start, end = (trained(network, data[0][0], seed) for seed in (1, 2))
    network[0].eval()
    network(data[0][0]).sum().backward()
    loader = DataLoader(TensorDataset(*data[0]), batch_size=7, shuffle=True)
    before = snapshot(network)
    evaluate_points(
        network,
        line_points(start, end, [-0.5, 0.0, 1.0]),
        classified,
        {"a": loader},
        batch_norm=mode,
        points_at_once=at_once,
    )
    assert same(snapshot(network), before)


@pytest.mark.parametrize("mode", ["batch", "recomputed"])
def test_nothing_is_left_when_it_is_cut_off_anywhere(mode, monkeypatch):
    network, data = normalised_network(), batches()
    start, end = (trained(network, data[0][0], seed) for seed in (1, 2))
    before = snapshot(network)
    points = line_points(start, end, [0.0, 0.5, 1.0])
    cut, failed = interrupt_at_many_instants(
        monkeypatch,
        lambda: evaluate_points(network, points, classified, {"a": data}, batch_norm=mode, points_at_once=2),
        lambda: same(snapshot(network), before),
        instants=40,
    )
    assert cut > 10
    assert failed == 0


def test_the_modules_own_state_can_be_an_end():
    """`state_dict` gives the very tensors that are moved."""
    module = bowl((1.0, 2.0))
    points = line_points(module.state_dict(), at(3.0, 4.0), [1.0, 0.5, 0.0])
    for at_once in (1, 3):
        found = evaluate_points(module, points, of_weight(torch.sum), ONCE, points_at_once=at_once)
        assert found.values["data"]["loss"] == [7.0, 5.0, 3.0]
