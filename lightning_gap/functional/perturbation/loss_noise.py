"""Multiplicative noise: each sample's loss weighted at random, so that a large batch is as noisy as a small one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._validation import check_counts, instance, real_number, refusal, whole_number


def sigma_for(batch_size: int, imitated: int) -> float:
    """Standard deviation of the noise with which a large batch has the gradient covariance of a small one.

    The mean gradient over B samples, each weighted by ``z ~ N(1, sigma^2)``, has the covariance
    ``((1 + sigma^2) E[g g^T] - E[g] E[g]^T) / B``. With ``sigma^2 = B / b - 1`` this is that of a batch of b samples,
    plus ``(1 / b - 1 / B) E[g] E[g]^T``: right where the mean gradient is small beside its noise.

    Args:
        batch_size: B, samples per optimizer step over all processes.
        imitated: b, the batch size to imitate, at most B.

    Returns:
        ``sqrt(B / b - 1)``.

    Raises:
        ValueError: If a batch size is no whole number of at least 1, or ``imitated`` exceeds ``batch_size``.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 4.

    Example:
        >>> sigma_for(640, 128)
        2.0
    """
    batch_size, imitated = check_counts(unit="samples", batch_size=batch_size, imitated=imitated)
    if imitated > batch_size:
        raise ValueError(refusal("imitated", f"must be at most batch_size, {batch_size}", imitated))
    return math.sqrt(batch_size / imitated - 1)


def noise_weights(
    samples: int,
    sigma: float,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw ``z ~ N(1, sigma^2)`` for each sample; some are negative where sigma is above about 0.4.

    Args:
        samples: How many to draw.
        sigma: Standard deviation, for instance `sigma_for` two batch sizes. At 0 every z is exactly 1.
        generator: Source of the numbers, on any device; torch's global one for None.
        dtype: Floating-point type of z; torch's default for None.
        device: Where z is wanted; that of the generator, or torch's default, for None.

    Returns:
        z, of shape (samples,).

    Raises:
        ValueError: If ``samples`` is below 1, or ``sigma`` is negative or not finite, or ``generator`` is no generator.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 4.

    Example:
        >>> z = noise_weights(10_000, 2.0, generator=torch.Generator().manual_seed(0))
        >>> f"{z.mean():.1f} {z.std():.1f}"
        '1.0 2.0'
    """
    samples = whole_number("samples", samples)
    sigma = real_number("sigma", sigma, at_least=0)
    where = device
    if generator is not None:
        where = instance("generator", generator, torch.Generator).device
    drawn = torch.randn(samples, generator=generator, dtype=dtype, device=where)
    return drawn.mul_(sigma).add_(1).to(device=device)


def weighted_mean_loss(losses: Tensor, z: Tensor) -> Tensor:
    """Mean of ``z_i * loss_i`` over the samples: never divided by the sum of z, which would take the noise out again.

    Args:
        losses: Loss of each sample, of shape (N,), or (N, ...) for samples with several losses, which are averaged.
        z: One weight for each sample, of shape (N,), from `noise_weights`.

    Returns:
        A scalar. Its expectation over z is the plain mean.

    Raises:
        ValueError: If ``losses`` is not floating point, or has no axis of samples, as a mean loss has none, or ``z``
            does not have one weight for each.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 4.

    Example:
        >>> weighted_mean_loss(torch.tensor([2.0, 4.0]), torch.tensor([0.5, 2.0]))
        tensor(4.5000)
    """
    if not instance("losses", losses, Tensor).ndim or not losses.is_floating_point() or not len(losses):
        raise ValueError(
            f"losses must hold one number for each sample, got {losses.dtype} of shape {tuple(losses.shape)}; compute "
            'them with reduction="none"'
        )
    if instance("z", z, Tensor).shape != losses.shape[:1]:
        raise ValueError(f"z must hold one number for each sample of losses, {len(losses)}, got shape {tuple(z.shape)}")
    return (losses * z.view(-1, *[1] * (losses.ndim - 1))).mean()
