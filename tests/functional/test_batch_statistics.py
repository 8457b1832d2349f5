import pytest
import torch
from torch import nn

from lightning_gap.functional import GhostBatchNorm1d, batch_statistics, recomputed_statistics


def network(*, ghost=False, momentum=0.1):
    torch.manual_seed(0)
    norm = GhostBatchNorm1d(4, ghost_batch_size=4, momentum=momentum) if ghost else nn.BatchNorm1d(4, momentum=momentum)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.ReLU(), nn.Linear(4, 2), nn.BatchNorm1d(2, affine=False)).double()
    model(torch.randn(16, 3, dtype=torch.float64))  # running statistics of some other data
    return model


def batches(sizes=(8, 16, 5)):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, generator=generator, dtype=torch.float64) * 3 + 1 for size in sizes]


def traces(model):
    buffers = [(buffer.data_ptr(), buffer.clone()) for buffer in model.buffers()]
    terms = [
        (part.training, getattr(part, "momentum", 0), getattr(part, "ghost_batch_size", 0)) for part in model.modules()
    ]
    return buffers, terms, [getattr(part, "leftover", "") for part in model.modules()]


def assert_no_traces(model, before):
    for (pointer, old), new in zip(before[0], model.buffers(), strict=True):
        assert new.data_ptr() == pointer
        assert torch.equal(new, old)
    assert traces(model)[1:] == before[1:]


def test_evaluation_uses_the_batch_and_leaves_no_trace():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    model[1].train()  # a mode of its own comes back too
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(64, 3) + 2
    with batch_statistics(model), torch.no_grad():
        y = model(x)
        assert not model[2].training
    torch.testing.assert_close(y.mean(0), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.var(0, unbiased=False), torch.ones(4), rtol=1e-3, atol=0)
    assert [part.training for part in model] == [False, True, False]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_ghost_layer_takes_the_whole_batch_as_one():
    plain, ghost = nn.BatchNorm1d(4).eval(), GhostBatchNorm1d(4, ghost_batch_size=8).eval()
    x = torch.randn(64, 4)
    with batch_statistics(plain), batch_statistics(ghost):
        assert torch.equal(plain(x), ghost(x))
    assert ghost.ghost_batch_size == 8


def test_an_exception_leaves_no_trace_either():
    layer = nn.BatchNorm1d(2).eval()

    def fails():
        with batch_statistics(layer):
            layer(torch.randn(4, 2))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert not layer.training
    assert int(layer.num_batches_tracked) == 0


@pytest.mark.parametrize("momentum", [0.1, None])
def test_recomputed_statistics_are_those_of_torchs_update_bn(momentum):
    model, twin = network(momentum=momentum).eval(), network(momentum=momentum).eval()
    torch.optim.swa_utils.update_bn(batches(), twin)
    with recomputed_statistics(model, lambda: [model(x) for x in batches()]):
        assert not any(part.training for part in model.modules())
        for (name, ours), theirs in zip(model.named_buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, msg=name)


def test_recomputed_statistics_are_the_plain_mean_over_batches():
    model = network()
    hidden = [(x @ model[0].weight.T + model[0].bias).detach() for x in batches()]
    with recomputed_statistics(model, lambda: [model(x) for x in batches()]):
        torch.testing.assert_close(model[1].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0))
        torch.testing.assert_close(model[1].running_var, torch.stack([h.var(0) for h in hidden]).mean(0))
        assert int(model[1].num_batches_tracked) == 3


def test_recomputed_statistics_of_a_ghost_layer_are_those_of_whole_batches():
    plain, ghost = network().eval(), network(ghost=True).eval()
    x = batches()[0]
    with (
        recomputed_statistics(plain, lambda: [plain(x) for x in batches()]),
        recomputed_statistics(ghost, lambda: [ghost(x) for x in batches()]),
    ):
        torch.testing.assert_close(ghost(x), plain(x), rtol=1e-12, atol=1e-12)
        assert ghost[1].ghost_batch_size == 4


@pytest.mark.parametrize("ghost", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["while gathering", "inside", "nowhere"])
def test_recomputing_leaves_no_trace(ghost, error, where):
    model = network(ghost=ghost).eval()
    model[1].train()
    if ghost:
        model[1].leftover = "error"
    before = traces(model)

    def run():
        model(batches()[0])
        if where == "while gathering":
            raise error

    def block():
        with recomputed_statistics(model, run):
            model.eval()(batches()[1])
            model[1].train()
            if where == "inside":
                raise error

    if where == "nowhere":
        block()
    else:
        with pytest.raises(error):
            block()
    assert_no_traces(model, before)


@pytest.mark.parametrize("ghost", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_normalising_by_batch_leaves_no_trace_of_any_exception(ghost, error):
    model = network(ghost=ghost).eval()
    before = traces(model)

    def fails():
        with batch_statistics(model):
            model(batches()[0])
            raise error

    with pytest.raises(error):
        fails()
    assert_no_traces(model, before)


def test_statistics_may_be_gathered_twice_in_one_another():
    model = network()
    before = traces(model)
    with recomputed_statistics(model, lambda: model(batches()[0])):
        outer = model[1].running_mean.clone()
        with recomputed_statistics(model, lambda: model(batches()[1])):
            assert not torch.equal(model[1].running_mean, outer)
        assert torch.equal(model[1].running_mean, outer)
    assert_no_traces(model, before)


def test_layers_without_running_statistics_go_by_the_batch_as_ever():
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3)).double().eval()
    x = batches()[0]
    with recomputed_statistics(model, lambda: model(x)):
        torch.testing.assert_close(model[0](x).mean(0), torch.zeros(3).double(), rtol=0, atol=1e-12)
        torch.testing.assert_close(model[1].running_mean, torch.zeros(3).double(), rtol=0, atol=1e-12)


def test_a_shared_layer_and_a_module_without_batch_norm_do_no_harm():
    layer = nn.BatchNorm1d(3).double()
    model = nn.Sequential(layer, layer)
    with recomputed_statistics(model, lambda: model(batches()[0])):
        assert int(layer.num_batches_tracked) == 2
    assert int(layer.num_batches_tracked) == 0
    assert layer.momentum == 0.1
    with recomputed_statistics(nn.Linear(1, 1), lambda: None), batch_statistics(nn.Linear(1, 1)):
        pass


def test_only_the_chosen_layers_are_recomputed_and_the_others_stay_as_frozen_ones_do():
    model, twin = network().eval(), network().eval()
    frozen = {name: value.clone() for name, value in model[1].named_buffers()}
    hidden = [model[3](model[2](model[1](model[0](x)))).detach() for x in batches()]  # by the running statistics
    with recomputed_statistics(model, lambda: [model(x) for x in batches()], layers=[model[4]]):
        assert all(torch.equal(value, frozen[name]) for name, value in model[1].named_buffers())
        torch.testing.assert_close(model[4].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0))
    with (
        recomputed_statistics(twin, lambda: [twin(x) for x in batches()], layers=iter([twin[1], twin[4]])),
        recomputed_statistics(model, lambda: [model(x) for x in batches()]),
    ):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(twin.buffers(), model.buffers(), strict=True))
    with pytest.raises(ValueError, match="layers must be a _BatchNorm, got Linear"):
        recomputed_statistics(model, lambda: None, layers=[model[0]]).__enter__()


def test_a_layer_that_is_not_reached_keeps_its_statistics():
    model = network().eval()
    before = {name: value.clone() for name, value in model.named_buffers()}
    with recomputed_statistics(model, lambda: model[:2](batches()[0])):
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
        assert all(torch.equal(value, before[f"4.{name}"]) for name, value in model[4].named_buffers())
