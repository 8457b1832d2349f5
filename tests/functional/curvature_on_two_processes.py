"""The curvature of a loss that two processes hold a share of each; run by test_spectrum.py."""

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import (
    batch_sharpness,
    critical_sharpness,
    hessian_eigenvalues,
    hessian_trace,
    hessian_vector_product,
    spectral_density,
)

SAMPLES, SHARES = 23, ((0, 16), (16, 23))  # ragged


def network():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model, torch.randn(SAMPLES, 5, generator=generator, dtype=torch.float64)


class Cube(torch.autograd.Function):
    """The cube, which cannot be differentiated twice."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


def measure(rows, *, cube=None, group=None):
    """Everything there is, on these rows of the samples; ``cube`` is added to the loss."""
    model, x = network()
    params, targets = list(model.parameters()), torch.arange(SAMPLES) % 3

    def loss_fn():
        for part in torch.arange(*rows).split(5):
            loss = cross_entropy(model(x[part]), targets[part], reduction="sum") / SAMPLES
            yield loss + (cube(params[0]).square().mean() * len(part) / SAMPLES if cube else 0.0)

    terms = {"process_group": group}
    found = hessian_eigenvalues(loss_fn, params, tolerance=1e-9, max_products=70, **terms)
    trace = hessian_trace(loss_fn, params, **terms)
    density = spectral_density(loss_fn, params, steps=4, probes=2, **terms)
    product = hessian_vector_product(loss_fn, params, [torch.ones_like(p) for p in params], **terms)
    down = torch.autograd.grad(cross_entropy(model(x), targets), params)
    critical = critical_sharpness(loss_fn, params, down, tolerance=1e-9, **terms)
    batch = batch_sharpness([loss_fn], params, second_derivatives=cube is None, **terms)
    return {
        "eigenvalues": torch.tensor([found.largest, found.smallest, found.loss, found.gradient_norm]).double(),
        "trace": torch.tensor([trace.trace, trace.standard_error], dtype=torch.float64),
        "density": torch.cat([density.nodes, density.weights]),
        "product": torch.cat([p.flatten() for p in product]),
        "critical": torch.tensor([critical.learning_rate, batch.value], dtype=torch.float64),
        "exact": torch.tensor([found.exact, trace.exact, density.exact]),
    }


def failure_of(rank, group):
    """What each process raises when the loss of process 1 fails at its second evaluation."""
    x, calls = torch.ones(2, requires_grad=True), []

    def loss_fn():
        calls.append(1)
        if rank == 1 and len(calls) == 3:  # the one before checks that the loss is not random
            raise OSError("no more data")
        return iter([(x**3).sum()])

    try:
        hessian_trace(loss_fn, [x], process_group=group)
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def main():
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore", UserWarning)
    dist.init_process_group("gloo")
    rank, group = dist.get_rank(), dist.group.WORLD
    result = {
        "exact": measure(SHARES[rank], group=group),
        # only process 1 has no double backward: both must fall back
        "differences": measure(SHARES[rank], cube=Cube.apply if rank else lambda w: w**3, group=group),
        "failure": failure_of(rank, group),
    }
    torch.save(result, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    main()
