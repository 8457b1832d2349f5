import copy
import inspect
import math
import pickle

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from lightning_gap.functional import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    swap_batch_norm,
)
from lightning_gap.functional.ghost_batch_norm.layers import _update_weights


def ghosts_on_paper(samples, size, positions, leftover):
    """Index ranges of the ghosts, written out from the rule."""
    if leftover == "balance":
        ghosts = min(max(1, math.floor(samples / size + 0.5)), max(1, samples // (1 if positions > 1 else 2)))
        return [part.tolist() for part in numpy.array_split(range(samples), ghosts)]
    ranges = [range(start, min(start + size, samples)) for start in range(0, samples, size)]
    if len(ranges) > 1 and len(ranges[-1]) * positions == 1:
        ranges[-2:] = [range(ranges[-2].start, samples)]
    return ranges


def on_paper(x, layer, size, running_mean, running_var, count):
    """The formula of section 1 of the method, ghost by ghost, with its own running statistics."""
    positions = x[0, 0].numel()
    shape = (1, -1) + (1,) * (x.ndim - 2)
    outputs, news = [], []
    for ghost in ghosts_on_paper(len(x), size, positions, layer.leftover):
        part = x[list(ghost)]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean = part.mean(axes)
        variance = ((part - mean.view(shape)) ** 2).mean(axes)
        values = len(ghost) * positions
        outputs.append((part - mean.view(shape)) / torch.sqrt(variance.view(shape) + layer.eps))
        news.append((len(ghost) / len(x), mean.detach(), variance.detach() * values / (values - 1)))
    if layer.running_stats == "mean":
        news = [(1.0, *(sum(share * new[index] for share, *new in news) for index in (0, 1)))]
    for _, mean, variance in news:
        count += 1
        weight = 1 / count if layer.momentum is None else layer.momentum
        running_mean = (1 - weight) * running_mean + weight * mean
        running_var = (1 - weight) * running_var + weight * variance
    y = torch.cat(outputs)
    if layer.affine:
        y = y * layer.weight.view(shape) + layer.bias.view(shape)
    return y, running_mean, running_var, count


def check_two_steps(layer, size, shape):
    """Output, gradients and running statistics over two steps: the second catches a wrong starting weight."""
    generator = torch.Generator().manual_seed(0)
    mean, var, count = torch.zeros(shape[1]).double(), torch.ones(shape[1]).double(), 0
    for _ in range(3):  # a cumulative mean has weights 0, 1/2 and 2/3
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


POLICIES = [(leftover, rule) for leftover in ("merge", "balance") for rule in ("sequential", "mean")]


@pytest.mark.parametrize(("leftover", "rule"), POLICIES)
@pytest.mark.parametrize("positions", [1, 9])
@pytest.mark.parametrize("samples", [2, 3, 4, 5, 7, 8, 9, 14])  # around one, two and three ghosts of four
def test_agrees_with_the_formula_over_the_leftover_grid(samples, positions, leftover, rule):
    shape = (samples, 3) if positions == 1 else (samples, 3, 3, 3)
    kind = GhostBatchNorm1d if positions == 1 else GhostBatchNorm2d
    layer = kind(3, ghost_batch_size=4, leftover=leftover, running_stats=rule).double()
    check_two_steps(random_affine(layer), 4, shape)


@settings(max_examples=100, deadline=None)
@given(
    samples=st.integers(2, 40),
    channels=st.integers(1, 4),
    size=st.integers(2, 12),
    positions=st.sampled_from([(), (3,), (2, 2), (2, 1, 2)]),
    momentum=st.sampled_from([0.0, 0.1, 0.5, 1.0, None]),
    affine=st.booleans(),
    policy=st.sampled_from(POLICIES),
)
def test_agrees_with_the_formula_for_any_shape(samples, channels, size, positions, momentum, affine, policy):
    kind = {0: GhostBatchNorm1d, 1: GhostBatchNorm1d, 2: GhostBatchNorm2d, 3: GhostBatchNorm3d}[len(positions)]
    leftover, rule = policy
    layer = kind(
        channels, ghost_batch_size=size, momentum=momentum, affine=affine, leftover=leftover, running_stats=rule
    ).double()
    check_two_steps(random_affine(layer), size, (samples, channels, *positions))


@pytest.mark.parametrize("rule", ["sequential", "mean"])
def test_running_statistics_weigh_ghosts_as_the_rule_says(rule):
    layer = GhostBatchNorm1d(1, ghost_batch_size=2, running_stats=rule)
    fingerprint = torch.tensor([1.0, 100.0, 10_000.0]).repeat_interleave(2)[:, None]
    layer(fingerprint)
    weights = [0.1 * 0.9**2, 0.1 * 0.9, 0.1] if rule == "sequential" else [0.1 / 3] * 3
    expected = weights[0] + 100 * weights[1] + 10_000 * weights[2]
    torch.testing.assert_close(float(layer.running_mean), expected, rtol=1e-6, atol=0)
    assert int(layer.num_batches_tracked) == (3 if rule == "sequential" else 1)


@pytest.mark.bad_input(10)
def test_running_statistics_of_the_sequential_rule_are_those_of_batch_norm_on_the_slices():
    ghost, plain = GhostBatchNorm1d(3, ghost_batch_size=32), nn.BatchNorm1d(3)
    for _ in range(3):
        x = torch.randn(1000, 3)
        ghost(x)
        for part in x.split(32):
            plain(part)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(ghost.get_buffer(name), buffer, rtol=1e-5, atol=1e-6)


def test_buffers_are_updated_where_they_are_and_carry_no_graph():
    layer = GhostBatchNorm1d(3, ghost_batch_size=4)
    before = [buffer.data_ptr() for buffer in layer.buffers()]
    layer(torch.randn(12, 3, requires_grad=True))
    assert [buffer.data_ptr() for buffer in layer.buffers()] == before
    assert not any(buffer.requires_grad for buffer in layer.buffers())


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


@pytest.mark.bad_input(10)
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


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.bad_input(16)
def test_an_empty_batch_is_passed_on_as_batch_norm_does(mode):
    layer, plain = GhostBatchNorm2d(3, ghost_batch_size=4).train(mode), nn.BatchNorm2d(3).train(mode)
    empty = torch.empty(0, 3, 2, 2)
    assert torch.equal(layer(empty), plain(empty))
    assert torch.equal(layer.running_mean, torch.zeros(3))


def test_frozen_statistics_stay_frozen():
    layer = GhostBatchNorm1d(3, ghost_batch_size=4).eval()
    layer(torch.randn(12, 3))
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert int(layer.num_batches_tracked) == 0


def test_the_size_may_change_at_any_time():
    layer, x = GhostBatchNorm1d(3, ghost_batch_size=4), torch.randn(12, 3)
    first = layer(x)
    layer.ghost_batch_size = 6
    torch.testing.assert_close(layer(x), torch.cat([nn.BatchNorm1d(3)(part) for part in x.split(6)]))
    layer.ghost_batch_size = 4
    assert torch.equal(layer(x), first)


def test_ghosts_of_one_sample_are_instance_norm():
    x = torch.randn(6, 3, 4, 4)
    torch.testing.assert_close(GhostBatchNorm2d(3, ghost_batch_size=1)(x), nn.InstanceNorm2d(3)(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.bad_input(16)
def test_half_precision_input_keeps_its_type_and_the_statistics_theirs(dtype):
    layer = GhostBatchNorm2d(3, ghost_batch_size=4)
    exact = GhostBatchNorm2d(3, ghost_batch_size=4)
    x = torch.randn(12, 3, 4, 4).to(dtype)
    assert layer(x).dtype == dtype
    exact(x.float())
    assert layer.running_var.dtype == torch.float32
    torch.testing.assert_close(layer.running_var, exact.running_var, rtol=1e-6, atol=0)


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
@pytest.mark.parametrize("rule", ["sequential", "mean"])
def test_function_transforms_find_the_same_gradients_and_running_statistics(rule, momentum):
    torch.manual_seed(0)
    ghost = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, momentum=momentum), nn.Tanh(), nn.Linear(6, 1)).double()
    swap_batch_norm(ghost, 8, running_stats=rule)
    usual = copy.deepcopy(ghost)
    for _ in range(2):
        x = torch.randn(20, 5, dtype=torch.float64)
        usual.zero_grad()
        usual(x).square().mean().backward()
        # BatchNorm, too, wants its buffers as arguments here.
        found = torch.func.grad(lambda p, b, x: torch.func.functional_call(ghost, (p, b), (x,)).square().mean())(
            dict(ghost.named_parameters()), dict(ghost.named_buffers()), x
        )
    for name, parameter in usual.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-12)
    for name, buffer in usual.named_buffers():
        torch.testing.assert_close(ghost.get_buffer(name), buffer, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by forward mode itself
def test_forward_mode_leaves_no_tangent_in_the_running_statistics():
    layer, usual = (GhostBatchNorm1d(3, ghost_batch_size=4).double() for _ in range(2))
    x = torch.randn(12, 3, dtype=torch.float64)
    with forward_ad.dual_level():
        layer(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(layer.running_mean).tangent is None
    usual(x)
    torch.testing.assert_close(layer.running_var, usual.running_var, rtol=0, atol=1e-12)


def test_nothing_of_a_transform_or_of_fake_tensors_is_kept():
    _update_weights.cache_clear()
    layer = GhostBatchNorm1d(3, ghost_batch_size=4)
    x = torch.randn(12, 3)
    state = dict(layer.named_parameters()), dict(layer.named_buffers())
    torch.func.grad(lambda x, *state: torch.func.functional_call(layer, state, (x,)).square().sum())(x, *state)
    with FakeTensorMode():
        GhostBatchNorm1d(3, ghost_batch_size=4)(torch.randn(12, 3))
    assert _update_weights.cache_info().currsize == 0
    layer(x)
    assert _update_weights.cache_info().currsize == 1
    assert int(layer.num_batches_tracked) == 6


def test_vmap_works_without_running_statistics_as_in_batch_norm():
    layer = GhostBatchNorm1d(3, ghost_batch_size=4, track_running_stats=False)
    x = torch.randn(2, 12, 3)
    torch.testing.assert_close(torch.func.vmap(layer)(x), torch.stack([layer(part) for part in x]))


def test_hessian_vector_products_are_those_of_the_slices():
    torch.manual_seed(0)
    ghost = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)).double()
    plain = copy.deepcopy(ghost)
    swap_batch_norm(ghost, 8)
    x = torch.randn(20, 5, dtype=torch.float64)
    products = []
    for model, batches in ((ghost, [x]), (plain, x.split(8))):
        parameters = list(model.parameters())
        loss = torch.cat([model(batch) for batch in batches]).square().mean()
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        products.append(torch.autograd.grad(sum(gradient.sum() for gradient in gradients), parameters))
    for found, expected in zip(*products, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("rule", "momentum"),
    [
        ("sequential", 0.1),
        ("mean", None),
        pytest.param("sequential", None, marks=pytest.mark.slow),
        pytest.param("mean", 0.1, marks=pytest.mark.slow),
    ],
)
def test_it_compiles_whole_with_its_running_statistics(momentum, rule):
    torch.compiler.reset()
    layer = GhostBatchNorm2d(3, ghost_batch_size=4, momentum=momentum, running_stats=rule)
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for samples in (16, 32, 48, 51, 30):
        x = torch.randn(samples, 3, 2, 2)
        torch.testing.assert_close(compiled(x), eager(x), rtol=1e-5, atol=1e-5)
    for name, buffer in eager.named_buffers():
        torch.testing.assert_close(layer.get_buffer(name), buffer)
    plain = nn.BatchNorm2d(3).eval()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(5, 3, 2, 2)
    outputs = [torch.compile(module, fullgraph=True, backend="aot_eager")(x) for module in (layer.eval(), plain)]
    assert torch.equal(*outputs)


@pytest.mark.slow
def test_it_compiles_to_machine_code():
    torch.compiler.reset()
    layer = GhostBatchNorm2d(3, ghost_batch_size=4)
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True)
    for samples in (16, 32, 51):
        x = torch.randn(samples, 3, 2, 2).requires_grad_()
        y = x.detach().clone().requires_grad_()
        compiled(x).square().sum().backward()
        eager(y).square().sum().backward()
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.running_var, eager.running_var)


