"""Lanczos' recurrence: what a few products with a symmetric matrix tell about its eigenvalues."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ritz:
    """What k products tell: the eigenvalues of the matrix as seen in the space they span. All float64, on the CPU.

    Attributes:
        alphas: Diagonal of the tridiagonal matrix in that space, shape (k,).
        betas: The entries beside the diagonal, and last the norm of the rest outside the space; shape (k,).
        values: Its eigenvalues, ascending, shape (k,).
        residuals: Norm of ``A v - value * v``, v the unit vector that belongs to each value; shape (k,). An
            eigenvalue of A lies within this distance. After the last product all are 0 if there is no way out.
        weights: Share of the start in each v, squared; shape (k,), sums to 1. With the values they are the Gauss
            quadrature of the start's spectral measure: exact for polynomials up to degree 2 k - 1.
    """

    alphas: Tensor
    betas: Tensor
    values: Tensor
    residuals: Tensor
    weights: Tensor

    @classmethod
    def of(cls, alphas: list[float], betas: list[float]) -> Ritz:
        """Solve the tridiagonal matrix."""
        diagonal, beside = torch.tensor(alphas, dtype=torch.float64), torch.tensor(betas, dtype=torch.float64)
        matrix = diagonal.diag() + beside[:-1].diag(1) + beside[:-1].diag(-1)
        values, vectors = torch.linalg.eigh(matrix)
        return cls(diagonal, beside, values, beside[-1] * vectors[-1].abs(), vectors[0] ** 2)


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Iterator[Ritz]:
    """After each of at most ``steps`` products, the eigenvalues of a symmetric matrix as they are known by then.

    It ends early when the products no longer lead out of the space they span: everything that ``start`` has a part in
    is then known. Each new vector is made orthogonal to all before it, twice; so no eigenvalue appears as a ghost of
    itself, and one vector of n numbers is kept for each step.

    Args:
        product: Gives ``A v``, shape (n,), for ``v`` of shape (n,).
        start: Any vector but zero, shape (n,); float32 or float64, as all vectors then are.
        steps: Most products.

    Yields:
        What is known after one product more.

    Reference:
        Golub and Meurant (1994) for the quadrature; Parlett (1980), section 6.9, for "twice is enough".

    Example:
        >>> *_, last = lanczos(lambda v: torch.tensor([1.0, -3.0]) * v, torch.ones(2), 10)
        >>> [round(value, 4) for value in last.values.tolist()]
        [-3.0, 1.0]
    """
    basis = [start / torch.linalg.vector_norm(start)]
    alphas: list[float] = []
    betas: list[float] = []
    for _ in range(min(steps, start.numel())):
        new = product(basis[-1]).clone()
        alphas.append(float(basis[-1] @ new))
        for vector in basis[::-1] + basis[::-1]:
            new.addcmul_(vector, vector @ new, value=-1)
        beta = float(torch.linalg.vector_norm(new))
        rounding = 10 * torch.finfo(start.dtype).eps * max(map(abs, alphas + betas))
        ended = beta <= rounding or len(basis) == start.numel()  # what is left is rounding, not a direction
        betas.append(0.0 if ended else beta)
        yield Ritz.of(alphas, betas)
        if ended:
            return
        basis.append(new / beta)
