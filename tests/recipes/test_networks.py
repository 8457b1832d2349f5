import inspect
import math
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap import swap_batch_norm
from lightning_gap.recipes.networks import C1, C2, C3, C4, F1, F2, WRN16_4, ResNet44, ResNet50

PARAMETERS = {
    F1: 1_462_794,
    F2: 2_780_085,
    C1: 1_757_834,
    partial(C1, variant="paper"): 283_274,
    C2: 14_991_946,
    partial(C2, variant="paper"): 14_991_946,
    C3: 1_775_204,
    C4: 15_038_116,
    ResNet44: 661_338,
    WRN16_4: 2_748_890,
    ResNet50: 25_557_032,
}
# Without dropout, and as small as the arguments allow.
TINY = {
    "F1": partial(F1, 3 * 32 * 32, 5, width=6, depth=2),
    "F2": partial(F2, 3 * 32 * 32, 5, width=6),
    "C1": partial(C1, 5, channels=3, dense=(7, 6), dropout=False),
    "C1 of the paper": partial(C1, 5, variant="paper", channels=3, dense=(7, 6), dropout=False),
    "C2": partial(C2, 5, width=2, dense=6, dropout=False),
    "C3": partial(C3, 5, channels=3, dense=(7, 6), dropout=False),
    "C4": partial(C4, 5, width=2, dense=6, dropout=False),
    "ResNet-44": partial(ResNet44, 5, width=3, blocks=1),
    "WRN-16-4": partial(WRN16_4, 5, depth=10, widen=2, width=2),
    "ResNet-50": partial(ResNet50, 5, blocks=(1, 1, 1, 1), width_per_group=2),
}
PAPERS = {
    # Keskar et al., Appendix B, and `shallownet` and `deepnet` of their code
    F1: "flatten dense512 dense512 dense512 dense512 dense512 out10",
    F2: "flatten dense512 dense512 dense512 dense512 dense512 dense512 dense512 out1973",
    C1: "conv64,5,1 pool3,2 conv64,5,1 pool3,2 flatten dense384 drop0.5 dense192 drop0.5 out10",
    partial(C1, variant="paper"): "conv64,5,2 pool3,2 conv64,5,2 pool3,2 flatten"
    " dense384 drop0.5 dense192 drop0.5 out10",
    C2: "conv64,3,1 drop0.3 conv64,3,1 pool2,2"
    " conv128,3,1 drop0.4 conv128,3,1 pool2,2"
    " conv256,3,1 drop0.4 conv256,3,1 drop0.4 conv256,3,1 pool2,2"
    " conv512,3,1 drop0.4 conv512,3,1 drop0.4 conv512,3,1 pool2,2"
    " conv512,3,1 drop0.4 conv512,3,1 drop0.4 conv512,3,1 pool2,2"
    " flatten drop0.5 dense512 drop0.5 out10",
    partial(C2, variant="paper"): "conv64,3,1 conv64,3,1 pool2,2"
    " conv128,3,1 conv128,3,1 pool2,2"
    " conv256,3,1 conv256,3,1 conv256,3,1 pool2,2"
    " conv512,3,1 conv512,3,1 conv512,3,1 pool2,2"
    " conv512,3,1 conv512,3,1 conv512,3,1 pool2,2"
    " flatten dense512 drop0.5 out10",
}
KESKAR = [name for name in TINY if name[0] in "FC"]


def name_of(network):
    """The class, and the variant where it is not the default."""
    return f"{network.func.__name__}-paper" if isinstance(network, partial) else network.__name__