def test_evaluation_exports_as_batch_norm():
    layer = GhostBatchNorm2d(3, ghost_batch_size=4).eval()
    exported = torch.export.export(layer, (torch.randn(2, 3, 4, 4),))
    operations = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert operations == {"aten.batch_norm.default"}


@pytest.mark.parametrize("kind", [GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d])
def test_a_layer_that_was_saved_when_all_were_in_one_file_loads(kind):
    saved = pickle.dumps(kind(3, ghost_batch_size=2), protocol=0)  # which names classes in plain text
    path = kind.__module__.encode()
    assert path in saved
    loaded = pickle.loads(saved.replace(path, path.rpartition(b".")[0]))
    assert type(loaded) is kind
    assert loaded.ghost_batch_size == 2


def test_the_layer_says_its_settings():
    text = repr(GhostBatchNorm1d(3, ghost_batch_size=4, leftover="balance", running_stats="mean"))
    assert "ghost_batch_size=4, leftover='balance', running_stats='mean'" in text


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: GhostBatchNorm1d(3, ghost_batch_size=4, **options),
        lambda **options: swap_batch_norm(nn.BatchNorm1d(3), 4, **options),
    ],
    ids=["layer", "swap"],
)
def test_unknown_policies_are_refused(make):
    with pytest.raises(ValueError, match="leftover must be one of 'merge', 'balance', 'error', got 'drop'"):
        make(leftover="drop")
    with pytest.raises(ValueError, match="running_stats must be one of 'sequential', 'mean', got 'last'"):
        make(running_stats="last")


