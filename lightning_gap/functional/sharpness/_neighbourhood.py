"""The region around the weights in which the highest loss is sought, as a unit cube or a unit ball."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from .._loss_surface import LossSurface, euclidean_norm
from .random_subspace import RandomSubspace, SubspaceBasis

Norm = Literal["max", "l2"]


class Neighbourhood:
    """All ``x + A (epsilon * scale * u)`` for ``u`` in the unit cube (norm "max") or the unit ball (norm "l2").

    In the full space ``A`` is the identity and ``u`` has one tensor for each weight; in a subspace ``u`` is one tensor
    of shape (p,). The scale of each coordinate c of x (of ``A^+ x`` in a subspace) is ``|c| + 1`` in a box, 1 in a
    ball, and ``|c|`` in either if ``relative``.
    """

    def __init__(self, surface: LossSurface, *, subspace: RandomSubspace | None, norm: Norm, relative: bool) -> None:
        self._surface = surface
        self._norm = norm
        self._relative = relative
        self._basis = SubspaceBasis(subspace, surface.centre) if subspace else None
        self._coordinates = [self._basis.coordinates(surface.centre)] if self._basis else surface.centre

    def half_widths(self, epsilon: float) -> list[Tensor]:
        """``epsilon * scale``, one tensor for each tensor of ``u``."""
        return [self._scale(c).mul_(epsilon) for c in self._coordinates]

    def blank(self) -> list[Tensor]:
        """The point ``u = 0``, which takes no memory and is not to be written to."""
        return [c.new_zeros((), dtype=torch.float16).expand_as(c) for c in self._coordinates]

    def random(self, generator: torch.Generator) -> list[Tensor]:
        """A random point of the cube, or of the ball's surface; drawn on the CPU, so equal on equal processes."""
        if self._norm == "max":
            cube = (2 * torch.rand(c.shape, generator=generator) - 1 for c in self._coordinates)
            # as exact as the search keeps it
            return [u.half().to(c.device) for u, c in zip(cube, self._coordinates, strict=True)]
        point = [torch.randn(c.shape, generator=generator).to(c) for c in self._coordinates]
        norm = euclidean_norm(point)
        return [u.div_(norm) for u in point]

    def move(self, point: Sequence[Tensor], epsilon: float) -> None:
        """Move the weights to this point."""
        self._surface.move(self.offsets(point, epsilon))

    def offsets(self, point: Sequence[Tensor], epsilon: float) -> Iterator[Tensor]:
        """How far each weight is from the centre at this point."""
        steps = (self._scale(c).mul_(u).mul_(epsilon) for c, u in zip(self._coordinates, point, strict=True))
        return self._basis.expand(next(steps)) if self._basis else steps

    def project(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """The gradient in the coordinates: unscaled in a box, where only its signs matter or SciPy scales by itself."""
        projected = [self._basis.project(gradient)] if self._basis else list(gradient)
        if self._norm == "max":
            return projected
        return [self._scale(c).mul_(g) for c, g in zip(self._coordinates, projected, strict=True)]

    def _scale(self, coordinate: Tensor) -> Tensor:
        if self._relative:
            return coordinate.abs()
        return torch.ones_like(coordinate) if self._norm == "l2" else coordinate.abs().add_(1)
