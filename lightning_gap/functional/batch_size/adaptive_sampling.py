"""Is the batch large enough? The tests by which adaptive sampling methods answer, from small gradients within it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .._processes import sum_over_processes
from .._validation import checked_group, each, instance, real_number, refusal, set_plain, whole_number
from ..noise_scale.noise_scale import GradientNoise, noise_from_norms

_HINT = "as gradient_statistics gives them"


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
        """Variance of the gradient of one sample, summed over the weights: b times that of the g_i."""
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


@dataclass(frozen=True)
class BatchTest:
    """Result of a test.

    Attributes:
        statistic: Left side of the test over its right side, at most 1 where it passes.
        batch_size: Samples with which it would just pass by these estimates, also where it passes now; None where the
            gradient is zero or not finite, which tells nothing.

    Example:
        >>> found = BatchTest(statistic=1.6, batch_size=26)
        >>> found.passes, found.batch_size
        (False, 26)
    """

    statistic: float
    batch_size: int | None

    @property
    def passes(self) -> bool:
        """Whether the batch is large enough."""
        return self.statistic <= 1


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


def norm_test(statistics: GradientStatistics, *, theta: float = 0.9, population: int | None = None) -> BatchTest:
    """The norm test: is the noise of the batch's gradient small against its norm?

    ``variance / |S| <= theta^2 |g|^2``, for a batch of ``|S|`` samples.

    Args:
        statistics: Of the batch.
        theta: Noise allowed, relative to the norm of the gradient. The paper leaves it free between 0 and 1; this
            is the value of `inner_product_test`.
        population: Samples in the training set, from which the batch was drawn without repetition: multiplies the left
            side by ``(N - |S|) / (N - 1)``. None for a set without end.

    Returns:
        Left side over right side, and the batch size, in samples, that would just pass.

    Raises:
        ValueError: If ``theta`` is not positive, or the population is smaller than the batch.

    Reference:
        Byrd, Chin, Nocedal and Wu (2012), section 3.

    Example:
        >>> statistics = gradient_statistics([torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0])], samples_each=8)
        >>> norm_test(statistics, theta=0.5)  # 32 / 16 against 0.25 * 5
        BatchTest(statistic=1.6, batch_size=26)
    """
    instance("statistics", statistics, GradientStatistics, hint=_HINT)
    theta = real_number("theta", theta, above=0)
    return _test(statistics, statistics.variance, theta**2 * statistics.mean_norm_squared, population)


def inner_product_test(
    statistics: GradientStatistics, *, theta: float = 0.9, population: int | None = None
) -> BatchTest:
    """The inner-product test: does the batch's gradient point downhill with high probability?

    ``variance_along / |S| <= theta^2 |g|^4``.

    Args:
        statistics: Of the batch.
        theta: Noise allowed along the gradient, relative to its norm. Default: the paper's.
        population: As in `norm_test`.

    Returns:
        As `norm_test`.

    Raises:
        ValueError: As in `norm_test`.

    Reference:
        Bollapragada, Byrd and Nocedal (2018), section 2.

    Example:
        >>> statistics = gradient_statistics([torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0])], samples_each=8)
        >>> inner_product_test(statistics, theta=0.1).batch_size  # 8 * 2 along, against 0.01 * 25
        64
    """
    instance("statistics", statistics, GradientStatistics, hint=_HINT)
    theta = real_number("theta", theta, above=0)
    return _test(statistics, statistics.variance_along, theta**2 * statistics.mean_norm_squared**2, population)


def orthogonality_test(statistics: GradientStatistics, *, nu: float = 5.84, population: int | None = None) -> BatchTest:
    """The orthogonality test: does the batch's gradient keep to one direction?

    ``variance_across / |S| <= nu^2 |g|^2``.

    Args:
        statistics: Of the batch.
        nu: Noise allowed across the gradient, relative to its norm. Default: the paper's, the tangent of 80 degrees.
        population: As in `norm_test`.

    Returns:
        As `norm_test`.

    Raises:
        ValueError: If ``nu`` is not positive, or the population is smaller than the batch.

    Reference:
        Bollapragada, Byrd and Nocedal (2018), section 2.

    Example:
        >>> statistics = gradient_statistics([torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0])], samples_each=8)
        >>> orthogonality_test(statistics, nu=0.5).batch_size  # 8 * 3.6 across, against 0.25 * 5
        24
    """
    instance("statistics", statistics, GradientStatistics, hint=_HINT)
    nu = real_number("nu", nu, above=0)
    return _test(statistics, statistics.variance_across, nu**2 * statistics.mean_norm_squared, population)


def augmented_inner_product_test(
    statistics: GradientStatistics, *, theta: float = 0.9, nu: float = 5.84, population: int | None = None
) -> BatchTest:
    """The augmented inner-product test: `inner_product_test` and `orthogonality_test` must both pass.

    Args:
        statistics: Of the batch.
        theta: As in `inner_product_test`.
        nu: As in `orthogonality_test`.
        population: As in `norm_test`.

    Returns:
        The result of the test that asks for the larger batch.

    Raises:
        ValueError: As in the two tests.

    Reference:
        Bollapragada, Byrd and Nocedal (2018), section 2.

    Example:
        >>> statistics = gradient_statistics([torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0])], samples_each=8)
        >>> augmented_inner_product_test(statistics, theta=0.1, nu=0.5).batch_size
        64
    """
    along = inner_product_test(statistics, theta=theta, population=population)
    across = orthogonality_test(statistics, nu=nu, population=population)
    return across if across.statistic > along.statistic else along


def cabs(statistics: GradientStatistics, *, learning_rate: float, loss: float) -> BatchTest:
    """The batch size that fits the learning rate: ``learning_rate * variance / loss``, rounded up.

    For SGD with one learning rate and without momentum, and a loss whose lowest value is 0. The authors smooth variance
    and loss over the steps, and keep the batch within bounds; that is left to the caller.

    Args:
        statistics: Of the batch.
        learning_rate: Learning rate of SGD.
        loss: Mean loss of the batch; one that is not finite, as of a run that has diverged, gives no batch size.

    Returns:
        The wanted size over the batch's, and the wanted size in samples.

    Raises:
        ValueError: If learning rate or loss is not positive.

    Reference:
        Balles, Romero and Hennig (2017).

    Example:
        >>> statistics = gradient_statistics([torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0])], samples_each=8)
        >>> cabs(statistics, learning_rate=0.5, loss=0.25)  # 0.5 * 32 / 0.25 = 64 samples, four times the 16
        BatchTest(statistic=4.0, batch_size=64)
    """
    instance("statistics", statistics, GradientStatistics, hint=_HINT)
    learning_rate = real_number("learning_rate", learning_rate, above=0)
    loss = real_number("loss", loss, above=0, finite=False)
    loss = loss if math.isfinite(loss) else math.nan  # of a run that has diverged
    return _test(statistics, learning_rate * statistics.variance, loss, None)


def _test(statistics: GradientStatistics, noise: float, bound: float, population: int | None) -> BatchTest:
    """The test ``noise / |S| <= bound``."""
    needed = noise / bound if bound else math.inf if noise else math.nan
    statistic = needed / statistics.batch_size
    if population is not None:
        population = whole_number("population", population)
        if population < max(2, statistics.batch_size):
            raise ValueError(f"population must be at least the batch of {statistics.batch_size}, got {population}")
        statistic *= (population - statistics.batch_size) / (population - 1)
        needed *= population / (population - 1 + needed)  # where the two sides are equal
    return BatchTest(statistic, max(1, math.ceil(needed)) if math.isfinite(needed) else None)


def _row(name: str, gradient: object) -> Tensor:
    """All entries of a gradient in one row, in float32 at least."""
    parts = [gradient] if isinstance(gradient, Tensor) else gradient
    if not isinstance(parts, list | tuple) or not parts or not all(isinstance(part, Tensor) for part in parts):
        raise ValueError(refusal(name, "must be tensors, or lists of tensors, one for each small batch", gradient))
    return torch.cat([p.detach().flatten().to(torch.promote_types(p.dtype, torch.float32)) for p in parts])
