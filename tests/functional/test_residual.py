import copy

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import StochasticDepth

from lightning_gap.functional import residual_norms, swap_batch_norm, zero_init_residual


def zeroed(network):
    return {name for name, part in network.named_modules() if getattr(part, "weight", None) is not None} & {
        name.rpartition(".")[0]
        for name, weight in network.named_parameters()
        if name.endswith("weight") and not weight.any()
    }


@pytest.mark.parametrize("ghosts", [False, True])
@pytest.mark.parametrize(("block", "layers"), [(BasicBlock, [2, 1, 1, 1]), (Bottleneck, [1, 2, 1, 1])])
def test_torchvisions_own_zero_start_sets_the_same_weights(block, layers, ghosts):
    network = models.ResNet(block, layers, num_classes=2)
    if ghosts:
        swap_batch_norm(network, 4)
    theirs = models.ResNet(block, layers, num_classes=2, zero_init_residual=True)
    found = zero_init_residual(network)
    assert len(found) == 5
    assert zeroed(network) == zeroed(theirs) == set(found)


class Own(nn.Module):
    """A block with none of the usual names: the norm is called `end`, and the branch a part of its own."""

    def __init__(self, branch, shortcut=None):
        super().__init__()
        self.branch, self.norm = branch, shortcut or nn.Identity()

    def forward(self, x):
        kept = self.branch(x)
        self.last_seen = x
        return torch.add(self.norm(x), kept).relu()


class Branch(nn.Module):
    def __init__(self, *after):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.end, self.after = nn.BatchNorm1d(4), nn.Sequential(*after)

    def forward(self, x):
        return self.after(self.end(self.c(self.b(self.a(x)).relu())))


class Subclass(BasicBlock):
    """Does something of its own around torchvision's."""

    def forward(self, x):
        return super().forward(x) * 2


def plain(*layers):
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), *layers)


FOUND = {
    "a branch that is a module": (lambda: Own(Branch()), ["branch.end"]),
    "dropped": (lambda: Own(Branch(nn.Dropout(0.1), StochasticDepth(0.1, "row"))), ["branch.end"]),
    "a sequence": (lambda: Own(nn.Sequential(plain(nn.ReLU()), plain(nn.Identity()))), ["branch.1.1"]),
    "a projection": (lambda: Own(nn.Sequential(plain(nn.ReLU()), plain()), plain()), ["branch.1.1"]),
    "group norm": (lambda: Own(nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4))), ["branch.1"]),
    "one in another": (lambda: Own(nn.Sequential(Own(Branch()), nn.Linear(4, 4))), ["branch.0.branch.end"]),
}


@pytest.mark.parametrize("case", FOUND)
def test_blocks_are_known_by_what_they_do(case):
    make, expected = FOUND[case]
    network = make().eval()
    attributes = {name: set(vars(part)) for name, part in network.named_modules()}
    assert list(residual_norms(network)) == expected
    assert {name: set(vars(part)) for name, part in network.named_modules()} == attributes
    assert zero_init_residual(network) == expected
    x = torch.randn(8, 4)
    block = network if expected[0].startswith("branch.end") or "0.branch" not in expected[0] else network.branch[0]
    assert torch.equal(block(x), block.norm(x).relu())


@pytest.mark.parametrize(
    ("make", "number"),
    [(models.mobilenet_v2, 10), (models.efficientnet_b0, 9), (models.regnet_x_400mf, 22), (models.swin_v2_t, 24)],
)
@pytest.mark.slow
def test_other_residual_networks_have_such_blocks(make, number):
    assert len(residual_norms(make())) == number


def test_a_subclass_of_torchvisions_block_and_a_shared_one_count_once():
    block = Subclass(4, 4)
    assert zero_init_residual(nn.Sequential(block, BasicBlock(4, 4), block)) == ["0.bn2", "1.bn2"]


class Branches(nn.Module):
    """Equally deep, as in re-parametrised networks: neither is a shortcut."""

    def __init__(self):
        super().__init__()
        self.first, self.second = plain(), plain()

    def forward(self, x):
        return self.first(x) + self.second(x)


class DependsOnData(Branches):
    def forward(self, x):
        return x + self.first(x) if x.sum() > 0 else x


class AfterTheAddition(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(x + self.linear(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: plain(),
        lambda: Own(plain(nn.ReLU())),  # with a weight of zero it would never learn
        lambda: Own(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))),
        lambda: Own(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))),
        lambda: Own(nn.BatchNorm1d(4)),
        Branches,
        DependsOnData,
        AfterTheAddition,
    ],
)
def test_where_no_branch_ends_in_a_norm_nothing_is_changed_and_it_is_said(make):
    network = make()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=f"module must have residual blocks .* found none in {type(network).__name__}"):
        zero_init_residual(network)
    assert residual_norms(network) == {}
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_lazy_norm_is_refused_before_anything_is_changed():
    network = nn.Sequential(BasicBlock(4, 4), Own(nn.Sequential(nn.Linear(4, 4), nn.LazyBatchNorm1d())))
    with pytest.raises(ValueError, match=r"1\.branch\.1 has no weight yet; run a batch"):
        zero_init_residual(network)
    assert bool((network[0].bn2.weight == 1).all())
