import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_gap.functional import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    restore_batch_norm,
    swap_batch_norm,
)

PAIRS = [(nn.BatchNorm1d, GhostBatchNorm1d), (nn.BatchNorm2d, GhostBatchNorm2d), (nn.BatchNorm3d, GhostBatchNorm3d)]


def ghosts_on_paper(samples, size, positions):
    """Index ranges of the ghosts, written out from the rule."""
    ranges = [range(start, min(start + size, samples)) for start in range(0, samples, size)]
    if len(ranges) > 1 and len(ranges[-1]) * positions == 1:
        ranges[-2:] = [range(ranges[-2].start, samples)]
    return ranges


def on_paper(x, layer, size, running_mean, running_var, count):
    """The formula of section 1 of the method, ghost by ghost, with its own running statistics."""
    positions = x[0, 0].numel()
    shape = (1, -1) + (1,) * (x.ndim - 2)
    outputs = []
    for ghost in ghosts_on_paper(len(x), size, positions):
        part = x[list(ghost)]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean = part.mean(axes)
        variance = ((part - mean.view(shape)) ** 2).mean(axes)
        values = len(ghost) * positions
        outputs.append((part - mean.view(shape)) / torch.sqrt(variance.view(shape) + layer.eps))
        count += 1
        weight = 1 / count if layer.momentum is None else layer.momentum
        running_mean = (1 - weight) * running_mean + weight * mean.detach()
        running_var = (1 - weight) * running_var + weight * variance.detach() * values / (values - 1)
    y = torch.cat(outputs)
    if layer.affine:
        y = y * layer.weight.view(shape) + layer.bias.view(shape)
    return y, running_mean, running_var, count


def check_two_steps(layer, size, shape):
    """Output, gradients and running statistics over two steps: the second catches a wrong starting weight."""
    generator = torch.Generator().manual_seed(0)
    mean, var, count = torch.zeros(shape[1]).double(), torch.ones(shape[1]).double(), 0
    for _ in range(2):
        x = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        upstream = torch.randn(shape, generator=generator, dtype=torch.float64)
        expected, mean, var, count = on_paper(x, layer, size, mean, var, count)
        y = layer(x)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
        wanted = [x, *layer.parameters()]
        gradients = torch.autograd.grad((y * upstream).sum(), wanted)
        on_paper_gradients = torch.autograd.grad((expected * upstream).sum(), wanted)
        for gradient, reference in zip(gradients, on_paper_gradients, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer.running_mean, mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.running_var, var, rtol=0, atol=1e-12)
    assert int(layer.num_batches_tracked) == count


def random_affine(layer):
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("positions", [1, 9])
@pytest.mark.parametrize("samples", [2, 3, 4, 5, 7, 8, 9, 14])  # around one, two and three ghosts of four
def test_agrees_with_the_formula_over_the_leftover_grid(samples, positions):
    shape = (samples, 3) if positions == 1 else (samples, 3, 3, 3)
    kind = GhostBatchNorm1d if positions == 1 else GhostBatchNorm2d
    check_two_steps(random_affine(kind(3, ghost_batch_size=4).double()), 4, shape)


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(2, 40),
    channels=st.integers(1, 4),
    size=st.integers(2, 12),
    positions=st.sampled_from([(), (3,), (2, 2), (2, 1, 2)]),
    momentum=st.sampled_from([0.1, 0.5, 1.0, None]),
    affine=st.booleans(),
)
def test_agrees_with_the_formula_for_any_shape(samples, channels, size, positions, momentum, affine):
    kind = {0: GhostBatchNorm1d, 1: GhostBatchNorm1d, 2: GhostBatchNorm2d, 3: GhostBatchNorm3d}[len(positions)]
    layer = kind(channels, ghost_batch_size=size, momentum=momentum, affine=affine).double()
    check_two_steps(random_affine(layer), size, (samples, channels, *positions))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_one_ghost_is_batch_norm_bit_for_bit(momentum):
    plain = nn.BatchNorm2d(3, momentum=momentum)
    ghost = GhostBatchNorm2d(3, ghost_batch_size=16, momentum=momentum)
    x = torch.randn(16, 3, 4, 4)
    assert torch.equal(plain(x), ghost(x))
    assert all(torch.equal(plain.state_dict()[key], value) for key, value in ghost.state_dict().items())


@pytest.mark.parametrize("samples", [1, 3, 50])
def test_evaluation_is_batch_norm_bit_for_bit_at_any_batch_size(samples):
    plain = nn.BatchNorm1d(3)
    plain(torch.randn(20, 3))
    ghost = GhostBatchNorm1d(3, ghost_batch_size=4)
    ghost.load_state_dict(plain.state_dict())
    x = torch.randn(samples, 3)
    assert torch.equal(plain.eval()(x), ghost.eval()(x))


def test_without_running_statistics_evaluation_is_ghosted_too():
    layer = GhostBatchNorm1d(3, ghost_batch_size=4, track_running_stats=False)
    x = torch.randn(12, 3)
    assert torch.equal(layer(x), layer.eval()(x))


