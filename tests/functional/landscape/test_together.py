import signal

import pytest
import torch
from functional.landscape.landscape_cases import (
    ONCE,
    at,
    batches,
    bowl,
    classified,
    normalised_network,
    trained,
)
from torch import nn

from lightning_gap.functional import evaluate_points, line_points
from lightning_gap.recipes.networks import C1, F1


@pytest.mark.promise("landscape")
@pytest.mark.parametrize("mode", ["running", "batch", "recomputed"])
@pytest.mark.parametrize(
    ("network", "shape", "dtype"),
    [
        (lambda: F1(), (784,), torch.float32),
        (lambda: F1(width=16), (784,), torch.float64),
        (lambda: C1(channels=4, dense=(8, 8)), (3, 32, 32), torch.float32),
        (lambda: C1(channels=2, dense=(8, 8)), (3, 32, 32), torch.float64),
    ],
)
def test_points_together_have_the_values_of_a_plain_loop(network, shape, dtype, mode):
    torch.manual_seed(0)
    network, data = network().to(dtype), batches((12, 8), shape, 10, dtype)
    start = trained(network, data[0][0], 1)
    end = trained(network, data[0][0], 2)
    points = line_points(start, end, [0.0, 0.2, 0.6, 1.0])
    loop, together = (
        evaluate_points(network, points, classified, {"train": data}, batch_norm=mode, points_at_once=n) for n in (1, 3)
    )
    assert (together.points_at_once, together.reason) == (3, "")
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert together.values["train"]["loss"] == pytest.approx(loop.values["train"]["loss"], rel=tolerance, abs=tolerance)
    assert together.values["train"]["accuracy"] == loop.values["train"]["accuracy"]


def test_recurrent_networks_are_where_their_weights_are():
    torch.manual_seed(0)
    module = nn.LSTM(2, 3).double()
    start, end = ({k: torch.randn_like(v) for k, v in module.state_dict().items()} for _ in range(2))
    x = torch.randn(4, 5, 2, dtype=torch.float64)
    found = [
        evaluate_points(
            module, line_points(start, end, [0.0, 0.5, 1.0]), lambda m, b: m(b)[0].square().mean(), {"data": [x]},
            points_at_once=n,
        ).values["data"]["loss"]
        for n in (1, 3)
    ]  # fmt: skip
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    module.load_state_dict(end)
    assert found[0][2] == pytest.approx(float(module(x)[0].square().mean().detach()), rel=1e-12)


def asks_for_a_number(module, batch):
    return module.weight.square().sum() if module.weight[0, 0].item() > 0 else module.weight.sum()


def draws_random_numbers(module, batch):
    return module.weight.sum() * torch.rand(()).double()


class Wrong(torch.autograd.Function):
    """Right for one weight at a time, wrong for a stack of them."""

    @staticmethod
    def forward(weight):
        return weight.square().sum()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, weight):
        return torch.zeros(info.batch_size, dtype=weight.dtype), 0


@pytest.mark.parametrize(
    ("measure", "reason"),
    [
        (asks_for_a_number, "item"),
        (draws_random_numbers, "random"),
        (lambda module, batch: Wrong.apply(module.weight), "other values"),
    ],
)
def test_what_cannot_be_measured_together_is_measured_in_a_loop_that_says_why(measure, reason):
    points = line_points(at(1.0, 2.0), at(3.0, 1.0), [0.0, 0.5, 1.0])
    found = evaluate_points(bowl(), points, measure, ONCE, points_at_once=2)
    alone = evaluate_points(bowl(), points, measure, ONCE, points_at_once=1)
    if measure is not draws_random_numbers:  # two calls draw other numbers; the points of one the same
        assert found.values == alone.values
    assert found.points_at_once == 1
    assert reason in found.reason
    assert alone.reason == ""


def test_every_point_sees_the_same_random_numbers():
    points = line_points(at(1.0, 2.0), at(1.0, 2.0), [0.0, 0.5, 1.0])
    assert len(set(evaluate_points(bowl(), points, draws_random_numbers, ONCE).values["data"]["loss"])) == 1


def test_ctrl_c_inside_the_end_of_vmap_leaves_torch_as_it_was(monkeypatch):
    leave = torch._functorch.vmap._vmap_decrement_nesting

    def interrupted():
        signal.raise_signal(signal.SIGINT)
        return leave()

    monkeypatch.setattr(torch._functorch.vmap, "_vmap_decrement_nesting", interrupted)
    points = line_points(at(1.0, 2.0), at(3.0, 1.0), [0.0, 1.0])
    with pytest.raises(KeyboardInterrupt):
        evaluate_points(bowl(), points, lambda module, batch: module.weight.sum(), ONCE, points_at_once=2)
    inside = torch._C._functorch.peek_interpreter_stack() is not None
    while torch._C._functorch.peek_interpreter_stack() is not None:
        leave()  # else no other test could draw a random number
    assert not inside


def test_the_memory_bound_sets_how_many_points_are_together():
    network, data = normalised_network(), batches()
    state = trained(network, data[0][0], 1)
    points = line_points(state, trained(network, data[0][0], 2), [k / 10 for k in range(11)])

    def found(**kwargs):
        return evaluate_points(network, points, classified, {"train": data}, **kwargs)

    # 99 parameters and 16 statistics move, and of 20 samples the widest layer makes 8 numbers: 8 bytes each
    each = 8 * (99 + 16) + 4 * 20 * 8 * 8 + 1
    every, some, none, few = (
        found(),
        found(points_at_once=11, max_bytes=5 * each),
        found(max_bytes=1),
        found(max_bytes=5 * each),
    )
    assert [f.points_at_once for f in (every, some, none, few)] == [11, 5, 1, 1]
    assert [bool(f.reason) for f in (every, some, none, few)] == [False, False, True, True]
    assert "max_bytes=1" in none.reason
    for other in (some, none, few):
        assert other.values["train"]["loss"] == pytest.approx(every.values["train"]["loss"], rel=1e-12, nan_ok=True)


def test_convolutions_on_the_cpu_are_in_a_loop_unless_asked_otherwise():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(3))
    module(torch.ones(1, 1, 4, 4))
    state = module.state_dict()
    points, data = line_points(state, state, [0.0, 1.0]), batches((4,), (1, 4, 4), 3, torch.float32)
    found = evaluate_points(module, points, classified, {"data": data})
    assert found.points_at_once == 1
    assert "convolutions" in found.reason
