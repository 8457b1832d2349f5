"""How noisy the gradient is: the batch size beyond which larger batches stop paying, and the learning rate there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, get_rank, get_world_size

from .hessian_products import HessianProducts
from .loss_surface import LossFunction, LossSurface, Params, euclidean_norm, loss_surface
from .processes import sum_over_processes


class UndefinedNoiseError(ValueError):
    """The loss at the weights, or the gradient of a part of it, is not finite."""


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
    _check_counts(small_batch_size=small_batch_size, large_batch_size=large_batch_size)
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


def gradient_noise(
    loss_fn: LossFunction,
    params: Params,
    *,
    sizes: Sequence[int],
    probes: int = 0,
    population: int | None = None,
    generator: torch.Generator | None = None,
    process_group: ProcessGroup | None = None,
) -> GradientNoise:
    """The noise of the gradient at ``params``, in one pass over the parts of the loss.

    ``tr Sigma`` is the variance between the parts, which may differ in size: ``sum n_i |g_i - g|^2 / (m - 1)`` over m
    parts. ``|G|^2`` is ``|g|^2`` less the share of the noise in it. Of the gradients only sums are kept: one row of n
    numbers, and one for each probe. A probe is ``v = sum e_i sqrt(n_i) (g_i - g)`` with random signs e_i, for which
    ``v . H v / (m - 1)`` has the mean ``tr(H Sigma)``.

    Args:
        loss_fn: Yields the parts of the mean loss, each the mean over its own samples times their share of all, as
            `DatasetLoss` does with several batches. Every sample must count alone: no BatchNorm over the batch.
        params: Tensors the loss depends on, as in `hessian_vector_product`.
        sizes: Samples behind each part, in order; on one of several processes those of its own parts.
        probes: Random vectors for ``tr(H Sigma)``, a product with the Hessian each, and one more for ``G . H G``; 0
            leaves both out. Four times as many halve the chance that they add.
        population: Samples in the training set from which those behind the loss were drawn without repetition, so
            that G is its gradient; None for a set without end.
        generator: Source of the signs, on the CPU; seed 0 by default.
        process_group: Processes that share the loss; parts are dealt out in turn, as `DatasetLoss` does.

    Raises:
        ValueError: If there are fewer than two parts, ``sizes`` are not those of the parts, a count is out of range,
            or the loss cannot be used; see `hessian_vector_product`.
        UndefinedNoiseError: A ValueError, if the loss or the gradient of a part is not finite.
        UndefinedCurvatureError: A ValueError, if a product with the Hessian is not finite.

    Reference:
        McCandlish, Kaplan and Amodei (2018), section 2.2 and appendix A.1.

    Example:
        >>> weight = torch.zeros(1, requires_grad=True)
        >>> gradient_noise(lambda: ((weight - x).square().sum() / 4 for x in (1.0, 3.0)), [weight], sizes=[1, 1])
        GradientNoise(gradient_norm_squared=3.0, variance=2.0, gradient_curvature=nan, curvature_variance=nan)
    """
    _check_counts(probes=1 if probes == 0 else probes, population=1 if population is None else population)
    signs = _signs(probes, generator or torch.Generator().manual_seed(0), process_group)
    with loss_surface(loss_fn, params, process_group=process_group) as surface:
        hessian = HessianProducts(surface)
        (loss, squares, parts, samples, *offsets), (mean, *probed) = sum_over_processes(
            lambda: _sums(surface, hessian, sizes, probes, signs),
            numbers=4 + probes,
            process_group=process_group,
            device=surface.weights[0].device,
        )
        if not math.isfinite(loss + squares):
            raise UndefinedNoiseError(f"the loss at params and its gradients must be finite, got a loss of {loss}")
        surface.check_used()
        surface.check_repeatable()
        if parts < 2:
            raise ValueError(f"sizes must name at least two parts, got {list(sizes)}; use smaller batches")
        if population is not None and population < samples:
            raise ValueError(f"population must be at least the {samples:.0f} samples behind the loss, got {population}")
        share = 1 / samples - (1 / population if population else 0)  # of one sample's noise, what is in the mean
        norm_squared = euclidean_norm([mean]) ** 2
        variance = (samples**2 * squares - samples * norm_squared) / (parts - 1)
        if not probes:
            return GradientNoise(norm_squared - share * variance, variance)
        rows = [samples * row - offset * mean for row, offset in zip(probed, offsets, strict=True)]
        across = math.fsum(float(row @ hessian(row)) for row in rows) / (probes * (parts - 1))
        along = float(mean @ hessian(mean))
        if not math.isfinite(along + across):
            raise UndefinedNoiseError("the curvature along the gradients is too large for their type")
        return GradientNoise(norm_squared - share * variance, variance, along - share * across, across)


def _sums(
    surface: LossSurface, hessian: HessianProducts, sizes: Sequence[int], probes: int, signs: Iterator[list[int]]
) -> tuple[list[float], list[Tensor]]:
    """What one pass adds up over the parts, whose gradients are ``p_i = g_i n_i / n``.

    The loss, ``|p_i|^2 / n_i``, parts, samples and for each probe ``e_i sqrt(n_i)``; as rows, ``p_i`` and for each
    probe ``e_i p_i / sqrt(n_i)``.
    """
    squares: list[float] = []
    offsets = [0.0] * probes
    probed = [torch.zeros_like(hessian.join(hessian.weights)) for _ in range(probes)]

    def derive(part: Tensor) -> list[Tensor]:
        size = sizes[len(squares)] if len(squares) < len(sizes) else 0
        if size < 1:
            raise ValueError(f"sizes must name at least one sample for each part of the loss, got {list(sizes)}")
        slopes = [
            torch.zeros_like(weight) if slope is None else slope.to_dense()
            for slope, weight in zip(surface.gradient(part), surface.weights, strict=True)
        ]
        squares.append(euclidean_norm(slopes) ** 2 / size)
        row = hessian.join(slopes) / math.sqrt(size)
        for k, sign in enumerate(next(signs)):
            offsets[k] += sign * math.sqrt(size)
            probed[k].add_(row, alpha=sign)
        return slopes

    loss, gradient = surface.over_parts(derive)
    if len(squares) != len(sizes):
        raise ValueError(f"sizes must be those of the {len(squares)} parts of the loss, got {list(sizes)}")
    return [loss, math.fsum(squares), len(squares), sum(sizes), *offsets], [hessian.join(gradient), *probed]


def _signs(probes: int, generator: torch.Generator, process_group: ProcessGroup | None) -> Iterator[list[int]]:
    """Random signs, one for each probe, for this process's parts in order: those that it has on a single process."""
    rank, processes = (get_rank(process_group), get_world_size(process_group)) if process_group else (0, 1)
    while True:
        yield (2 * torch.randint(2, (processes, probes), generator=generator) - 1)[rank].tolist()


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
    _check_counts(batch_size=batch_size)
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


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, got {count!r}")


def _positive_ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if numerator > 0 and denominator > 0 else math.nan
