"""Other questions about the same neighbourhood: which layer, which subspace, which group of samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor
from torch.distributed import ProcessGroup

from .._loss_surface import LossFunction, LossSurface, Params, checked_params, loss_surface
from .._validation import each, function, instance, seed_number, whole_number
from ._neighbourhood import Neighbourhood, Norm
from ._search import Search
from .average import mean_and_deviation
from .random_subspace import RandomSubspace
from .result import Method, Sharpness, Start
from .sharpness import checked_epsilon


def layer_sharpness(
    loss_fn: LossFunction,
    params: Mapping[str, Tensor],
    *,
    epsilon: float = 1e-3,
    max_evaluations: int = 7,
    relative: bool = False,
    process_group: ProcessGroup | None = None,
) -> dict[str, Sharpness]:
    """Sharpness of each layer alone, the others held where they are: it tells where a solution is sharp.

    Args:
        loss_fn: As in `sharpness`.
        params: Weights by name, for instance ``dict(model.named_parameters())``. A layer is what shares the name up
            to the last dot.
        epsilon: Half-width of the box, relative to ``|x_i| + 1``.
        max_evaluations: Most evaluations for each layer; all share the one at the weights.
        relative: Relative to ``|x_i|`` alone.
        process_group: As in `sharpness`.

    Returns:
        By layer, in the order of ``params``. The values do not add up to that of the whole.

    Raises:
        ValueError: As in `sharpness`.

    Reference:
        Metric 2.1 of Keskar et al. (2017), here for one layer at a time.

    Example:
        >>> import torch
        >>> w = {"first.weight": torch.ones(1, requires_grad=True), "second.weight": torch.ones(1, requires_grad=True)}
        >>> found = layer_sharpness(lambda: 2 * w["first.weight"] + w["second.weight"], w, epsilon=0.1)
        >>> {name: round(s.percent, 3) for name, s in found.items()}  # 100 * 0.4 / 4, 100 * 0.2 / 4
        {'first': 10.0, 'second': 5.0}
    """
    search = Search(max_evaluations=max_evaluations, relative=relative)
    epsilon = checked_epsilon(epsilon)
    named = checked_params(params)
    layers: dict[str, list[int]] = {}
    for index, (name, weight) in enumerate(named.items()):
        if weight.numel():
            layers.setdefault(name.rpartition(".")[0], []).append(index)
    results: dict[str, Sharpness] = {}
    with loss_surface(loss_fn, named, process_group=process_group) as surface:
        start, gradient = Start.at_centre(surface, None)
        for layer, members in layers.items():
            part = LossSurface(loss_fn, [surface.weights[i] for i in members], process_group)
            place = Neighbourhood(part, subspace=None, norm="max", relative=relative)
            own = [gradient[i] for i in members]
            here = Start.known(part, start.loss, start.reported_loss, own, start.seconds)
            results[layer] = search.run(part, place, here, search.slope(place, own), epsilon)
            part.move_back()
    return results


@dataclass(frozen=True)
class SubspaceSharpness:
    """Result of `subspace_sharpness`.

    Attributes:
        percent: Mean over the draws; infinite or NaN where one of them is.
        standard_deviation: Sample standard deviation over the draws, in percent; NaN for a single one.
        draws: Each draw's own result.

    Reference:
        Keskar et al. (2017), Table 4.

    Example:
        >>> SubspaceSharpness(percent=1.5, standard_deviation=0.5, draws=()).percent
        1.5
    """

    percent: float
    standard_deviation: float
    draws: tuple[Sharpness, ...]


def subspace_sharpness(
    loss_fn: LossFunction,
    params: Params,
    *,
    epsilon: float = 1e-3,
    subspace: RandomSubspace | None = None,
    draws: int = 5,
    method: Method = "lbfgsb",
    max_evaluations: int = 7,
    max_iterations: int = 10,
    restarts: int = 0,
    process_group: ProcessGroup | None = None,
) -> SubspaceSharpness:
    """Sharpness in several random subspaces: mean and standard deviation, which is large.

    Args:
        loss_fn: As in `sharpness`.
        params: Tensors to perturb.
        epsilon: Half-width of the box, relative to ``|(A^+ x)_i| + 1``.
        subspace: Dimension, scale and the first seed; the k-th draw uses seed + k. By default the paper's dimension
            of 100, with entries of unit variance.
        draws: Number of subspaces; all share the loss and the gradient at the weights.
        method: "lbfgsb", the paper's, is a better one than "corner" in few dimensions; "best" is below neither.
        max_evaluations: Most evaluations of "corner" for each draw.
        max_iterations: Iterations of "lbfgsb".
        restarts: Further ascents in each subspace from random points.
        process_group: As in `sharpness`.

    Returns:
        Mean and sample standard deviation over the draws, in percent, and each draw's result.

    Raises:
        ValueError: As in `sharpness`, or if ``draws`` is below 1.

    Reference:
        Keskar et al. (2017), Table 4.

    Example:
        >>> import torch
        >>> weight = torch.ones(200, requires_grad=True)
        >>> found = subspace_sharpness(lambda: weight.square().mean(), [weight], draws=3, method="corner")
        >>> len(found.draws), found.percent > 0
        (3, True)
    """
    first = RandomSubspace() if subspace is None else instance("subspace", subspace, RandomSubspace)
    draws = whole_number("draws", draws)
    seed_number(f"subspace: seed + draws - 1 of seed={first.seed}", first.seed + draws - 1)
    epsilon = checked_epsilon(epsilon)
    Search(method, max_evaluations, max_iterations, first, restarts=restarts)  # refuses before anything is measured
    results: list[Sharpness] = []
    with loss_surface(loss_fn, params, process_group=process_group) as surface:
        start, gradient = Start.at_centre(surface, None)
        for k in range(draws):
            drawn = replace(first, seed=first.seed + k)
            search = Search(method, max_evaluations, max_iterations, drawn, restarts=restarts)
            place = Neighbourhood(surface, subspace=drawn, norm="max", relative=False)
            results.append(search.run(surface, place, start, search.slope(place, gradient), epsilon))
    return SubspaceSharpness(*mean_and_deviation([r.percent for r in results]), tuple(results))


@dataclass(frozen=True)
class GroupedSharpness:
    """Result of `m_sharpness`.

    Attributes:
        rise: Mean over the groups of ``max f_group(x + y) - f_group(x)``; infinite or NaN where one of them is.
        standard_error: Of that mean; NaN for a single group.
        groups: Each group's own result.

    Reference:
        Foret, Kleiner, Mobahi and Neyshabur (2021), section 4.1.

    Example:
        >>> GroupedSharpness(rise=0.2, standard_error=0.1, groups=()).rise
        0.2
    """

    rise: float
    standard_error: float
    groups: tuple[Sharpness, ...]


def m_sharpness(
    loss_fns: Iterable[LossFunction],
    params: Params,
    *,
    epsilon: float = 0.05,
    norm: Norm = "l2",
    method: Method = "corner",
    max_evaluations: int = 2,
    relative: bool = False,
) -> GroupedSharpness:
    """Mean over groups of m samples of each group's own worst rise: what SAM with sub-batches of m minimises.

    Args:
        loss_fns: One loss for each group, for instance a `DatasetLoss` of one batch of m samples each. Every group
            costs ``max_evaluations``.
        params: Tensors to perturb.
        epsilon: Size of the neighbourhood. Foret et al. use a ball of radius 0.05.
        norm: "l2" for the ball, "max" for a box.
        method: As in `sharpness`; "lbfgsb" and "best" need a box.
        max_evaluations: Evaluations for each group; 2 is SAM's own single step.
        relative: Relative to ``|x_i|`` alone.

    Returns:
        Mean over the groups, in units of the loss, its standard error, and each group's result.

    Raises:
        ValueError: As in `sharpness`, or if there is no group.

    Reference:
        Foret, Kleiner, Mobahi and Neyshabur (2021), section 4.1.

    Example:
        >>> import torch
        >>> weight = torch.zeros(1, requires_grad=True)
        >>> groups = [lambda: weight.sum(), lambda: -3 * weight.sum()]
        >>> round(m_sharpness(groups, [weight], epsilon=0.1).rise, 3)  # the mean of 0.1 and 0.3
        0.2
    """
    params = checked_params(params)
    losses: list[LossFunction] = each(
        "loss_fns", loss_fns, lambda name, loss_fn: function(name, loss_fn, "no arguments")
    )
    search = Search(method, max_evaluations, relative=relative, norm=norm)
    size = [checked_epsilon(epsilon)]
    results = [search.profile(loss_fn, params, size)[0] for loss_fn in losses]
    if not results:
        raise ValueError("loss_fns is empty; pass one loss for each group of samples")
    mean, deviation = mean_and_deviation([r.highest_loss - r.loss for r in results])
    return GroupedSharpness(mean, deviation / math.sqrt(len(results)), tuple(results))
