"""Networks, data and measurements that the tests of landscapes share."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy


def bowl(values=(0.0, 0.0), dtype=torch.float64):
    """A module with one weight vector."""
    module = nn.Linear(len(values), 1, bias=False, dtype=dtype)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([values]))
    return module


def at(*values):
    """A state of it."""
    return {"weight": torch.tensor([values], dtype=torch.float64)}


def of_weight(loss):
    """A measurement that is a function of the weight alone."""
    return lambda module, batch: loss(module.weight[0])


ONCE = {"data": [torch.zeros(1)]}


def classified(module, batch):
    scores = module(batch[0])
    return {
        "loss": cross_entropy(scores, batch[1]),
        "accuracy": (scores.argmax(dim=1) == batch[1]).double().mean(),
    }


def normalised_network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)).double()


def trained(network, inputs, seed):
    """The network's state with other weights, and with running statistics of these inputs."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
        network.train()
        for _ in range(5):
            network(inputs)
    return {name: value.clone() for name, value in network.state_dict().items()}


def batches(sizes=(20, 12), shape=(6,), classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(size, *shape, generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(classes, (size,), generator=generator),
        )
        for size in sizes
    ]