def test_ghosts_do_not_see_each_other():
    layer = GhostBatchNorm1d(3, ghost_batch_size=4)
    x = torch.randn(12, 3)
    shifted = x.clone()
    shifted[4:8] += 100
    before, after = layer(x), layer(shifted)
    assert torch.equal(before[:4], after[:4])
    assert torch.equal(before[8:], after[8:])
    torch.testing.assert_close(before[4:8], after[4:8], rtol=1e-3, atol=1e-3)


def test_a_network_on_the_batch_equals_the_network_on_its_slices():
    torch.manual_seed(0)
    ghosted = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4), nn.BatchNorm1d(4)).double()
    plain = copy.deepcopy(ghosted)
    swap_batch_norm(ghosted, 8)
    x = torch.randn(20, 5, dtype=torch.float64)
    torch.testing.assert_close(ghosted(x), torch.cat([plain(part) for part in x.split(8)]), rtol=0, atol=1e-13)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(buffer, ghosted.get_buffer(name), rtol=0, atol=1e-13)


def test_second_derivatives_are_right():
    layer = GhostBatchNorm1d(2, ghost_batch_size=3).double()
    x = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


@pytest.mark.parametrize(("plain", "ghost"), PAIRS)
def test_swap_keeps_every_object_and_restore_undoes_it(plain, ghost):
    model = nn.Sequential(nn.Conv1d(2, 3, 1), plain(3))
    calls = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    keys, attributes = list(model.state_dict()), set(vars(model[1]))
    assert swap_batch_norm(model, 4).converted == ("1",)
    assert type(model[1]) is ghost
    assert {id(tensor) for tensor in [*model.parameters(), *model.buffers()]} == before
    assert optimizer.param_groups[0]["params"][2] is model[1].weight
    assert list(model.state_dict()) == keys
    assert restore_batch_norm(model) == ("1",)
    assert type(model[1]) is plain
    assert set(vars(model[1])) == attributes


def test_swapping_again_changes_the_size():
    model = nn.Sequential(nn.BatchNorm1d(3))
    swap_batch_norm(model, 4)
    report = swap_batch_norm(model, 8)
    assert (report.converted, report.changed["0"]["ghost_batch_size"], model[0].ghost_batch_size) == ((), 4, 8)


def test_the_root_itself_can_be_swapped():
    layer = nn.BatchNorm2d(3)
    assert swap_batch_norm(layer, 4).converted == ("",)
    assert isinstance(layer, GhostBatchNorm2d)


def test_a_shared_layer_is_swapped_once():
    shared = nn.BatchNorm1d(3)
    assert len(swap_batch_norm(nn.Sequential(shared, nn.ReLU(), shared), 4).converted) == 1


def test_layers_with_a_forward_of_their_own_are_left_alone_and_reported():
    class Own(nn.BatchNorm1d):
        pass

    model = nn.ModuleDict(
        {"own": Own(3), "sync": nn.SyncBatchNorm(3), "lazy": nn.LazyBatchNorm1d(), "instance": nn.InstanceNorm1d(3)}
    )
    report = swap_batch_norm(model, 4)
    assert report.converted == ()
    assert set(report.skipped) == {"own", "sync", "lazy"}
    assert type(model["own"]) is Own


def test_a_swapped_model_can_be_saved_whole_and_its_weights_load_without_us():
    model = nn.Sequential(nn.BatchNorm1d(3))
    swap_batch_norm(model, 4)
    model(torch.randn(9, 3))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.load(file, weights_only=False)[0].ghost_batch_size == 4
    plain = nn.Sequential(nn.BatchNorm1d(3))
    plain.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(plain[0].running_mean, model[0].running_mean)


def test_an_empty_batch_is_passed_on_as_batch_norm_does():
    layer, plain = GhostBatchNorm2d(3, ghost_batch_size=4).eval(), nn.BatchNorm2d(3).eval()
    assert layer(torch.empty(0, 3, 2, 2)).shape == plain(torch.empty(0, 3, 2, 2)).shape


def test_the_layer_says_its_ghost_size():
    assert "ghost_batch_size=4" in repr(GhostBatchNorm1d(3, ghost_batch_size=4))


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_below_one_is_refused(size):
    with pytest.raises(ValueError, match=rf"ghost_batch_size must be at least 1 sample, got {size}"):
        swap_batch_norm(nn.BatchNorm1d(3), size)


@pytest.mark.parametrize("size", [True, 2.5, "32", None, float("nan")])
def test_a_size_that_is_no_integer_is_refused(size):
    with pytest.raises(TypeError, match="ghost_batch_size must be an integer number of samples, got"):
        GhostBatchNorm1d(3, ghost_batch_size=size)


def test_a_refused_size_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="ghost_batch_size"):
        swap_batch_norm(model, 0)
    assert type(model[0]) is nn.BatchNorm1d


def test_one_value_per_channel_is_refused_as_batch_norm_does():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        GhostBatchNorm1d(3, ghost_batch_size=1)(torch.randn(4, 3))


def test_a_wrong_rank_is_refused_as_batch_norm_does():
    with pytest.raises(ValueError, match="expected 4D input"):
        GhostBatchNorm2d(3, ghost_batch_size=2)(torch.randn(8, 3))
