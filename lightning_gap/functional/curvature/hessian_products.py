"""Products of the Hessian of the loss with vectors: exact where that is possible, by finite differences elsewhere."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .._loss_surface import LossFunction, LossSurface, Params, euclidean_norm, graph_behind, loss_surface
from .._uninterrupted import uninterrupted_exit
from .._validation import each, instance
from ..errors import UndefinedCurvatureError

# Length of a finite-difference step, relative to 1 + |x|. Measured on trained networks with tanh and GELU, n = 336,000:
# the error of Hv stays below 3e-4 (float32) and 2e-8 (float64) of the largest eigenvalue, both for its eigenvector,
# where a longer step bends away, and for random vectors, where a shorter one drowns in rounding.
_STEP = {torch.float32: 1e-5, torch.float64: 1e-7}


def hessian_vector_product(
    loss_fn: LossFunction, params: Params, vector: Sequence[Tensor], *, process_group: ProcessGroup | None = None
) -> list[Tensor]:
    """Product of the Hessian of the loss at ``params`` with a vector.

    Exact, by double backward. Where an operation has none (fused attention, a compiled module), by central differences
    of gradients, with a warning: these also see the kinks of ReLU, which the Hessian does not, and may then be off by
    tens of percent. Attention has a double backward under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
    A custom autograd function whose backward computes outside of autograd, as hand-written kernels do, and does not
    say so with `once_differentiable`, cannot be told from a linear one: its own curvature is then missing.

    One product costs about three gradients. In the functions that need several, about two if ``loss_fn`` returns one
    scalar, whose graph is then kept, and three if it returns parts, of which only one has a graph at a time.

    Args:
        loss_fn: Returns the scalar loss at the current values of ``params``, or an iterable of scalars that sum to it.
            It must be deterministic, which is checked. `DatasetLoss` makes one from a module and samples.
        params: Float32 or float64 tensors, each requiring grad, or a mapping from names to them. On return, also by an
            exception, they hold the same values in the same storage; `.grad` is not touched. Pass the parameters of
            one layer for the curvature of that layer.
        vector: One tensor in the shape of each of ``params``.
        process_group: Processes that call alike and hold one share of ``loss_fn`` each, the loss being their sum.

    Returns:
        One tensor in the shape of each of ``params``; zeros for those that the loss does not use.

    Raises:
        ValueError: If ``vector`` does not have the shapes of ``params``, a tensor cannot be used, or the loss is not a
            scalar, is random, or does not depend on ``params``.
        UndefinedCurvatureError: A ValueError, if the loss or the product is not finite.

    Reference:
        Pearlmutter (1994).

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> hessian_vector_product(lambda: (weight**3).sum(), [weight], [torch.tensor([1.0, 2.0])])  # 6 w v
        [tensor([ 6., 12.])]
    """
    vector = each("vector", vector, lambda name, tensor: instance(name, tensor, Tensor))
    with hessian_at(loss_fn, params, process_group) as hessian:
        hessian.check_shapes("vector", vector)
        return hessian.split(hessian(hessian.join(vector)))


@uninterrupted_exit
def hessian_at(loss_fn: LossFunction, params: Params, process_group: ProcessGroup | None) -> Iterator[HessianProducts]:
    """Open the neighbourhood of ``params``, as `loss_surface` does, for products with the Hessian."""
    with loss_surface(loss_fn, params, process_group=process_group) as surface:
        yield HessianProducts(surface)


class HessianProducts:
    """What `hessian_at` yields: called with a vector, all weights in one row, it gives the Hessian times the vector.

    Attributes:
        loss: Loss at the weights; known, like the following, after the first product.
        gradient_norm: Euclidean norm of the gradient there.
        exact: Whether products are by double backward.
        products: How many there were.
    """

    def __init__(self, surface: LossSurface) -> None:
        self.weights = surface.weights
        self.loss = self.gradient_norm = math.nan
        self.exact = True
        self.products = 0
        self._surface = surface
        self._slopes: Sequence[Tensor | None] | None = None  # the gradient of such a loss, with its graph
        self._dtype = max((weight.dtype for weight in self.weights), key=lambda dtype: dtype.itemsize)

    def __call__(self, vector: Tensor) -> Tensor:
        along = self.split(vector)
        product = self.join(self._product(along) if self.products else self._first_product(along))
        self.products += 1
        if not bool(torch.isfinite(product).all()):
            raise UndefinedCurvatureError("a product of the Hessian at params with a vector is not finite")
        return product

    def preconditioned(self, preconditioner: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """Products with ``P^-1/2 H P^-1/2``, P a diagonal of positive numbers; infinite ones hold a weight."""
        given = each("preconditioner", preconditioner, lambda name, tensor: instance(name, tensor, Tensor))
        self.check_shapes("preconditioner", given)
        row = self.join(given)
        if not bool((row > 0).all()):
            raise ValueError(f"preconditioner must be positive, got {float(row.min())!r} in it")
        root = row.rsqrt()
        return lambda vector: root * self(root * vector)

    def check_shapes(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Raise if the tensors that were given under this name do not have the shapes of the weights."""
        shapes, expected = ([tuple(t.shape) for t in row] for row in (tensors, self.weights))
        if shapes != expected:
            raise ValueError(f"{name} must hold one tensor in the shape of each of params, {expected}, got {shapes}")

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """One tensor for each weight, as a row of n numbers."""
        device = self.weights[0].device
        return torch.cat([t.detach().flatten().to(device, self._dtype) for t in tensors])

    def split(self, row: Tensor) -> list[Tensor]:
        """A row of n numbers, as one tensor for each weight."""
        pieces = torch.split(row, [weight.numel() for weight in self.weights])
        return [piece.view(weight.shape).to(weight) for piece, weight in zip(pieces, self.weights, strict=True)]

    def random(self, generator: torch.Generator, *, signs: bool) -> Tensor:
        """A row of random signs, or of normally distributed numbers; the same on processes with equal generators."""
        n = sum(weight.numel() for weight in self.weights)
        if signs:
            row = 2 * torch.randint(2, (n,), generator=generator, dtype=self._dtype) - 1
        else:
            row = torch.randn(n, generator=generator, dtype=self._dtype)
        return row.to(self.weights[0].device)

    def _first_product(self, vector: list[Tensor]) -> list[Tensor]:
        """Also the loss and the gradient, and whether there is a double backward, all processes deciding alike."""
        surface, count = self._surface, len(self.weights)
        missing = ""

        def attempt() -> tuple[float, list[Tensor]]:
            nonlocal missing
            gradient = [torch.zeros_like(weight) for weight in self.weights]

            def derive(part: Tensor) -> Sequence[Tensor]:
                try:
                    slopes = self._slopes_of(part)
                    _check_twice_differentiable(slopes)
                    product = self._curve(slopes, vector)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    raise _NoDoubleBackwardError(str(error).partition("\n")[0] or type(error).__name__) from error
                for total, slope in zip(gradient, slopes, strict=True):
                    if slope is not None:
                        total += slope.detach()
                return product

            try:
                loss, product = surface.over_parts(derive)
            except _NoDoubleBackwardError as error:
                missing = str(error)
                return 0.0, gradient + gradient
            return loss, product + gradient

        loss, tensors = surface.summed(attempt)
        failures, _ = surface.summed(lambda: (float(bool(missing)), []))
        product, gradient = tensors[:count], tensors[count:]
        if failures:
            self.exact, self._slopes = False, None
            loss, gradient = surface.loss_and_gradient()  # where this fails too, the error is that of the loss itself
        self.loss, self.gradient_norm = loss, euclidean_norm(gradient)
        if not math.isfinite(loss):
            raise UndefinedCurvatureError(f"the loss at params must be finite, got {loss!r}")
        surface.check_used()
        surface.check_repeatable()
        if not failures:
            return product
        warnings.warn(
            f"no double backward ({missing or 'on another process'}): Hessian products are by finite differences of "
            "gradients, which are less exact, and see the kinks of ReLU as curvature",
            stacklevel=4,
        )
        return self._product(vector)

    def _product(self, vector: list[Tensor]) -> list[Tensor]:
        surface, slopes = self._surface, self._slopes
        if not self.exact:
            return self._difference(vector)
        if slopes is not None:
            return surface.summed(lambda: (0.0, [t.to_dense() for t in self._curve(slopes, vector)]))[1]
        return surface.summed(lambda: surface.over_parts(lambda part: self._curve(self._slopes_of(part), vector)))[1]

    def _slopes_of(self, part: Tensor) -> Sequence[Tensor | None]:
        """The gradient of a part of the loss, with its graph."""
        slopes = self._surface.gradient(part, create_graph=True)
        if self._surface.came_whole:
            self._slopes = slopes
        return slopes

    def _curve(self, slopes: Sequence[Tensor | None], vector: list[Tensor]) -> Sequence[Tensor]:
        """The derivative of ``slopes`` times ``vector``; slopes that do not bend add nothing."""
        bent = [(s, v) for s, v in zip(slopes, vector, strict=True) if s is not None and s.requires_grad]
        if not bent:
            return [torch.zeros_like(weight) for weight in self.weights]
        ends, along = zip(*bent, strict=True)
        return torch.autograd.grad(
            ends, self.weights, along, retain_graph=self._surface.came_whole, materialize_grads=True
        )

    def _difference(self, vector: list[Tensor]) -> list[Tensor]:
        """``(g(x + h v) - g(x - h v)) / (2 h)``."""
        length = euclidean_norm(vector)
        if not length:
            return vector
        relative = max(_STEP[weight.dtype] for weight in self.weights)
        h = relative * (1 + euclidean_norm(self._surface.centre)) / length
        gradients = []
        for step in (h, -h):
            self._surface.move(step * v for v in vector)
            gradients.append(self._surface.loss_and_gradient()[1])
        return [(ahead - behind) / (2 * h) for ahead, behind in zip(*gradients, strict=True)]


class _NoDoubleBackwardError(Exception):
    """Autograd could not differentiate twice."""


def _check_twice_differentiable(slopes: Sequence[Tensor | None]) -> None:
    """Raise the error of `once_differentiable`, which torch.autograd.grad goes around and takes for a zero."""
    if any(node.name() == "torch::autograd::Error" for node in graph_behind(slopes)):
        raise RuntimeError("an autograd function is marked with @once_differentiable")
