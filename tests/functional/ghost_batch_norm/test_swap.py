import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel, update_bn

from lightning_gap.functional import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    restore_batch_norm,
    swap_batch_norm,
)

PAIRS = [(nn.BatchNorm1d, GhostBatchNorm1d), (nn.BatchNorm2d, GhostBatchNorm2d), (nn.BatchNorm3d, GhostBatchNorm3d)]


@pytest.mark.promise("ghost swap")
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


@pytest.mark.bad_input(11)
def test_swapping_again_changes_the_size():
    model = nn.Sequential(nn.BatchNorm1d(3))
    swap_batch_norm(model, 4)
    report = swap_batch_norm(model, 8)
    assert (report.converted, report.changed["0"]["ghost_batch_size"], model[0].ghost_batch_size) == ((), 4, 8)


def test_the_root_itself_can_be_swapped():
    layer = nn.BatchNorm2d(3)
    assert swap_batch_norm(layer, 4).converted == ("",)
    assert isinstance(layer, GhostBatchNorm2d)


@pytest.mark.bad_input(12)
def test_a_shared_layer_is_swapped_once():
    shared = nn.BatchNorm1d(3)
    assert len(swap_batch_norm(nn.Sequential(shared, nn.ReLU(), shared), 4).converted) == 1


def test_layers_that_are_no_batch_norm_of_one_process_are_left_alone_and_reported():
    model = nn.ModuleDict(
        {
            "sync": nn.SyncBatchNorm(3),
            "lazy": nn.LazyBatchNorm1d(),
            "instance": nn.InstanceNorm1d(3, track_running_stats=True),
            "quantised": torch.ao.nn.quantized.BatchNorm2d(3),
        }
    )
    report = swap_batch_norm(model, 4)
    assert report.converted == ()
    assert set(report.skipped) == {"sync", "lazy", "quantised"}


def test_a_layer_whose_forward_was_replaced_on_itself_is_left_alone_and_reported():
    layer = nn.BatchNorm1d(3)
    original = layer.forward
    layer.forward = lambda x: original(x) + 1
    assert "replaced on the layer itself" in swap_batch_norm(layer, 4).skipped[""]
    assert type(layer) is nn.BatchNorm1d


class ReadOnly(nn.BatchNorm1d):
    @property
    def leftover(self):
        return "own"


class Slotted(nn.BatchNorm1d):
    """Knows the attributes that it may get, once it is made."""

    def __init__(self, channels):
        super().__init__(channels)
        self.complete = True

    def __setattr__(self, name, value):
        if "complete" in vars(self) and name in ("__class__", "leftover"):
            raise KeyError(name)
        super().__setattr__(name, value)


def with_its_own(**attributes):
    layer = nn.BatchNorm1d(3)
    vars(layer).update(attributes)
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (ReadOnly(3), "an attribute leftover of its own"),
        (Slotted(3), "Slotted takes no attribute leftover: KeyError"),
        (with_its_own(running_stats=[1, 2]), "an attribute running_stats of its own"),
    ],
    ids=["property", "setattr", "attribute"],
)
def test_a_layer_that_takes_no_settings_stays_as_it_was_and_is_reported(layer, reason):
    model = nn.Sequential(nn.BatchNorm1d(3), layer, nn.BatchNorm1d(3))
    kind, attributes = type(layer), dict(vars(layer))
    report = swap_batch_norm(model, 4)
    assert report.converted == ("0", "2")
    assert reason in report.skipped["1"]
    assert type(layer) is kind
    assert vars(layer) == attributes
    assert restore_batch_norm(model) == ("0", "2")


def test_a_ghost_layer_that_takes_no_other_settings_keeps_those_it_has():
    class Fixed(GhostBatchNorm1d):
        def __setattr__(self, name, value):
            if name == "running_stats" and name in vars(self):
                raise AttributeError("fixed")
            super().__setattr__(name, value)

    layer = Fixed(3, ghost_batch_size=8)
    report = swap_batch_norm(layer, 4, leftover="balance")
    assert "takes no attribute running_stats" in report.skipped[""]
    assert (report.changed, layer.ghost_batch_size, layer.leftover) == ({}, 8, "merge")


def test_the_batch_norm_inside_a_fused_layer_is_swapped():
    fused = torch.ao.nn.intrinsic.ConvBn1d(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3))
    assert swap_batch_norm(fused, 4).converted == ("1",)
    x = torch.randn(8, 2, 5)
    torch.testing.assert_close(fused(x), torch.cat([nn.BatchNorm1d(3)(fused[0](part)) for part in x.split(4)]))


@pytest.mark.promise("ghost swap")
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


@pytest.mark.parametrize("size", [0, -3])
@pytest.mark.bad_input(1)
def test_a_size_below_one_is_refused(size):
    with pytest.raises(ValueError, match=rf"ghost_batch_size must be a whole number of samples.*got {size}"):
        swap_batch_norm(nn.BatchNorm1d(3), size)


@pytest.mark.parametrize("size", [True, 2.5, "32", None, float("nan")])
@pytest.mark.bad_input(1)
def test_a_size_that_is_no_integer_is_refused(size):
    with pytest.raises(ValueError, match="ghost_batch_size must be a whole number of samples, at least 1, got"):
        GhostBatchNorm1d(3, ghost_batch_size=size)


