"""Is the batch large enough? The tests by which adaptive sampling methods answer, from small gradients within it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .._validation import instance, real_number, whole_number
from .gradient_statistics import GradientStatistics

_HINT = "as gradient_statistics gives them"


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
        >>> import torch
        >>> from lightning_gap.functional import gradient_statistics
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
        >>> import torch
        >>> from lightning_gap.functional import gradient_statistics
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
        >>> import torch
        >>> from lightning_gap.functional import gradient_statistics
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
        >>> import torch
        >>> from lightning_gap.functional import gradient_statistics
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
        >>> import torch
        >>> from lightning_gap.functional import gradient_statistics
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