def test_a_leftover_is_refused_in_training_only():
    layer = GhostBatchNorm1d(3, ghost_batch_size=4, leftover="error", track_running_stats=False)
    layer(torch.randn(8, 3))
    with pytest.raises(ValueError, match=r"a batch of 9 samples leaves 1 over with ghost_batch_size=4"):
        layer(torch.randn(9, 3))
    layer.eval()(torch.randn(9, 3))


def test_one_value_per_channel_is_refused_as_batch_norm_does():
    with pytest.raises(ValueError, match=r"Expected more than 1 value per channel .*ghost_batch_size=1"):
        GhostBatchNorm1d(3, ghost_batch_size=1)(torch.randn(4, 3))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        GhostBatchNorm1d(3, ghost_batch_size=4)(torch.randn(1, 3))


@pytest.mark.parametrize("kind", [GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d])
def test_a_wrong_rank_is_refused_as_batch_norm_does(kind):
    with pytest.raises(ValueError, match=r"expected .*D input \(got 0D input\)"):
        kind(3, ghost_batch_size=2)(torch.tensor(1.0))


def test_integer_input_is_refused_as_batch_norm_does():
    with pytest.raises(RuntimeError, match="not implemented for 'Long'"):
        GhostBatchNorm1d(3, ghost_batch_size=2)(torch.ones(8, 3, dtype=torch.long))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_missing_buffers_are_taken_as_batch_norm_takes_them(momentum):
    ghost, plain = GhostBatchNorm1d(3, ghost_batch_size=4, momentum=momentum), nn.BatchNorm1d(3, momentum=momentum)
    x = torch.randn(8, 3)
    for layer in (ghost, plain):
        layer.num_batches_tracked = None
    ghost(x)
    for part in x.split(4):
        plain(part)
    torch.testing.assert_close(ghost.running_var, plain.running_var)
    ghost.running_mean = ghost.running_var = None
    ghost(x)


