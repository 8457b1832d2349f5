import pytest
import torch
from functional.batch_norm_subclasses import AnyRank, Bounded
from torch import nn
from torchvision.models import resnet18

from lightning_gap.functional import no_decay_groups, swap_batch_norm

DECAY = 0.05


def names(network):
    """What each group holds, in its order, and its decay."""
    known = {parameter: name for name, parameter in network.named_parameters()}
    groups = no_decay_groups(network, DECAY)
    assert torch.optim.SGD(groups, lr=0.1).param_groups  # an optimizer takes them
    return [([known[p] for p in group["params"]], group["weight_decay"]) for group in groups]


@pytest.mark.parametrize("ghosts", [False, True])
def test_the_groups_of_resnet18_are_its_convolutions_and_its_dense_weight_and_the_rest(ghosts):
    network = resnet18()
    if ghosts:
        swap_batch_norm(network, ghost_batch_size=4)
    (decayed, decay), (others, none) = names(network)
    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    expected = {"conv1.weight", "fc.weight", *(f"{block}.conv{i}.weight" for block in blocks for i in (1, 2))}
    expected |= {f"layer{stage}.0.downsample.0.weight" for stage in range(2, 5)}
    assert (decay, none) == (DECAY, 0.0)
    assert (set(decayed), len(decayed), len(others)) == (expected, 21, 2 * 20 + 1)
    assert set(others) == {name for name, _ in network.named_parameters()} - expected


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4),
        nn.SyncBatchNorm(4),
        nn.LazyBatchNorm2d(),
        AnyRank(4),
        Bounded(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.LazyInstanceNorm2d(affine=True),
        nn.GroupNorm(2, 4),
        nn.LayerNorm((4, 4)),  # a matrix
        nn.RMSNorm((4, 4)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_normalisation_is_known_by_its_type(layer):
    assert names(layer) == [([name for name, _ in layer.named_parameters()], 0.0)]


def test_a_layer_called_norm_that_is_none_decays():
    network = nn.ModuleDict({"norm": nn.Linear(2, 2, bias=False)})
    assert names(network) == [(["norm.weight"], DECAY)]


def test_a_vector_of_no_normalisation_decays_and_a_bias_of_any_name_does_not():
    network = nn.ModuleDict(
        {
            "prelu": nn.PReLU(4),
            "attention": nn.MultiheadAttention(4, 2, add_bias_kv=True),
            "lstm": nn.LSTM(2, 3),
        }
    )
    (decayed, _), (others, _) = names(network)
    assert decayed == [
        "prelu.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
    ]
    assert others == [
        "attention.in_proj_bias",
        "attention.bias_k",
        "attention.bias_v",
        "attention.out_proj.bias",
        "lstm.bias_ih_l0",
        "lstm.bias_hh_l0",
    ]


def test_shared_parameters_come_once_and_frozen_ones_stay_to_be_thawed():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    network[1].weight = network[0].weight
    network[1].bias = network[2].bias
    network[0].weight.requires_grad_(False)
    assert names(network) == [(["0.weight"], DECAY), (["0.bias", "1.bias", "2.weight"], 0.0)]


def test_a_module_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match=r"module must have parameters .* ReLU"):
        no_decay_groups(nn.ReLU(), 0.1)