def described(network):
    """Layers in order: hidden ones, convolution or linear, stand for themselves with a BatchNorm and a ReLU."""
    layers = list(network.layers)
    while layers:
        layer = layers.pop(0)
        if isinstance(layer, nn.Conv2d):
            assert layer.padding == (layer.kernel_size[0] // 2,) * 2
            yield f"conv{layer.out_channels},{layer.kernel_size[0]},{layer.stride[0]}"
        elif isinstance(layer, nn.MaxPool2d):
            yield f"pool{layer.kernel_size},{layer.stride}"
        elif isinstance(layer, nn.Flatten):
            yield "flatten"
        elif isinstance(layer, nn.Linear):
            yield f"dense{layer.out_features}" if layers else f"out{layer.out_features}"
        else:
            assert isinstance(layer, nn.Dropout), layer
            if layer.p:
                yield f"drop{layer.p}"
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layers:
            norm = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
            assert [type(layers.pop(0)), type(layers.pop(0))] == [norm, nn.ReLU]


def images_and_labels(samples=8):
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(samples, 3, 32, 32, generator=draw, dtype=torch.float64)
    return images, torch.randint(5, (samples,), generator=draw)


def built(name, seed=0):
    torch.manual_seed(seed)
    return TINY[name]().double()


@pytest.mark.parametrize("network", PARAMETERS, ids=name_of)
def test_networks_have_the_published_number_of_parameters(network):
    with torch.device("meta"):
        assert sum(p.numel() for p in network().parameters()) == PARAMETERS[network]


@pytest.mark.parametrize("network", PAPERS, ids=name_of)
def test_keskars_networks_are_the_published_tables(network):
    with torch.device("meta"):
        assert list(described(network())) == PAPERS[network].split()


@pytest.mark.parametrize(("network", "base"), [(C3, C1), (C4, C2)])
@pytest.mark.parametrize("variant", ["code", "paper"])
def test_c3_and_c4_are_c1_and_c2_with_a_hundred_classes(network, base, variant):
    with torch.device("meta"):
        small, large = base(variant=variant), network(variant=variant)
        assert list(described(large)) == [*list(described(small))[:-1], "out100"]
        assert large.layers[-1].in_features == small.layers[-1].in_features


@pytest.mark.parametrize("network", [C1, C2, C3, C4])
def test_an_unknown_variant_is_refused_with_the_known_ones(network):
    with pytest.raises(ValueError, match=r"variant .*'code'.*'paper'.* 'text'"):
        network(variant="text")


COUNTS = [
    (network, name)
    for network in (F1, F2, C1, C2, C3, C4, ResNet44, WRN16_4, ResNet50)
    for name, parameter in inspect.signature(network).parameters.items()
    if type(parameter.default) is int and (network, name) != (WRN16_4, "depth")
]


@pytest.mark.parametrize("value", [-3, 0, 2.5, True, "16", None, [16]])
@pytest.mark.parametrize(("network", "name"), COUNTS)
def test_what_counts_something_must_be_a_whole_number_of_at_least_1(network, name, value):
    with pytest.raises(ValueError, match=f"^{name} .*at least 1.* {re.escape(repr(value))}"):
        network(**{name: value})


@pytest.mark.parametrize("network", [C1, C3])
@pytest.mark.parametrize("dense", [384, (384,), [384, 192, 10], (384, 0), [7, 6.0], [True, 6], "76", None])
def test_the_dense_layers_of_c1_must_be_two_counts(network, dense):
    message = f"dense must be 2 whole numbers, each at least 1, got {dense!r}; for instance [384, 192]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        network(dense=dense)


@pytest.mark.parametrize("network", [C1, C3])
def test_the_dense_layers_of_c1_may_be_a_list_as_yaml_gives_it(network):
    with torch.device("meta"):
        assert "dense7 drop0.5 dense6" in " ".join(described(network(dense=[7, 6])))


@pytest.mark.parametrize("name", TINY)
def test_networks_give_one_score_per_class(name):
    images, _ = images_and_labels(2)
    assert built(name).eval()(images).shape == (2, 5)


def test_f1_flattens_images_and_has_a_small_version():
    assert F1(64, 7, width=8, depth=2)(torch.zeros(5, 1, 8, 8)).shape == (5, 7)


@pytest.mark.parametrize(("variant", "size"), [("code", 8), ("paper", 2)])
def test_c1_reduces_its_images_twice(variant, size):
    network = C1(7, variant=variant, channels=4, dense=(6, 5))
    assert network.layers[:8](torch.zeros(2, 3, 32, 32)).shape == (2, 4, size, size)


@pytest.mark.parametrize("network", [F1, F2, C1, C2], ids=name_of)
def test_keskars_networks_start_glorot_uniform_with_zero_biases(network):
    torch.manual_seed(0)
    weights = [layer for layer in network().requires_grad_(False).layers if isinstance(layer, (nn.Linear, nn.Conv2d))]
    assert weights
    for layer in weights:
        out, into, *kernel = layer.weight.shape
        limit = math.sqrt(6 / ((into + out) * math.prod(kernel)))
        assert float(layer.weight.abs().max()) <= limit
        assert float(layer.weight.std()) == pytest.approx(limit / math.sqrt(3), rel=0.03)
        assert layer.bias.shape == (out,)
        assert not layer.bias.any()


@pytest.mark.parametrize("name", [name for name in KESKAR if name[0] == "C"])
def test_dropout_is_random_in_training_and_can_be_switched_off(name):
    images, _ = images_and_labels()
    still, dropping = built(name), TINY[name](dropout=True).double()
    dropping.load_state_dict(still.state_dict())
    assert torch.equal(still(images), still(images))
    assert not torch.equal(dropping(images), dropping(images))
    dropping.load_state_dict(still.state_dict())
    assert torch.equal(dropping.eval()(images), still.eval()(images))


@pytest.mark.parametrize("name", TINY)
def test_a_seed_decides_the_initial_weights(name):
    first, again, other = (torch.cat([p.flatten() for p in built(name, seed).parameters()]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", TINY)
def test_a_step_against_the_gradient_lowers_the_loss(name):
    network, (images, labels) = built(name), images_and_labels()
    before = cross_entropy(network(images), labels)
    before.backward()
    norm = nn.utils.get_total_norm([p.grad for p in network.parameters()])
    assert 0 < norm < math.inf
    step = 1e-6
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= step * parameter.grad / norm
        fall = float(before - cross_entropy(network(images), labels))
    assert fall == pytest.approx(step * float(norm), rel=0.01)  # as a short step should, to first order


@pytest.mark.parametrize("name", TINY)
def test_ghosts_normalise_every_layer_as_separate_small_batches_would(name):
    network, (images, _) = built(name), images_and_labels()
    parts = torch.cat([network(part) for part in images.split(4)])
    norms = [name for name, layer in network.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    report = swap_batch_norm(network, 4)
    assert (list(report.converted), report.skipped) == (norms, {})
    torch.testing.assert_close(network(images), parts)