def test_a_layer_without_bias_is_made_where_torch_makes_one():
    if "bias" not in inspect.signature(nn.BatchNorm1d).parameters:
        pytest.skip("this torch has none")
    assert GhostBatchNorm1d(3, ghost_batch_size=4, bias=False).bias is None


def test_wrong_channels_are_refused_as_batch_norm_does():
    with pytest.raises(RuntimeError, match="running_mean should contain 5 elements not 3"):
        GhostBatchNorm1d(3, ghost_batch_size=2)(torch.randn(8, 5))


def test_torch_fx_keeps_ghost_layers_whole_and_training():
    model = nn.Sequential(nn.Linear(3, 3), GhostBatchNorm1d(3, ghost_batch_size=4), nn.Tanh())
    traced = torch.fx.symbolic_trace(model)
    assert traced.get_submodule("1") is model[1]
    x = torch.randn(12, 3)
    plain = nn.BatchNorm1d(3)
    expected = torch.cat([plain(part) for part in model[0](x).split(4)]).tanh()
    torch.testing.assert_close(traced(x), expected)
    torch.testing.assert_close(model[1].running_var, plain.running_var)


@pytest.mark.parametrize(
    ("kind", "spatial"), [(GhostBatchNorm1d, ()), (GhostBatchNorm2d, (2, 3)), (GhostBatchNorm3d, (2, 1, 3))]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_layer_evaluates_as_batch_norm_and_refuses_to_train(kind, spatial):
    layer, x = kind(3, ghost_batch_size=4).eval(), torch.randn(8, 3, *spatial)
    scripted = torch.jit.script(layer)
    assert torch.equal(scripted(x), layer(x))
    with pytest.raises(torch.jit.Error, match="only evaluates; script after restore_batch_norm"):
        scripted.train()(x)
    with pytest.raises(
        RuntimeError, match=r"call restore_batch_norm\(model\) first .* or model\.eval\(\) for a script"
    ):
        torch.jit.script(layer.train())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_layer_normalises_ghosts_of_the_traced_batch():
    layer, plain = GhostBatchNorm1d(3, ghost_batch_size=4), nn.BatchNorm1d(3)
    traced = torch.jit.trace(layer, torch.randn(12, 3), check_trace=False)
    x = torch.randn(12, 3)
    torch.testing.assert_close(traced(x), torch.cat([plain(part) for part in x.split(4)]))
