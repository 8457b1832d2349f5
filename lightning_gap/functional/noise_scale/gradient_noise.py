"""The noise of a loss's gradient, measured in one pass over the parts of the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, get_rank, get_world_size

from .._loss_surface import LossFunction, LossSurface, Params, euclidean_norm, loss_surface
from .._processes import sum_over_processes
from .._validation import each, seeded, whole_number
from ..curvature.hessian_products import HessianProducts
from ..errors import UndefinedNoiseError
from .noise_scale import GradientNoise

# Up to so many parts probes are orthogonal contrasts; beyond, random signs, of which all are equal less often than once
# in 30,000 draws.
_FEW_PARTS = 16


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
    numbers, and one for each probe. A probe is ``v = sum e_i sqrt(n_i) (g_i - g)``. With many parts the e_i are random
    signs, for which ``v . H v / (m - 1)`` has the mean ``tr(H Sigma)``. With up to 16, signs would often all be equal,
    and v zero or close to it: there the e are orthogonal, of length 1, orthogonal to the ``sqrt(n_i)``, in random
    directions, and ``v . H v`` has that mean. So m - 1 probes tell it exactly, and no more are used.

    Gradients that agree up to rounding have no noise: variance and ``tr(H Sigma)`` are then 0, the scales NaN.

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

    Returns:
        The estimates, equal on all processes; the two of the curvature are NaN without ``probes``.

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
    probes = whole_number("probes", probes, 0, most=10_000, hint="one vector as large as the weights is kept for each")
    population = None if population is None else whole_number("population", population)
    generator = seeded("generator", generator)
    with loss_surface(loss_fn, params, process_group=process_group) as surface:
        hessian = HessianProducts(surface)
        probing = _Probing.drawn(sizes, probes, generator, process_group, surface.weights[0].device)
        (loss, squares, parts, samples, *offsets), (mean, *probed) = sum_over_processes(
            lambda: _sums(surface, hessian, sizes, probing),
            numbers=4 + probing.count,
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
        rounding = 4 * torch.finfo(mean.dtype).eps * samples * norm_squared / (parts - 1)
        if variance <= rounding:  # the difference of two equal numbers
            variance = 0.0
        if not probes:
            return GradientNoise(norm_squared - share * variance, variance, measured_norm_squared=norm_squared)
        rows = [samples * row - offset * mean for row, offset in zip(probed, offsets, strict=True)]
        across = math.fsum(float(row @ hessian(row)) for row in rows) / (probing.count * probing.share)
        if not variance:
            across = 0.0
        elif probing.vanishes:
            across = math.nan
        along = float(mean @ hessian(mean))
        if not math.isfinite(along) or math.isinf(across):
            raise UndefinedNoiseError("the curvature along the gradients is too large for their type")
        return GradientNoise(
            norm_squared - share * variance,
            variance,
            along - share * across,
            across,
            measured_norm_squared=norm_squared,
        )


def _sums(
    surface: LossSurface, hessian: HessianProducts, sizes: Sequence[int], probing: _Probing
) -> tuple[list[float], list[Tensor]]:
    """What one pass adds up over the parts, whose gradients are ``p_i = g_i n_i / n``.

    The loss, ``|p_i|^2 / n_i``, parts, samples and for each probe ``e_i sqrt(n_i)``; as rows, ``p_i`` and for each
    probe ``e_i p_i / sqrt(n_i)``.
    """
    squares: list[float] = []
    offsets = [0.0] * probing.count
    probed = [torch.zeros_like(hessian.join(hessian.weights)) for _ in range(probing.count)]

    def derive(part: Tensor) -> list[Tensor]:
        size = sizes[len(squares)] if len(squares) < len(sizes) else 0
        if size < 1:
            raise ValueError(f"sizes must name at least one sample for each part of the loss, got {list(sizes)}")
        slopes = [
            torch.zeros_like(weight) if slope is None else slope.to_dense()
            for slope, weight in zip(surface.gradient(part), surface.weights, strict=True)
        ]
        factors = probing.factors[len(squares)]
        squares.append(euclidean_norm(slopes) ** 2 / size)
        row = hessian.join(slopes) / math.sqrt(size)
        for k, factor in enumerate(factors):
            offsets[k] += factor * math.sqrt(size)
            probed[k].add_(row, alpha=factor)
        return slopes

    loss, gradient = surface.over_parts(derive)
    if len(squares) != len(sizes):
        raise ValueError(f"sizes must be those of the {len(squares)} parts of the loss, got {list(sizes)}")
    return [loss, math.fsum(squares), len(squares), sum(sizes), *offsets], [hessian.join(gradient), *probed]


@dataclass(frozen=True)
class _Probing:
    """The factors e_i of the parts in each probe.

    Attributes:
        count: Probes.
        factors: For each part of this process, in order, those that it has on a single process; one for each probe.
        share: What ``v . H v`` is on average, over ``tr(H Sigma)``.
        vanishes: Whether every probe is zero whatever the gradients are.
    """

    count: int
    factors: list[list[float]]
    share: float
    vanishes: bool

    @classmethod
    def drawn(
        cls,
        own: Sequence[int],
        probes: int,
        generator: torch.Generator,
        group: ProcessGroup | None,
        device: torch.device,
    ) -> _Probing:
        """Draw the same on all processes, between which the parts are dealt out in turn."""
        rank = get_rank(group) if group else 0
        dealt, sizes = _sizes_of_all(own, rank, group, device)
        parts = len(sizes)
        if parts <= _FEW_PARTS:
            count, share, vanishes = max(0, min(probes, parts - 1)), 1.0, False
            table = _contrasts(sizes, count, generator).tolist()
        else:
            count, share = probes, parts - 1.0
            table = [(2 * torch.randint(2, (count,), generator=generator) - 1).tolist() for _ in sizes]
            vanishes = count > 0 and all(row == table[0] for row in table)
        return cls(count, [row for owner, row in zip(dealt, table, strict=True) if owner == rank], share, vanishes)


def _sizes_of_all(
    own: Sequence[int], rank: int, group: ProcessGroup | None, device: torch.device
) -> tuple[list[int], list[float]]:
    """Process and samples of each part, over all processes, as they are dealt out in turn."""
    processes = get_world_size(group) if group else 1

    def count() -> tuple[list[float], list[Tensor]]:
        each("sizes", own, lambda name, size: whole_number(name, size, unit="samples"))
        return [len(own) if process == rank else 0.0 for process in range(processes)], []

    counts, _ = sum_over_processes(count, numbers=processes, process_group=group, device=device)
    order = sorted((turn, process) for process, parts in enumerate(counts) for turn in range(int(parts)))
    here = [float(own[turn]) if process == rank else 0.0 for turn, process in order]
    sizes, _ = sum_over_processes(lambda: (here, []), numbers=len(here), process_group=group, device=device)
    return [process for _, process in order], sizes


def _contrasts(sizes: Sequence[float], count: int, generator: torch.Generator) -> Tensor:
    """Orthonormal columns in random directions, orthogonal to the roots of the sizes; shape (parts, count)."""
    roots = torch.tensor(sizes, dtype=torch.float64).sqrt()[:, None]
    columns = torch.randn(len(sizes), count, generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(torch.cat([roots, columns], dim=1)).Q
    return basis[:, 1 : 1 + count]
