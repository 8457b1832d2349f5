"""The noise of a loss's gradient, measured in one pass over the parts of the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, get_rank, get_world_size

from .counts import check_counts
from .hessian_products import HessianProducts
from .loss_surface import LossFunction, LossSurface, Params, euclidean_norm, loss_surface
from .noise_scale import GradientNoise
from .processes import sum_over_processes


class UndefinedNoiseError(ValueError):
    """The loss at the weights, or the gradient of a part of it, is not finite."""


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
        sizes: Samples behind each part, in order, as `DatasetLoss.sizes`; on one of several processes those of its own
            parts.
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
    check_counts(probes=1 if probes == 0 else probes, population=1 if population is None else population)
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
