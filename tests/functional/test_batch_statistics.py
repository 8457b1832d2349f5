import pytest
import torch
from torch import nn

from lightning_gap.functional import GhostBatchNorm1d, batch_statistics


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
