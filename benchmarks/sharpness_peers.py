"""What is beside our sharpness and curvature: SciPy as it comes, PyHessian, hessian-eigenthings, curvlinops.

Every function here imports its library itself, so that one that is not installed costs its rows of the table. The
Hessian is that of the mean cross-entropy over one batch, the module in evaluation mode.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from measuring import mean_loss
from torch import Tensor, nn

from lightning_gap.functional import DatasetLoss, hessian_eigenvalues, hessian_trace

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Found:
    """A value; its uncertainty (relative residual of an eigenvalue, standard error of a trace) and products, if told.

    Attributes:
        value: Eigenvalue or trace.
        error: NaN where the tool does not say.
        products: Products with the Hessian.
        note: For the table.
    """

    value: float
    error: float = math.nan
    products: int | None = None
    note: str = ""


Tool = Callable[[nn.Module, Batch], Found]


def scipy_as_it_comes(
    module: nn.Module,
    batches: Sequence[Batch],
    *,
    epsilon: float,
    iterations: int = 10,
    tolerance: float | None = None,
) -> tuple[float, int, str]:
    """Metric 2.1 by `scipy.optimize.minimize`: percent, evaluations, and why it stopped.

    Written out, without any of our code; the module stays in evaluation mode. Its tolerances are its own by default,
    with which it stops at once near flat minima.
    """
    from scipy.optimize import Bounds, minimize

    module.eval()
    params = list(module.parameters())
    centre = nn.utils.parameters_to_vector(params).detach().clone()
    samples = sum(len(targets) for _, targets in batches)
    losses: list[float] = []

    def negative(y: Any) -> tuple[float, Any]:
        nn.utils.vector_to_parameters(centre + torch.from_numpy(y).to(centre), params)
        module.zero_grad()
        total = 0.0
        for batch in batches:
            loss = mean_loss(module, batch) * (len(batch[1]) / samples)
            loss.backward()
            total += float(loss.detach())
        losses.append(total)
        gradient = torch.cat([p.grad.flatten() for p in params if p.grad is not None])
        return -total, -gradient.double().numpy()

    width = (epsilon * (centre.abs() + 1)).double().numpy()
    options = {"maxiter": iterations} | ({} if tolerance is None else {"ftol": tolerance, "gtol": tolerance})
    found = minimize(negative, 0 * width, jac=True, method="L-BFGS-B", bounds=Bounds(-width, width), options=options)
    nn.utils.vector_to_parameters(centre, params)
    for param in params:
        param.grad = None
    return 100 * (max(losses) - losses[0]) / (1 + losses[0]), len(losses), str(found.message)


def our_eigenvalue(module: nn.Module, batch: Batch) -> Found:
    """`hessian_eigenvalues` to a residual of 1e-3, from another start in every round, as PyHessian does."""
    start = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    loss = DatasetLoss(module, mean_loss, [batch])
    found = hessian_eigenvalues(loss, module.parameters(), ends="largest", generator=start)
    return Found(found.largest, found.largest_residual / abs(found.largest), found.products)


def our_trace(module: nn.Module, batch: Batch) -> Found:
    """`hessian_trace` with 10 probes."""
    found = hessian_trace(DatasetLoss(module, mean_loss, [batch]), module.parameters(), probes=10)
    return Found(found.trace, found.standard_error, found.probes)


def pyhessian_eigenvalue(module: nn.Module, batch: Batch) -> Found:
    """Power iteration with its defaults: until the value moves by less than 1e-3; largest by magnitude."""
    operator, products = _pyhessian(module, batch)
    with products as product:
        values, _ = operator.eigenvalues()
    return Found(values[0], products=product.call_count)


def pyhessian_trace(module: nn.Module, batch: Batch) -> Found:
    """Ten probes: it has no such setting, but an infinite tolerance keeps it from stopping early."""
    operator, products = _pyhessian(module, batch)
    with products as product:
        values = torch.tensor(operator.trace(maxIter=10, tol=-math.inf))
    return Found(float(values.mean()), float(values.std()) / math.sqrt(len(values)), product.call_count)


def _pyhessian(module: nn.Module, batch: Batch) -> tuple[Any, Any]:
    from pyhessian import hessian

    home = sys.modules["pyhessian.hessian"]  # as an attribute of the package it is the class of the same name
    product = home.hessian_vector_product
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # backward(create_graph=True)
        operator = hessian(module, nn.CrossEntropyLoss(), data=batch, cuda=False)
    return operator, patch.object(home, "hessian_vector_product", wraps=product)


def eigenthings_power(module: nn.Module, batch: Batch) -> Found:
    """Power iteration to a residual of 1e-3."""
    from hessian_eigenthings import deflated_power_iteration

    return _eigenpair(deflated_power_iteration(_eigenthings(module, batch), k=1, tol=1e-3, seed=0))


def eigenthings_lanczos(module: nn.Module, batch: Batch) -> Found:
    """Lanczos, which does not stop before its last step; its default of two steps is too few."""
    from hessian_eigenthings import lanczos

    return _eigenpair(lanczos(_eigenthings(module, batch), k=1, tol=1e-3, which="LA", seed=0, max_iter=20))


def eigenthings_trace(module: nn.Module, batch: Batch) -> Found:
    """Hutchinson's estimate from 10 probes."""
    from hessian_eigenthings import hutchinson

    found = hutchinson(_eigenthings(module, batch), num_samples=10, seed=0)
    return Found(found.estimate, found.stderr, 10)


def _eigenthings(module: nn.Module, batch: Batch) -> Any:
    from hessian_eigenthings import HessianOperator

    return HessianOperator(module, [batch], mean_loss)


def _eigenpair(found: Any) -> Found:
    value = float(found.eigenvalues[0])
    note = "" if bool(found.converged[0]) else "not converged"
    return Found(value, float(found.residuals[0]) / abs(value), found.iterations, note)


def curvlinops_eigsh(module: nn.Module, batch: Batch) -> Found:
    """`scipy.sparse.linalg.eigsh` of curvlinops' operator, which checks first that it is deterministic."""
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    params = list(module.parameters())
    operator = HessianLinearOperator(module, nn.CrossEntropyLoss(), params, [batch]).to_scipy()
    products = 0

    def product(vector: Any) -> Any:
        nonlocal products
        products += 1
        return operator @ vector

    start = torch.randn(operator.shape[0], generator=torch.Generator().manual_seed(0)).numpy()
    counted = LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)
    values = eigsh(counted, k=1, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)
    return Found(float(values[0]), products=products)


EIGENVALUES: dict[str, Tool] = {
    "curvlinops + eigsh 1e-3": curvlinops_eigsh,
    "PyHessian, defaults": pyhessian_eigenvalue,
    "hessian-eigenthings, power 1e-3": eigenthings_power,
    "hessian-eigenthings, Lanczos, 20 steps": eigenthings_lanczos,
}
TRACES: dict[str, Tool] = {"PyHessian": pyhessian_trace, "hessian-eigenthings": eigenthings_trace}
