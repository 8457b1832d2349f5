import pytest
import torch
from torch import nn

from lightning_gap.functional import along_line


def test_losses_on_the_line_are_those_of_weights_mixed_by_hand():
    torch.manual_seed(0)
    ends = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval() for _ in range(2)]
    ends[1][1].running_mean.fill_(2.0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    x, alphas = torch.randn(5, 3), [-1.0, 0.0, 0.25, 1.0, 2.0]
    measured = along_line(model, ends[0].state_dict(), ends[1].state_dict(), alphas, lambda: model(x).detach())
    for alpha, y in zip(alphas, measured, strict=True):
        a, b = (end.state_dict() for end in ends)
        mixed = {name: (1 - alpha) * a[name].double() + alpha * b[name].double() for name in a}
        z = x.double() @ mixed["0.weight"].T + mixed["0.bias"]
        z = (z - mixed["1.running_mean"]) / torch.sqrt(mixed["1.running_var"] + 1e-5)
        torch.testing.assert_close(y.double(), z * mixed["1.weight"] + mixed["1.bias"], rtol=1e-4, atol=1e-5)


def test_the_module_keeps_its_own_state_also_after_an_exception():
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    before = model.weight.detach().clone()

    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        along_line(model, model.state_dict(), other.state_dict(), [0.5], fail)
    assert torch.equal(model.weight, before)


def test_ends_of_different_networks_are_refused_by_name():
    with pytest.raises(ValueError, match="differ in weight"):
        along_line(nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), nn.Linear(3, 2).state_dict(), [0.0], lambda: 0)


def test_no_positions_are_refused():
    state = nn.Linear(1, 1).state_dict()
    with pytest.raises(ValueError, match="alphas is empty"):
        along_line(nn.Linear(1, 1), state, state, [], lambda: 0)
