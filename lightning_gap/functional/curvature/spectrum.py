"""Curvature of the loss at the weights: products with its Hessian, extreme eigenvalues, trace, spectral density."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .._loss_surface import LossFunction, Params
from .._validation import instance, one_of, real_number, seeded, whole_number
from ._lanczos import lanczos
from .hessian_products import hessian_at

Ends = Literal["both", "largest", "smallest"]


@dataclass(frozen=True)
class Eigenvalues:
    """Result of `hessian_eigenvalues`.

    Attributes:
        largest: Largest algebraic eigenvalue, not the largest by magnitude.
        smallest: Smallest algebraic eigenvalue; negative where the loss curves down.
        largest_residual: Norm of ``H v - largest * v``, v of norm 1: an eigenvalue lies within this distance.
        smallest_residual: The same for the smallest.
        loss: Loss at the weights.
        gradient_norm: Euclidean norm of the gradient there.
        products: Products with the Hessian.
        converged: Whether the ends that were asked for are within the tolerance.
        exact: Whether the products are from double backward; otherwise from finite differences.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> hessian_eigenvalues(lambda: 2 * weight.square().sum(), [weight]).largest
        4.0
    """

    largest: float
    smallest: float
    largest_residual: float
    smallest_residual: float
    loss: float
    gradient_norm: float
    products: int
    converged: bool
    exact: bool


@dataclass(frozen=True)
class Trace:
    """Result of `hessian_trace`.

    Attributes:
        trace: Estimated sum of all eigenvalues.
        standard_error: Of the estimate, by the spread of the probes; NaN for a single one.
        probes: Random vectors used.
        loss: Loss at the weights.
        gradient_norm: Euclidean norm of the gradient there.
        exact: Whether the products are from double backward; otherwise from finite differences.

    Example:
        >>> weight = torch.ones(3, requires_grad=True)
        >>> hessian_trace(lambda: weight.square().sum(), [weight], probes=1).trace
        6.0
    """

    trace: float
    standard_error: float
    probes: int
    loss: float
    gradient_norm: float
    exact: bool


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """Result of `spectral_density`: how the eigenvalues are distributed, as weighted points.

    Attributes:
        nodes: Where, ascending, float64 on the CPU, shape (m,).
        weights: Share of the eigenvalues there, shape (m,); they sum to 1.
        exact: Whether the products are from double backward; otherwise from finite differences.

    Example:
        >>> found = SpectralDensity(torch.tensor([-3.0, 1.0]).double(), torch.tensor([0.5, 0.5]).double(), exact=True)
        >>> float(found.nodes @ found.weights)  # the mean of the eigenvalues
        -1.0
    """

    nodes: Tensor
    weights: Tensor
    exact: bool

    def density(self, grid: Tensor, *, width: float) -> Tensor:
        """The density at each point of ``grid``, in its shape, every node a Gaussian of standard deviation ``width``.

        Raises:
            ValueError: If ``width`` is not positive.
        """
        instance("grid", grid, Tensor)
        width = real_number("width", width, above=0, hint="it is in the unit of the eigenvalues")
        distances = (grid.detach().cpu().double()[..., None] - self.nodes) / width
        return torch.exp(-(distances**2) / 2) @ self.weights / (width * math.sqrt(2 * math.pi))


def hessian_eigenvalues(
    loss_fn: LossFunction,
    params: Params,
    *,
    tolerance: float = 1e-3,
    max_products: int = 50,
    ends: Ends = "both",
    preconditioner: Sequence[Tensor] | None = None,
    generator: torch.Generator | None = None,
    process_group: ProcessGroup | None = None,
) -> Eigenvalues:
    """Largest and smallest eigenvalue of the Hessian of the loss at ``params``, by Lanczos' method.

    Gradient descent with learning rate lr is stable along a direction only where its eigenvalue is below 2 / lr. The
    products are those of `hessian_vector_product`; one vector of n numbers is kept for each.

    Args:
        loss_fn: Returns the loss, as in `hessian_vector_product`, like the next one and the last.
        params: Tensors it depends on.
        tolerance: Stop once the residual is below this share of the largest eigenvalue by magnitude, for both ends:
            a smallest one close to 0 is known no better than that.
        max_products: Most products with the Hessian.
        ends: Which has to converge: "both", "largest" or "smallest". Both are always reported.
        preconditioner: P, a diagonal, for the eigenvalues of ``P^-1/2 H P^-1/2`` in place of those of H: one positive
            tensor in the shape of each of ``params``, infinite where a weight is held. See `optimizer_edge`.
        generator: Source of the start vector, on the CPU; seed 0 by default.
        process_group: Processes that share the loss.

    Returns:
        Both ends of the spectrum with their residuals, in units of the loss over those of the weights squared.

    Raises:
        ValueError: If an argument is out of range, or ``preconditioner`` does not fit ``params`` or is not positive;
            and as in `hessian_vector_product`.

    Reference:
        Lin, Saad and Yang (2016) for the method; Cohen et al. (2021) for 2 / lr.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> found = hessian_eigenvalues(lambda: weight[0] ** 2 / 2 - 3 * weight[1] ** 2 / 2, [weight])
        >>> round(found.largest, 4), round(found.smallest, 4)
        (1.0, -3.0)
    """
    tolerance = real_number("tolerance", tolerance, above=0, below=1, hint="try 1e-3")
    max_products = whole_number("max_products", max_products)
    asked = {"smallest": [0], "largest": [-1], "both": [0, -1]}[one_of("ends", ends, get_args(Ends))]
    generator = seeded("generator", generator)
    with hessian_at(loss_fn, params, process_group) as hessian:
        product = hessian if preconditioner is None else hessian.preconditioned(preconditioner)
        converged, start = False, hessian.random(generator, signs=False)  # signs may miss an eigenvector altogether
        for ritz in lanczos(product, start, max_products):
            converged = bool((ritz.residuals[asked] <= tolerance * ritz.values.abs().max()).all())
            if converged:
                break
        return Eigenvalues(
            largest=float(ritz.values[-1]),
            smallest=float(ritz.values[0]),
            largest_residual=float(ritz.residuals[-1]),
            smallest_residual=float(ritz.residuals[0]),
            loss=hessian.loss,
            gradient_norm=hessian.gradient_norm,
            products=hessian.products,
            converged=converged,
            exact=hessian.exact,
        )


def hessian_trace(
    loss_fn: LossFunction,
    params: Params,
    *,
    probes: int = 10,
    generator: torch.Generator | None = None,
    process_group: ProcessGroup | None = None,
) -> Trace:
    """Trace of the Hessian of the loss at ``params``, the sum of its eigenvalues, by Hutchinson's method.

    The mean of ``v . H v`` over vectors ``v`` of random signs. One product each, those of `hessian_vector_product`.

    Args:
        loss_fn: Returns the loss, as in `hessian_vector_product`, like the next one and the last.
        params: Tensors it depends on.
        probes: Random vectors. Four times as many halve the standard error.
        generator: Source of the random vectors, on the CPU; seed 0 by default.
        process_group: Processes that share the loss.

    Returns:
        The estimate with its standard error, in units of the loss over those of the weights squared.

    Raises:
        ValueError: If ``probes`` is not a whole number, at least 1; and as in `hessian_vector_product`.

    Reference:
        Hutchinson (1990).

    Example:
        >>> weight = torch.ones(3, requires_grad=True)
        >>> hessian_trace(lambda: (weight**2).sum(), [weight]).trace  # exact, as for every diagonal Hessian
        6.0
    """
    probes = whole_number("probes", probes)
    generator = seeded("generator", generator)
    with hessian_at(loss_fn, params, process_group) as hessian:
        values = []
        for _ in range(probes):
            probe = hessian.random(generator, signs=True)
            values.append(float(probe @ hessian(probe)))
        error = statistics.stdev(values) / math.sqrt(probes) if probes > 1 else math.nan
        return Trace(math.fsum(values) / probes, error, probes, hessian.loss, hessian.gradient_norm, hessian.exact)


def spectral_density(
    loss_fn: LossFunction,
    params: Params,
    *,
    steps: int = 50,
    probes: int = 5,
    generator: torch.Generator | None = None,
    process_group: ProcessGroup | None = None,
) -> SpectralDensity:
    """Distribution of the eigenvalues of the Hessian of the loss at ``params``, by stochastic Lanczos quadrature.

    ``steps * probes`` products, those of `hessian_vector_product`; one vector of n numbers is kept for each step.

    Args:
        loss_fn: Returns the loss, as in `hessian_vector_product`, like the next one and the last.
        params: Tensors it depends on.
        steps: Products for each probe: the resolution. Each probe gives at most so many nodes.
        probes: Random vectors of signs: they average out the chance in the weights.
        generator: Source of the random vectors, on the CPU; seed 0 by default.
        process_group: Processes that share the loss.

    Returns:
        Weighted nodes, whose mean is the trace over n, as `hessian_trace` estimates it from the same probes.

    Raises:
        ValueError: If a count is not a whole number, at least 1; and as in `hessian_vector_product`.

    Reference:
        Lin, Saad and Yang (2016), section 3.2; Ghorbani, Krishnan and Xiao (2019), algorithm 1.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> found = spectral_density(lambda: weight[0] ** 2 / 2 - 3 * weight[1] ** 2 / 2, [weight])
        >>> round(float(found.nodes @ found.weights), 4)  # the mean of 1 and -3
        -1.0
    """
    steps = whole_number("steps", steps)
    probes = whole_number("probes", probes)
    generator = seeded("generator", generator)
    with hessian_at(loss_fn, params, process_group) as hessian:
        found = [list(lanczos(hessian, hessian.random(generator, signs=True), steps))[-1] for _ in range(probes)]
        nodes, order = torch.cat([ritz.values for ritz in found]).sort()
        weights = torch.cat([ritz.weights for ritz in found])[order] / probes
        return SpectralDensity(nodes, weights, hessian.exact)
