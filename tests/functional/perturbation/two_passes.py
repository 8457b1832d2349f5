"""Sharpness-aware minimization written out by hand, on one flat vector: what the tests compare with."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def network(seed=0, *, norm=False):
    torch.manual_seed(seed)
    layers = [nn.Linear(5, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Tanh(), nn.Linear(8, 3)]
    return nn.Sequential(*layers).double()


def batches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(12, 5, generator=generator, dtype=torch.float64), torch.randint(3, (12,), generator=generator))
        for _ in range(count)
    ]


def flat_gradient(model, x, y):
    for weight in model.parameters():
        weight.grad = None
    cross_entropy(model(x), y).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def perturbed_gradient(model, x, y, rho, scale, kind):
    """Gradient at w + e, by adding e to the one vector of all weights."""
    start = parameters_to_vector(model.parameters()).detach().clone()
    g = flat_gradient(model, x, y)
    t = scale(model)
    e = rho * t * torch.sign(g) if kind == "max" else rho * t**2 * g / (t * g).pow(2).sum().sqrt()
    vector_to_parameters(start + e, model.parameters())
    ahead = flat_gradient(model, x, y)
    vector_to_parameters(start, model.parameters())
    return ahead


def sizes(eta, *, biases=True):
    """T for all weights in one vector; 1 for the biases unless they are adapted."""

    def scale(model):
        return torch.cat(
            [
                (
                    weight.detach().abs() + eta if biases or name.endswith("weight") else torch.ones_like(weight)
                ).flatten()
                for name, weight in model.named_parameters()
            ]
        )

    return scale


def ones(model):
    return torch.ones(sum(weight.numel() for weight in model.parameters()), dtype=torch.float64)
