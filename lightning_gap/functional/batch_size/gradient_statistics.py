"""What small gradients within a batch tell of its noise: the sums that the tests of adaptive sampling need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .._processes import sum_over_processes
from .._validation import checked_group, each, real_number, refusal, set_plain, whole_number
from ..noise_scale.noise_scale import GradientNoise, noise_from_norms


@dataclass(frozen=True)
class GradientStatistics:
    """What the tests need of the M gradients g_i, each the mean over b samples, and of their mean g.

    Attributes:
        gradients: M, at least 2.
        samples_each: b; 1 for the gradients of single samples.
        sum_of_norms_squared: Sum of ``|g_i|^2``.
        mean_norm_squared: ``|g|^2``.
        sum_of_products_squared: Sum of ``(g_i . g)^2``.

    Raises:
        ValueError: If there are fewer than two gradients, or ``samples_each`` is below 1.

    Example:
        >>> statistics = GradientStatistics(2, 8, 14.0, 5.0, 50.0)  # of the example of `gradient_statistics`
        >>> statistics.batch_size, statistics.variance
        (16, 32.0)
    """

    gradients: int
    samples_each: int
    sum_of_norms_squared: float
    mean_norm_squared: float
    sum_of_products_squared: float

    def __post_init__(self) -> None:
        set_plain(
            self,
            gradients=whole_number("gradients", self.gradients, 2),
            samples_each=whole_number("samples_each", self.samples_each),
            **{
                name: real_number(name, getattr(self, name), finite=False)
                for name in ("sum_of_norms_squared", "mean_norm_squared", "sum_of_products_squared")
            },
        )

    @property
    def batch_size(self) -> int:
        """Samples in all of them."""
        return self.gradients * self.samples_each

    @property
    def variance(self) -> float:
        """Variance of the gradient of one sample, summed over the weights, which is b times that of the g_i."""
        return self.samples_each * self._spread(self.sum_of_norms_squared, self.mean_norm_squared)

    @property
    def variance_along(self) -> float:
        """Variance of ``g_i . g`` for a single sample."""
        return self.samples_each * self._spread(self.sum_of_products_squared, self.mean_norm_squared**2)

    @property
    def variance_across(self) -> float:
        """Variance of the gradient of one sample orthogonal to g, summed over the weights."""
        along = self.sum_of_products_squared / self.mean_norm_squared if self.mean_norm_squared else 0.0
        return self.samples_each * self._spread(self.sum_of_norms_squared - along, 0.0)

    @property
    def noise(self) -> GradientNoise:
        """The noise of the gradient, from its norms at the two batch sizes b and M b."""
        small = self.sum_of_norms_squared / self.gradients
        sizes = {"small_batch_size": self.samples_each, "large_batch_size": self.batch_size}
        return noise_from_norms(small, self.mean_norm_squared, **sizes)

    def _spread(self, total: float, of_mean: float) -> float:
        """Sample variance from a sum of squares."""
        spread = total - self.gradients * of_mean
        return (0.0 if spread < 0 else spread) / (self.gradients - 1)  # rounding below 0, and NaN stays NaN


def gradient_statistics(
    gradients: Sequence[Tensor | Sequence[Tensor]], *, samples_each: int, process_group: ProcessGroup | None = None
) -> GradientStatistics:
    """Sum up small gradients for the tests.

    Args:
        gradients: Mean gradients over equally many samples each, of single samples, micro-batches or processes: a
            tensor or a list of tensors for each, in the shapes of the weights. On several processes each has its own.
        samples_each: Samples in each.
        process_group: Processes whose gradients count together; one sum of all weights is exchanged.

    Returns:
        The sums that the tests need, equal on all processes.

    Raises:
        ValueError: If there are fewer than two gradients, their shapes differ, or ``samples_each`` is below 1.

    Example:
        >>> found = gradient_statistics([torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0])], samples_each=8)
        >>> found.mean_norm_squared, found.variance
        (5.0, 32.0)
    """
    samples_each = whole_number("samples_each", samples_each)
    group = checked_group(process_group)
    rows = each("gradients", gradients, _row)
    device = rows[0].device if rows else None

    def add_up() -> tuple[list[float], list[Tensor]]:
        if len({len(row) for row in rows}) != 1:
            raise ValueError(f"gradients must all have the same shapes, got {[len(row) for row in rows]} numbers")
        return [len(rows)], [sum(rows[1:], rows[0].clone())]

    (count,), (total,) = sum_over_processes(add_up, numbers=1, process_group=group, device=device)
    if count < 2:
        raise ValueError(
            f"gradients must be at least 2 to tell their noise, got {count:.0f}; use smaller micro-batches"
        )
    mean = total / count

    def compare() -> tuple[list[float], list[Tensor]]:
        norms = math.fsum(float(row @ row) for row in rows)
        return [norms, math.fsum(float(row @ mean) ** 2 for row in rows)], []

    (norms, products), _ = sum_over_processes(compare, numbers=2, process_group=group, device=device)
    return GradientStatistics(int(count), samples_each, norms, float(mean @ mean), products)


def _row(name: str, gradient: object) -> Tensor:
    """All entries of a gradient in one row, in float32 at least."""
    parts = [gradient] if isinstance(gradient, Tensor) else gradient
    if not isinstance(parts, list | tuple) or not parts or not all(isinstance(part, Tensor) for part in parts):
        raise ValueError(refusal(name, "must be tensors, or lists of tensors, one for each small batch", gradient))
    return torch.cat([p.detach().flatten().to(torch.promote_types(p.dtype, torch.float32)) for p in parts])
