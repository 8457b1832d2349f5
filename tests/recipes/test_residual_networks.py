import math
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d
from torchvision.models import resnet50

from lightning_gap.recipes.networks import C1, WRN16_4, ResNet44, ResNet50, zero_last_gammas


def evaluated(network):
    """The network in double precision, every BatchNorm with its own weights and running statistics, none neutral."""
    draw = torch.Generator().manual_seed(2)
    for layer in network.double().eval().modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                values.copy_(torch.rand(values.shape, generator=draw) + 0.5)
    return network


def images(samples=2, size=32):
    return torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def norm(state, name, x):
    """(x - mean) / sqrt(variance + 1e-5) * gamma + beta, by channel."""
    mean, variance, gamma, beta = (
        state[f"{name}.{key}"].view(-1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * gamma + beta


def scores(state, x):
    """Mean over the image, then the final layer."""
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def blocks_of(n):
    """Name and stride of the blocks of three stages, and whether the shape changes from the stage before."""
    return [(f"stages.{s}.{b}", 2 if s and not b else 1, b == 0) for s in range(3) for b in range(n)]


def test_resnet44_follows_the_formulas_of_he_et_al():
    network = evaluated(ResNet44(5, width=4))
    state, x = network.state_dict(), images()
    expected = norm(state, "stem.1", conv2d(x, state["stem.0.weight"], padding=1)).clamp(min=0)
    for block, stride, first in blocks_of(7):
        inner = norm(state, f"{block}.bn1", conv2d(expected, state[f"{block}.conv1.weight"], None, stride, 1))
        residual = norm(state, f"{block}.bn2", conv2d(inner.clamp(min=0), state[f"{block}.conv2.weight"], padding=1))
        shortcut = expected
        if stride == 2:
            assert first
            shortcut = conv2d(expected, state[f"{block}.downsample.0.weight"], None, stride)
            shortcut = norm(state, f"{block}.downsample.1", shortcut)
        expected = (residual + shortcut).clamp(min=0)
    torch.testing.assert_close(network(x), scores(state, expected))


def test_wrn_follows_the_formulas_of_zagoruyko_and_komodakis():
    network = evaluated(WRN16_4(5, width=3))
    state, x = network.state_dict(), images()
    expected = conv2d(x, state["stem.weight"], padding=1)
    for block, stride, first in blocks_of(2):
        active = norm(state, f"{block}.bn1", expected).clamp(min=0)
        inner = norm(state, f"{block}.bn2", conv2d(active, state[f"{block}.conv1.weight"], None, stride, 1))
        residual = conv2d(inner.clamp(min=0), state[f"{block}.conv2.weight"], padding=1)
        shortcut = conv2d(active, state[f"{block}.shortcut.weight"], None, stride) if first else expected
        expected = residual + shortcut
    torch.testing.assert_close(network(x), scores(state, norm(state, "end.0", expected).clamp(min=0)))


def test_wrn_widens_its_stages_and_keeps_the_first_convolution():
    with torch.device("meta"):
        outputs = [block.conv2.out_channels for stage in WRN16_4().stages for block in stage]
        assert (WRN16_4().stem.out_channels, outputs) == (16, [64, 64, 128, 128, 256, 256])
        convolutions = [layer for layer in WRN16_4(depth=28, widen=10).modules() if isinstance(layer, nn.Conv2d)]
        assert len(convolutions) == 28
        # WRN-28-10, as its authors count it: 36.5 million
        assert round(sum(p.numel() for p in WRN16_4(depth=28, widen=10).parameters()), -5) == 36_500_000


def test_wrn_starts_with_zero_biases_in_the_final_layer():
    assert not WRN16_4().fc.bias.any()


@pytest.mark.parametrize("depth", [4, 15, -2, 2.5, 16.0, "16", None])
def test_wrn_refuses_a_depth_of_no_whole_number_of_blocks(depth):
    with pytest.raises(ValueError, match=f"depth must be 6 n \\+ 4 .* got {depth!r}"):
        WRN16_4(depth=depth)


def test_resnet44_refuses_stages_without_blocks():
    with pytest.raises(ValueError, match="blocks must be a whole number, at least 1, got 0"):
        ResNet44(blocks=0)


@pytest.mark.parametrize("blocks", [[1, 2], (3, 4, 6, 0), [3, 4, 6, 3.0], [1, 1, True, 1], 4, "3463", None])
def test_resnet50_refuses_blocks_that_are_not_four_counts(blocks):
    message = f"blocks must be 4 whole numbers, each at least 1, got {blocks!r}; for instance [3, 4, 6, 3]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ResNet50(blocks=blocks)


def test_resnet50_takes_the_blocks_of_yaml():
    with torch.device("meta"):
        network = ResNet50(blocks=[1, 2, 1, 3])
    assert [len(stage) for stage in (network.layer1, network.layer2, network.layer3, network.layer4)] == [1, 2, 1, 3]


def test_resnet50_is_torchvisions_given_the_same_weights():
    ours, theirs = ResNet50(), resnet50(weights=None)
    ours.load_state_dict(theirs.state_dict())
    x = images(size=64).float()
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("network", [ResNet44, WRN16_4, ResNet50])
def test_convolutions_start_from_hes_normal_distribution(network):
    torch.manual_seed(0)
    convolutions = [layer for layer in network().modules() if isinstance(layer, nn.Conv2d)]
    assert all(layer.bias is None for layer in convolutions)
    standard = torch.cat(
        [
            layer.weight.detach().flatten() / math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
            for layer in convolutions
        ]
    )
    assert float(standard.std()) == pytest.approx(1, abs=0.005)
    assert float((standard.abs() < 1).float().mean()) == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.005)


def test_resnet50_starts_as_goyal_et_al_start_it_once_the_recipe_sets_its_gammas_to_zero():
    torch.manual_seed(0)
    network = ResNet50().requires_grad_(False)
    assert float(network.fc.weight.std()) == pytest.approx(0.01, rel=0.01)
    assert not network.fc.bias.any()
    gammas = {name: layer.weight for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert all(bool((gamma == 1).all()) for gamma in gammas.values())  # what `--zero_last_gammas false` asks for
    zero_last_gammas(network)
    assert all(bool((gamma == (0 if name.endswith("bn3") else 1)).all()) for name, gamma in gammas.items())


def test_blocks_that_start_with_zero_gammas_are_identities_up_to_the_relu():
    wide = images()[:, :1].expand(-1, 256, -1, -1)
    deep, shallow = ResNet50(blocks=(2, 1, 1, 1), width_per_group=2).double(), ResNet44(width=4).double()
    for network, block, maps in ((deep, deep.layer1[1], wide), (shallow, shallow.stages[0][1], wide[:, :4])):
        assert not torch.equal(block(maps), maps.relu())
        zero_last_gammas(network)
        assert torch.equal(block(maps), maps.relu())


@pytest.mark.parametrize(
    ("network", "count"),
    [(ResNet44, 21), (ResNet50, 16), (WRN16_4, 0), (C1, 0)],
)
def test_zero_last_gammas_sets_one_weight_per_block_in_place(network, count):
    network = evaluated(network())
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    assert zero_last_gammas(network) == count
    changed = [name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])]
    assert len(changed) == count
    assert all(not network.get_parameter(name).any() and ".bn" in name for name in changed)
