"""How noisy the gradient is: the batch size beyond which larger batches stop paying, and the learning rate there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .counts import check_counts


@dataclass(frozen=True)
class GradientNoise:
    """Estimates of the mean gradient G over all samples and of the covariance Sigma of the gradient of one sample.

    Each is unbiased, so that those of a small gradient may come out negative by chance: average several measurements,
    and divide last, as `RatioAverage` does. The Hessian of the loss is H.

    Attributes:
        gradient_norm_squared: ``|G|^2``.
        variance: ``tr Sigma``, the variance of the gradient of one sample, summed over the weights.
        gradient_curvature: ``G . H G``; NaN where it was not measured.
        curvature_variance: ``tr(H Sigma)``; NaN where it was not measured.
    """

    gradient_norm_squared: float
    variance: float
    gradient_curvature: float = math.nan
    curvature_variance: float = math.nan

    @property
    def simple_scale(self) -> float:
        """``tr Sigma / |G|^2`` in samples; NaN where an estimate is not positive."""
        return _positive_ratio(self.variance, self.gradient_norm_squared)

    @property
    def critical_batch(self) -> float:
        """``tr(H Sigma) / (G . H G)`` in samples; NaN where an estimate is not positive or was not measured."""
        return _positive_ratio(self.curvature_variance, self.gradient_curvature)


def noise_from_norms(
    small_norm_squared: float, large_norm_squared: float, *, small_batch_size: int, large_batch_size: int
) -> GradientNoise:
    """The noise of the gradient from its lengths at two batch sizes.

    Args:
        small_norm_squared: Squared norm of the gradient of a small batch, best the mean over many of them.
        large_norm_squared: The same of a large batch.
        small_batch_size: Samples in each small batch.
        large_batch_size: Samples in each large batch.

    Raises:
        ValueError: If a size is not a whole number, at least 1, or the large batch is not the larger one.

    Reference:
        McCandlish, Kaplan and Amodei (2018), appendix A.1.

    Example:
        >>> noise_from_norms(13.0, 4.0, small_batch_size=1, large_batch_size=4).simple_scale  # |G|^2 = 1, tr Sigma = 12
        12.0
    """
    check_counts(small_batch_size=small_batch_size, large_batch_size=large_batch_size)
    if large_batch_size <= small_batch_size:
        raise ValueError(
            f"large_batch_size must exceed small_batch_size={small_batch_size}, got {large_batch_size}; "
            "two sizes are needed to tell the gradient from its noise"
        )
    b, larger = small_batch_size, large_batch_size
    return GradientNoise(
        gradient_norm_squared=(larger * large_norm_squared - b * small_norm_squared) / (larger - b),
        variance=(small_norm_squared - large_norm_squared) / (1 / b - 1 / larger),
    )


class RatioAverage:
    """Exponential moving averages of two noisy estimates, divided last: the mean of ratios would be biased.

    Args:
        decay: Weight of what is known against what is new, from 0 (only the newest counts) to below 1.

    Raises:
        ValueError: If ``decay`` is out of range; from `update`, if a number is not finite.

    Reference:
        McCandlish, Kaplan and Amodei (2018), appendix A.1.

    Example:
        >>> average = RatioAverage(decay=0.5)
        >>> for numerator, denominator in [(6.0, -1.0), (6.0, 3.0)]:
        ...     average.update(numerator, denominator)
        >>> round(average.ratio, 3)  # 6 over (-1 / 3 + 3 * 2 / 3)
        3.6
    """

    def __init__(self, decay: float) -> None:
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, for instance 0.5, got {decay!r}")
        self.decay = decay
        self._sums = [0.0, 0.0, 0.0]  # of numerators, denominators and weights

    def update(self, numerator: float, denominator: float) -> None:
        """Take in one measurement, negative ones as they are: clipped, they would not average to the truth."""
        if not (math.isfinite(numerator) and math.isfinite(denominator)):
            raise ValueError(
                f"numerator and denominator must be finite, got {numerator} and {denominator}; leave it out"
            )
        new = (numerator, denominator, 1.0)
        self._sums = [self.decay * old + (1 - self.decay) * n for old, n in zip(self._sums, new, strict=True)]

    @property
    def averages(self) -> tuple[float, float]:
        """Of the numerators and of the denominators; NaN before the first measurement."""
        numerator, denominator, weight = self._sums
        return (numerator / weight, denominator / weight) if weight else (math.nan, math.nan)

    @property
    def ratio(self) -> float:
        """The one over the other; NaN where one of them is not positive."""
        return _positive_ratio(*self.averages)

    def state_dict(self) -> dict[str, list[float]]:
        return {"sums": list(self._sums)}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        self._sums = list(state_dict["sums"])


def optimal_learning_rate(batch_size: int, *, noise_scale: float, max_learning_rate: float) -> float:
    """The learning rate that lowers the loss most in one step of SGD: ``max_learning_rate / (1 + noise_scale / B)``.

    Args:
        batch_size: B, samples per optimizer step.
        noise_scale: Samples.
        max_learning_rate: The best rate without noise, that of a very large batch.

    Raises:
        ValueError: If a number is not positive.

    Reference:
        McCandlish, Kaplan and Amodei (2018), equation 2.6.

    Example:
        >>> optimal_learning_rate(300, noise_scale=900.0, max_learning_rate=1.0)
        0.25
    """
    check_counts(batch_size=batch_size)
    for name, value in (("noise_scale", noise_scale), ("max_learning_rate", max_learning_rate)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, got {value!r}")
    return max_learning_rate / (1 + noise_scale / batch_size)


def learning_rate_gain(batch_size: int, base_batch_size: int, *, noise_scale: float) -> float:
    """Factor on SGD's `optimal_learning_rate` between batch sizes: linear far below the noise scale, 1 far above.

    Example:
        >>> learning_rate_gain(900, 100, noise_scale=900.0)  # linear would be 9
        5.0
    """
    rate, base = (
        optimal_learning_rate(size, noise_scale=noise_scale, max_learning_rate=1.0)
        for size in (batch_size, base_batch_size)
    )
    return rate / base


def _positive_ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if numerator > 0 and denominator > 0 else math.nan
