"""Small trained networks, their losses and their dense Hessians: what the tests of curvature compare with."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy


def network(seed=0, *, samples=60, dtype=torch.float64):
    """A trained network, its inputs and targets."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(samples, 6, dtype=torch.float64), torch.randint(3, (samples,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    model.zero_grad()
    return model.to(dtype), x.to(dtype), y


def whole_and_parts(model, x, y, sizes=(25, 20, 15)):
    """The same loss as one scalar and as parts, weighted by samples."""

    def parts():
        for rows in torch.arange(len(x)).split(list(sizes)):
            yield cross_entropy(model(x[rows]), y[rows]) * (len(rows) / len(x))

    return (lambda: cross_entropy(model(x), y)), parts


def dense_hessian(model, x, y):
    """By torch.func, in float64."""
    names, params = zip(*((name, p.detach()) for name, p in model.named_parameters()), strict=True)
    sizes = [p.numel() for p in params]

    def loss(flat):
        pieces = [piece.view_as(p) for piece, p in zip(torch.split(flat, sizes), params, strict=True)]
        return cross_entropy(torch.func.functional_call(model, dict(zip(names, pieces, strict=True)), (x,)), y)

    return torch.func.jacrev(torch.func.jacrev(loss))(torch.cat([p.flatten() for p in params]))


def quadratic(spectrum):
    x = torch.zeros(len(spectrum), dtype=torch.float64, requires_grad=True)
    return x, lambda: (torch.tensor(spectrum, dtype=torch.float64) * x**2).sum() / 2 + x.sum()


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def seeded(seed):
    return torch.Generator().manual_seed(seed)
