"""How noisy the gradient is: the batch size beyond which larger batches stop paying, and the learning rate there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from .._validation import check_counts, one_of, real_number, set_plain, whole_number


@dataclass(frozen=True)
class GradientNoise:
    """Estimates of the mean gradient G over all samples and of the covariance Sigma of the gradient of one sample.

    Each is unbiased, so that those of a small gradient may come out negative by chance: average several measurements,
    and divide last, as `RatioAverage` does. The Hessian of the loss is H. Where a scale is not known it is NaN, and
    `reason` says why.

    Attributes:
        gradient_norm_squared: ``|G|^2``.
        variance: ``tr Sigma``, the variance of the gradient of one sample, summed over the weights.
        gradient_curvature: ``G . H G``; NaN where it was not measured.
        curvature_variance: ``tr(H Sigma)``; NaN where it was not measured.
        measured_norm_squared: ``|g|^2`` of the gradient g of all samples measured, with its noise: never negative.
            Where it is not given, the magnitude of the first.

    Reference:
        McCandlish, Kaplan and Amodei (2018), equations 2.7 and 2.8.

    Example:
        >>> GradientNoise(gradient_norm_squared=2.0, variance=12.0).simple_scale  # samples
        6.0
    """

    gradient_norm_squared: float
    variance: float
    gradient_curvature: float = math.nan
    curvature_variance: float = math.nan
    measured_norm_squared: float = field(default=math.nan, repr=False)

    def __post_init__(self) -> None:
        if math.isnan(self.measured_norm_squared):
            set_plain(self, measured_norm_squared=abs(self.gradient_norm_squared))

    @property
    def simple_scale(self) -> float:
        """``tr Sigma / |G|^2`` in samples; NaN where an estimate is not positive."""
        return _positive_ratio(self.variance, self.gradient_norm_squared)

    @property
    def critical_batch(self) -> float:
        """``tr(H Sigma) / (G . H G)`` in samples; NaN where an estimate is not positive or was not measured."""
        return _positive_ratio(self.curvature_variance, self.gradient_curvature)

    def reason(self, scale: Literal["simple_scale", "critical_batch"]) -> str:
        """Why a scale is NaN, in a few words; empty where it is known.

        Example:
            >>> GradientNoise(gradient_norm_squared=-0.1, variance=12.0).reason("simple_scale")
            '|G|^2 comes out as -0.1, the gradient is too small to be told from its noise'
        """
        if not math.isnan(getattr(self, one_of("scale", scale, ("simple_scale", "critical_batch")))):
            return ""
        if self.variance <= 0:
            return "the gradients are equal up to rounding, and show no noise"
        if scale == "simple_scale":
            length = self.gradient_norm_squared
            return f"|G|^2 comes out as {length:.3g}, the gradient is too small to be told from its noise"
        across, along = self.curvature_variance, self.gradient_curvature
        if math.isnan(across):
            return "tr(H Sigma) was not measured"
        if across <= 0:
            return f"tr(H Sigma) comes out as {across:.3g}, the loss curves down, or not at all, along the noise"
        return f"G . H G comes out as {along:.3g}, the loss curves down along its gradient, or noise hides it"


def noise_from_norms(
    small_norm_squared: float, large_norm_squared: float, *, small_batch_size: int, large_batch_size: int
) -> GradientNoise:
    """The noise of the gradient from its norms at two batch sizes.

    Args:
        small_norm_squared: Squared norm of the gradient of a small batch, best the mean over many of them.
        large_norm_squared: The same of a large batch.
        small_batch_size: Samples in each small batch.
        large_batch_size: Samples in each large batch.

    Returns:
        Unbiased estimates of ``|G|^2`` and ``tr Sigma``; the curvatures are NaN.

    Raises:
        ValueError: If a size is not a whole number, at least 1, the large batch is not the larger one, or a squared
            norm is negative.

    Reference:
        McCandlish, Kaplan and Amodei (2018), appendix A.1.

    Example:
        >>> noise_from_norms(13.0, 4.0, small_batch_size=1, large_batch_size=4).simple_scale  # |G|^2 = 1, tr Sigma = 12
        12.0
    """
    small_batch_size, large_batch_size = check_counts(
        unit="samples", small_batch_size=small_batch_size, large_batch_size=large_batch_size
    )
    if large_batch_size <= small_batch_size:
        raise ValueError(
            f"large_batch_size must exceed small_batch_size={small_batch_size}, got {large_batch_size}; "
            "two sizes are needed to tell the gradient from its noise"
        )
    norms = {"small_norm_squared": small_norm_squared, "large_norm_squared": large_norm_squared}
    small_norm_squared, large_norm_squared = (_squared(name, value) for name, value in norms.items())
    b, larger = small_batch_size, large_batch_size
    return GradientNoise(
        gradient_norm_squared=(larger * large_norm_squared - b * small_norm_squared) / (larger - b),
        variance=(small_norm_squared - large_norm_squared) / (1 / b - 1 / larger),
        measured_norm_squared=large_norm_squared,
    )


class RatioAverage:
    """Exponential moving averages of two noisy estimates, divided last: the mean of ratios would be biased.

    ``A <- decay^t A + (1 - decay^t) x / s``, with t the `elapsed` and s the ``scale`` of each measurement x, and
    divided by the same average of ones. So a measurement counts for the time since the one before it, however many
    were left out in between, and its size does not decide how much it counts.

    Args:
        decay: Weight of the average against a new measurement after one unit of time, from 0 (only the newest counts)
            to below 1.

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
        self.decay = real_number("decay", decay, at_least=0, below=1, hint="try 0.5")
        self._sums = [0.0, 0.0, 0.0]  # of numerators, denominators and weights

    def update(self, numerator: float, denominator: float, *, scale: float = 1.0, elapsed: float = 1.0) -> None:
        """Take in one measurement, negative ones as they are: clipped, they would not average to the truth.

        Args:
            numerator: First estimate.
            denominator: Second estimate.
            scale: What both are divided by: their common size, where it changes by orders of magnitude in a run.
            elapsed: Time since the measurement before, for instance in epochs.
        """
        numerator = real_number("numerator", numerator, hint="leave the measurement out")
        denominator = real_number("denominator", denominator, hint="leave the measurement out")
        scale, elapsed = real_number("scale", scale, above=0), real_number("elapsed", elapsed, at_least=0)
        keep = self.decay**elapsed if self._sums[2] or elapsed else self.decay
        new = (numerator / scale, denominator / scale, 1.0)
        self._sums = [keep * old + (1 - keep) * n for old, n in zip(self._sums, new, strict=True)]

    @property
    def averages(self) -> tuple[float, float]:
        """Of the numerators and of the denominators, over their scales; NaN before the first measurement."""
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
        max_learning_rate: The best learning rate without noise, that of a very large batch.

    Returns:
        The learning rate, in units of ``max_learning_rate``.

    Raises:
        ValueError: If a number is not positive.

    Reference:
        McCandlish, Kaplan and Amodei (2018), equation 2.6.

    Example:
        >>> optimal_learning_rate(300, noise_scale=900.0, max_learning_rate=1.0)
        0.25
    """
    batch_size = whole_number("batch_size", batch_size, unit="samples")
    noise_scale = real_number("noise_scale", noise_scale, above=0)
    max_learning_rate = real_number("max_learning_rate", max_learning_rate, above=0)
    return max_learning_rate / (1 + noise_scale / batch_size)


def learning_rate_gain(batch_size: int, base_batch_size: int, *, noise_scale: float) -> float:
    """Factor on SGD's `optimal_learning_rate` between batch sizes: linear far below the noise scale, 1 far above.

    ``(1 + noise_scale / base_batch_size) / (1 + noise_scale / batch_size)``.

    Args:
        batch_size: Samples per optimizer step.
        base_batch_size: Samples per optimizer step for which the learning rate was chosen.
        noise_scale: Samples, for instance `GradientNoise.simple_scale`.

    Returns:
        The factor, dimensionless.

    Raises:
        ValueError: If a number is not positive.

    Reference:
        McCandlish, Kaplan and Amodei (2018), equation 2.6.

    Example:
        >>> learning_rate_gain(900, 100, noise_scale=900.0)  # linear would be 9
        5.0
    """
    sizes = check_counts(unit="samples", batch_size=batch_size, base_batch_size=base_batch_size)
    rate, base = (optimal_learning_rate(size, noise_scale=noise_scale, max_learning_rate=1.0) for size in sizes)
    return rate / base


def _squared(name: str, value: float) -> float:
    """A number from 0 on; what is not finite, after an overflow for instance, makes the estimates NaN."""
    number = real_number(name, value, at_least=0, finite=False)
    return number if math.isfinite(number) else math.nan


def _positive_ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if numerator > 0 and denominator > 0 else math.nan
