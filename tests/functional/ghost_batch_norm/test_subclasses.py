import copy
import io

import pytest
import torch
from functional.batch_norm_subclasses import LEFT_ALONE, SWAPPED, NormAct, Rectified, Tagged
from torch import nn
from torch.nn.utils import parametrize

from lightning_gap.functional import batch_statistics, restore_batch_norm, swap_batch_norm
from lightning_gap.functional.ghost_batch_norm._subclasses import _SlicedGhosts
from lightning_gap.functional.ghost_batch_norm.layers import _BlockwiseGhosts

WAYS = {"joined": _BlockwiseGhosts, "sliced": _SlicedGhosts}
GHOST = 4
sizes = pytest.mark.parametrize("samples", [4, 8, 11])


def both(make):
    """A layer in double precision with random parameters, swapped and as it was."""
    plain = make().double()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(torch.rand_like(parameter))
    ghost = copy.deepcopy(plain)
    assert swap_batch_norm(ghost, GHOST).converted == ("",)
    return ghost, plain


def on_slices(plain, x):
    return torch.cat([plain(part.clone()) for part in x.split(GHOST)])


@sizes
@pytest.mark.parametrize(("make", "sample", "way"), SWAPPED)
def test_a_subclass_does_on_ghosts_what_it_does_on_slices(make, sample, way, samples):
    ghost, plain = both(make)
    assert isinstance(ghost, WAYS[way])
    assert isinstance(ghost, type(plain))
    for _ in range(2):
        x = (torch.randn(samples, *sample, dtype=torch.float64) * 2 + 1).requires_grad_()
        weights = torch.randn(samples, *sample, dtype=torch.float64)
        output, expected = ghost(x), on_slices(plain, x)
        torch.testing.assert_close(output, expected)
        gradients = torch.autograd.grad((output * weights).sum(), [x, *ghost.parameters()])
        on_paper = torch.autograd.grad((expected * weights).sum(), [x, *plain.parameters()])
        torch.testing.assert_close(gradients, on_paper)
    torch.testing.assert_close(dict(ghost.named_buffers()), dict(plain.named_buffers()))
    ghost.load_state_dict(plain.state_dict())  # equal to the bit, too
    ghost.eval()
    plain.eval()
    whole = plain.running_mean is not None
    torch.testing.assert_close(ghost(x), plain(x) if whole else on_slices(plain, x), rtol=0, atol=0 if whole else 1e-9)


@pytest.mark.parametrize(("make", "sample", "way"), SWAPPED)
def test_a_swap_of_a_subclass_keeps_every_object_and_is_undone(make, sample, way):
    layer = make()
    kind, attributes = type(layer), set(vars(layer))
    before = {name: id(value) for name, value in layer.state_dict(keep_vars=True).items()}
    states = torch.random.get_rng_state()
    swap_batch_norm(layer, GHOST)
    assert torch.equal(states, torch.random.get_rng_state())
    assert {name: id(value) for name, value in layer.state_dict(keep_vars=True).items()} == before
    assert restore_batch_norm(layer) == ("",)
    assert type(layer) is kind
    assert set(vars(layer)) == attributes


@pytest.mark.parametrize(("make", "reason"), LEFT_ALONE)
def test_a_subclass_that_a_swap_could_spoil_is_left_alone_with_the_reason(make, reason):
    layer = make(4)
    state = copy.deepcopy(layer.state_dict())
    report = swap_batch_norm(layer, GHOST)
    assert type(layer) is make
    assert "" not in report.converted
    with pytest.raises(ValueError, match=f"{make.__name__} .*{reason}"):
        raise ValueError(report.skipped[""])
    torch.testing.assert_close(layer.state_dict(), state)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_mean_rule_of_a_sliced_subclass_is_that_of_the_layers(momentum):
    sliced, layer = NormAct(4, momentum=momentum), nn.BatchNorm2d(4, momentum=momentum)
    for module in (sliced, layer):
        swap_batch_norm(module, GHOST, running_stats="mean")
        module.eval()(torch.randn(2, 4, 3, 3, requires_grad=True)).sum().backward()
        module.train()
    for samples in (10, 12):
        x = torch.randn(samples, 4, 3, 3) + samples
        early = sliced.eval()(x.clone().requires_grad_())
        sliced.train()(x)
        early.sum().backward()
        layer(x)
    torch.testing.assert_close(sliced.running_mean, layer.running_mean)
    torch.testing.assert_close(sliced.running_var, layer.running_var)
    assert int(sliced.num_batches_tracked) == int(layer.num_batches_tracked) == 2


class Observed(NormAct):
    """Keeps an average of its output, in a new tensor each time, a counter, and a layer that keeps statistics, too."""

    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("average", torch.zeros(channels))
        self.register_buffer("calls", torch.tensor(0))
        self.after = nn.BatchNorm2d(channels)

    def forward(self, x):
        output = super().forward(x)
        if self.training:
            self.average = 0.75 * self.average + 0.25 * output.detach().mean((0, 2, 3))
            self.calls = self.calls + 1
        return self.after(output)