def test_a_refused_size_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="ghost_batch_size"):
        swap_batch_norm(model, 0)
    assert type(model[0]) is nn.BatchNorm1d


def test_a_layer_frozen_by_the_user_stays_frozen():
    layer = nn.BatchNorm1d(3).eval().requires_grad_(False)
    swap_batch_norm(layer, 4)
    assert not layer.training
    assert not layer.weight.requires_grad
    assert torch.equal(layer(torch.ones(8, 3)), nn.BatchNorm1d(3).eval()(torch.ones(8, 3)))


def test_parametrized_layers_keep_their_parametrization():
    class Positive(nn.Module):
        def forward(self, x):
            return x.exp()

    model = nn.Sequential(nn.BatchNorm1d(3))
    parametrize.register_parametrization(model[0], "weight", Positive())
    kind, keys = type(model[0]), list(model.state_dict())
    x = torch.randn(8, 3)
    expected = torch.cat([model(part) for part in x.split(4)])
    assert swap_batch_norm(model, 4).converted == ("0",)
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model(x), expected)
    assert isinstance(copy.deepcopy(model)[0], GhostBatchNorm1d)
    assert restore_batch_norm(model) == ("0",)
    assert type(model[0]).__name__ == kind.__name__
    assert type(model[0]).__bases__ == kind.__bases__
    swap_batch_norm(model, 4)
    parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is GhostBatchNorm1d


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_statistics_of_averaged_weights_can_be_recomputed(momentum):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=momentum))
    swap_batch_norm(model, 8)
    average = AveragedModel(model)
    average.update_parameters(model)
    data = torch.randn(64, 4)
    update_bn([data[:32], data[32:]], average)
    outputs = model[0](data).detach()
    ghosts = outputs.split(8)
    layer = average.module[1]
    torch.testing.assert_close(layer.running_mean, outputs.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.running_var, torch.stack([g.var(0) for g in ghosts]).mean(0), rtol=1e-5, atol=1e-6)
    assert layer.momentum == momentum


def test_a_compiled_model_is_swapped_and_recompiles():
    torch.compiler.reset()
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(8, 3)
    before = compiled(x)
    swap_batch_norm(compiled, 4)
    after = compiled(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, torch.cat([nn.BatchNorm1d(3)(part) for part in x.split(4)]))


def test_a_scripted_layer_is_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(torch.jit.script(nn.BatchNorm1d(3)), torch.jit.script(nn.Linear(3, 3)))
    report = swap_batch_norm(model, 4)
    assert report.converted == ()
    assert report.skipped == {
        "0": "scripted layer, whose code is fixed; train the model itself and script it after fit"
    }


def test_lazy_layers_are_swapped_once_they_have_a_size():
    model = nn.Sequential(nn.LazyBatchNorm1d())
    assert "run one batch through the model first" in swap_batch_norm(model, 4).skipped["0"]
    model(torch.randn(8, 3))
    assert swap_batch_norm(model, 4).converted == ("0",)


@pytest.mark.promise("ghost swap")
def test_checkpoints_load_whatever_the_ghost_size():
    source, target = nn.Sequential(nn.BatchNorm1d(3)), nn.Sequential(nn.BatchNorm1d(3))
    swap_batch_norm(source, 4)
    swap_batch_norm(target, 7, leftover="balance")
    source(torch.randn(20, 3))
    target.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(target[0].running_var, source[0].running_var)


def test_sync_batch_norm_conversion_swallows_a_ghost_layer_and_a_new_swap_says_so():
    model = nn.Sequential(nn.BatchNorm1d(3))
    swap_batch_norm(model, 4)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert "SyncBatchNorm" in swap_batch_norm(model, 4).skipped["0"]


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", ["swap", "shard"])
@pytest.mark.parametrize("shard", [fully_shard, FullyShardedDataParallel])
@pytest.mark.bad_input(15)
def test_a_sharded_model_can_be_swapped_before_and_after(shard, first):
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    reference = copy.deepcopy(model)
    swap_batch_norm(reference, 4)
    if first == "swap":
        swap_batch_norm(model, 4)
    options = {"mesh": init_device_mesh("cpu", (1,))} if shard is fully_shard else {"device_id": torch.device("cpu")}
    sharded = shard(model, **options)
    if first == "shard":
        assert len(swap_batch_norm(sharded, 4).converted) == 1
    x = torch.randn(12, 4)
    output = sharded(x)
    torch.testing.assert_close(output, reference(x))
    output.sum().backward()
    assert len(restore_batch_norm(sharded)) == 1


@pytest.mark.usefixtures("process_group")
def test_a_layer_that_is_sharded_by_itself_trains_with_ghosts():
    model = nn.Sequential(nn.BatchNorm1d(3))
    reference = copy.deepcopy(model)
    swap_batch_norm(reference, 4)
    fully_shard(model[0], mesh=init_device_mesh("cpu", (1,)))
    kind = type(model[0])
    assert swap_batch_norm(model, 4).converted == ("0",)
    x, weights = torch.randn(12, 3), torch.randn(12, 3)
    for layers in (model, reference):
        (layers(x) * weights).sum().backward()
    torch.testing.assert_close(model[0].weight.grad.full_tensor(), reference[0].weight.grad)
    torch.testing.assert_close(model[0].running_var, reference[0].running_var)
    restore_batch_norm(model)
    assert type(model[0]) is kind
