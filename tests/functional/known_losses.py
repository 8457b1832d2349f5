"""Losses whose calls are watched, and what a measurement must leave unchanged: shared by the tests of sharpness."""

import dataclasses

import torch
from torch import nn


class Called:
    """A loss of one weight vector that counts its calls and keeps values and places."""

    def __init__(self, function, weight):
        self.function, self.weight, self.values, self.places = function, weight, [], []

    def __call__(self):
        loss = self.function(self.weight)
        self.values.append(float(loss.detach()))
        self.places.append(self.weight.detach().clone())
        return loss


def vector(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def indefinite(n=12, seed=0):
    """A quadratic with hills in all directions, its weight and its loss."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    weight = (0.1 * torch.randn(n, generator=generator, dtype=torch.float64)).requires_grad_()
    return weight, lambda w: 50 + w @ (root + root.T) @ w / 2


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.randint(3, (30,))
    return model, x, y


def timeless(found):
    return dataclasses.replace(found, seconds=0.0)


def unchanged(params, run):
    before = [(p.data_ptr(), p.detach().clone(), p.grad) for p in params]
    result = run()
    for p, (pointer, value, grad) in zip(params, before, strict=True):
        assert p.data_ptr() == pointer
        assert torch.equal(p, value)
        assert p.grad is grad
    return result