def test_the_mean_rule_is_for_all_buffers_of_a_sliced_subclass():
    ghost, plain = Observed(4).double(), Observed(4).double()
    assert swap_batch_norm(ghost, GHOST, running_stats="mean").converted == ("", "after")
    before = {name: id(value) for name, value in ghost.state_dict(keep_vars=True).items()}
    for samples in (10, 12):
        x = torch.randn(samples, 4, 3, 3, dtype=torch.float64) + samples
        each = [copy.deepcopy(plain) for _ in x.split(GHOST)]
        for layer, part in zip(each, x.split(GHOST), strict=True):
            layer(part)
        shares = [len(part) / samples for part in x.split(GHOST)]
        for name, value in plain.state_dict().items():
            made = [layer.state_dict()[name] for layer in each]
            mean = sum(share * one for share, one in zip(shares, made, strict=True))
            value.copy_(mean if value.is_floating_point() else made[-1])
        ghost(x)
    torch.testing.assert_close(ghost.state_dict(), plain.state_dict())
    assert int(ghost.calls) == int(ghost.num_batches_tracked) == int(ghost.after.num_batches_tracked) == 2
    assert {name: id(value) for name, value in ghost.state_dict(keep_vars=True).items()} == before


@pytest.mark.parametrize("make", [lambda: NormAct(4), lambda: Observed(4)])
def test_the_mean_rule_of_a_sliced_subclass_compiles(make):
    torch.compiler.reset()
    compiled, eager = make().double(), make().double()
    for layer in (compiled, eager):
        swap_batch_norm(layer, GHOST, running_stats="mean")
    x = torch.randn(10, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(compiled, backend="aot_eager", fullgraph=True)(x), eager(x))
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict())


def test_layers_inside_a_subclass_stay_in_the_mode_they_are_in():
    torch.manual_seed(0)
    layer = NormAct(4, drop=0.5)
    swap_batch_norm(layer, GHOST)
    zeros = layer(torch.randn(8, 4, 5, 5)).eq(0).float().mean()
    assert 0.4 < float(zeros) < 0.6
    assert layer.eval()(torch.randn(8, 4, 5, 5)).eq(0).float().mean() == 0


def test_a_weight_of_zero_does_not_hide_what_a_subclass_does():
    layer = Rectified(4)
    nn.init.zeros_(layer.weight)
    assert swap_batch_norm(layer, GHOST).converted == ("",)


def test_methods_and_attributes_of_a_subclass_are_there_while_it_is_a_ghost():
    layer = Tagged(4)
    swap_batch_norm(layer, GHOST)
    assert (layer.tag, layer.doubled(), type(layer).__name__) == ("own", 8, "GhostTagged")
    assert "ghost_batch_size=4" in repr(layer)


@pytest.mark.parametrize("make", [lambda: Tagged(4), lambda: NormAct(4)])
def test_a_swapped_subclass_is_copied_and_saved_whole(make):
    model = nn.Sequential(make())
    swap_batch_norm(model, GHOST)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert type(other[0]) is type(model[0])
        assert other[0].ghost_batch_size == GHOST
        assert restore_batch_norm(other) == ("0",)
        assert type(other[0]) is type(make())


def test_a_parametrized_subclass_keeps_its_parametrization():
    class Positive(nn.Module):
        def forward(self, x):
            return x.exp()

    layer = NormAct(4).double()
    parametrize.register_parametrization(layer, "weight", Positive())
    x = torch.randn(8, 4, 3, 3, dtype=torch.float64)
    expected = on_slices(layer, x)
    assert swap_batch_norm(layer, GHOST).converted == ("",)
    torch.testing.assert_close(layer(x), expected)
    assert restore_batch_norm(layer) == ("",)
    assert isinstance(layer, NormAct)


def test_layers_without_values_yet_are_swapped():
    with torch.device("meta"):
        layer = NormAct(4)
    assert swap_batch_norm(layer, GHOST).converted == ("",)
    assert layer.weight.is_meta


def test_batch_statistics_take_the_whole_batch_in_a_sliced_subclass():
    ghost, plain = both(lambda: NormAct(4))
    x = torch.randn(8, 4, 3, 3, dtype=torch.float64)
    with batch_statistics(ghost):
        torch.testing.assert_close(ghost(x), plain(x))


@pytest.mark.parametrize("make", [lambda: Rectified(4), lambda: NormAct(4)])
def test_a_subclass_compiles(make):
    torch.compiler.reset()
    ghost, plain = both(make)
    x = torch.randn(8, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(ghost, backend="aot_eager", fullgraph=True)(x), on_slices(plain, x))
    torch.testing.assert_close(ghost.running_var, plain.running_var)


@pytest.mark.parametrize("make", [lambda: Rectified(4), lambda: NormAct(4)])
def test_torch_fx_keeps_a_subclass_whole(make):
    ghost, plain = both(make)
    traced = torch.fx.symbolic_trace(nn.Sequential(ghost, nn.Tanh()))
    x = torch.randn(8, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(traced(x), on_slices(plain, x).tanh())


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning")
def test_scripting_a_subclass_says_what_to_do_and_that_works():
    model = nn.Sequential(NormAct(4)).eval()
    swap_batch_norm(model, GHOST)
    with pytest.raises(RuntimeError, match=r"GhostNormAct cannot be scripted: call restore_batch_norm\(model\) first"):
        torch.jit.script(model)
    restore_batch_norm(model)
    assert type(model[0]) is NormAct


def test_a_second_tensor_is_refused():
    class Masked(nn.BatchNorm1d):
        def forward(self, x, mask=None):
            output = nn.BatchNorm1d.forward(self, x)
            return output if mask is None else output * mask

    layer = Masked(4)
    assert swap_batch_norm(layer, GHOST).converted == ("",)
    with pytest.raises(TypeError, match="takes one tensor, which it cuts into ghosts; got several"):
        layer(torch.randn(8, 4), torch.ones(8, 1))
