import pytest
import torch
from functional.landscape.landscape_cases import batches, classified, normalised_network, trained
from torch import nn

from lightning_gap.functional import evaluate_points, filter_normalized_direction, surface_points


def norms(tensor, axis):
    return torch.stack([part.norm() for part in tensor.unbind(axis)])


@pytest.mark.parametrize(
    ("layer", "axis"), [(nn.Linear(5, 3), 0), (nn.Conv2d(4, 6, 3, groups=2), 0), (nn.ConvTranspose2d(4, 6, 3), 1)]
)
def test_every_filter_is_as_long_as_the_networks_own(layer, axis):
    direction = filter_normalized_direction(layer, seed=3)
    assert list(direction) == ["weight"]
    torch.testing.assert_close(norms(direction["weight"], axis), norms(layer.weight.detach(), axis), rtol=1e-5, atol=0)


def test_output_channels_of_grouped_transposed_convolutions_are_filters():
    layer = nn.ConvTranspose1d(4, 6, 3, groups=2)
    direction = filter_normalized_direction(layer)["weight"]
    own = layer.weight.detach()
    for group in range(2):
        rows = slice(2 * group, 2 * group + 2)
        torch.testing.assert_close(norms(direction[rows], 1), norms(own[rows], 1), rtol=1e-5, atol=0)


def test_a_seed_is_a_direction_and_another_another():
    module = normalised_network()
    first, again, other = (filter_normalized_direction(module, seed=seed)["0.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    before = torch.get_rng_state()
    filter_normalized_direction(module)
    assert torch.equal(torch.get_rng_state(), before)


def test_biases_and_normalisation_stay_or_are_copied():
    module = normalised_network()
    assert list(filter_normalized_direction(module)) == ["0.weight", "4.weight"]
    copied = filter_normalized_direction(module, vectors="copy")
    assert list(copied) == [name for name, _ in module.named_parameters()]
    assert torch.equal(copied["1.weight"], module[1].weight)
    assert torch.equal(copied["0.bias"], module[0].bias)


def test_frozen_weights_stay_and_tied_ones_move_once():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    module[2].weight = module[0].weight
    module[1].weight.requires_grad_(False)
    assert list(filter_normalized_direction(module)) == ["0.weight"]


def test_filters_of_zeros_stay():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    assert torch.equal(filter_normalized_direction(layer)["weight"], torch.zeros(2, 3))


def test_weights_doubled_before_batch_norm_have_the_same_normalised_curve_and_another_plain_one():
    module, data = normalised_network(), batches((40,))
    state = trained(module, data[0][0], 1)
    doubled = state | {"0.weight": 2 * state["0.weight"], "0.bias": 2 * state["0.bias"]}

    def curve(centre, direction):
        points = surface_points(centre, [direction], [[-1.0, -0.5, 0.0, 0.5, 1.0]])
        return evaluate_points(module, points, classified, {"a": data}, batch_norm="batch").values["a"]["loss"]

    curves, plain = [], []
    for centre in (state, doubled):
        module.load_state_dict(centre)
        curves.append(curve(centre, filter_normalized_direction(module, seed=4)))
        plain.append(curve(centre, {"0.weight": torch.ones_like(state["0.weight"]).tril()}))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)  # to the epsilon of BatchNorm
    assert plain[0] != pytest.approx(plain[1], rel=1e-2)


@pytest.mark.parametrize(
    ("module", "kwargs", "named"),
    [
        (nn.BatchNorm1d(3), {}, "module"),
        (nn.Linear(2, 2).requires_grad_(False), {}, "module"),
        (nn.LazyLinear(2), {}, "lazy"),
        (nn.Linear(2, 2), {"vectors": "ignore"}, "vectors.*'ignore'"),
        (nn.Linear(2, 2), {"seed": -1}, "seed.*-1"),
    ],
)
def test_what_has_no_direction_is_refused_by_name(module, kwargs, named):
    with pytest.raises(ValueError, match=named):
        filter_normalized_direction(module, **kwargs)
