"""Does a measure order runs as their generalization gap does? Kendall's tau, also where one hyperparameter differs."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._validation import each, instance, real_number, refusal, seed_number, whole_number

_ALL_ORDERS = 8  # runs: 40,320 orders are gone through where values are tied
_COUNTED = 100  # runs: without ties the orders are counted and not gone through
_AT_A_TIME = 2**22  # signs in memory


@dataclass(frozen=True)
class GroupCorrelation:
    """Kendall's tau in a group of runs that differ in one hyperparameter alone.

    Attributes:
        hyperparameter: The one that differs.
        fixed: The others, with the values that the runs of the group share.
        tau: Mean sign product over the group's pairs, from -1 to 1.
        pairs: Pairs that differ in the hyperparameter; with a single one tau is -1, 0 or 1.

    Example:
        >>> GroupCorrelation("lr", {"batch": 64}, tau=-1.0, pairs=1).tau
        -1.0
    """

    hyperparameter: str
    fixed: Mapping[str, Hashable]
    tau: float
    pairs: int


@dataclass(frozen=True)
class RankCorrelation:
    """Result of `rank_correlation`.

    Attributes:
        tau: Kendall's tau over all pairs of runs, from -1 to 1; 1 where the measure orders them as the gap does.
        p_value: Chance of a tau as far from 0 as this one, if the measures had been dealt out to the runs at random.
        exact: Whether it is that of all orders; otherwise of random ones.
        runs: Number of runs.
        ties: Pairs with equal measures or equal gaps, which count 0.
        by_hyperparameter: For each hyperparameter the mean tau of its groups.
        granulated: Mean of these, Jiang et al.'s granulated coefficient; NaN without hyperparameters.
        worst: The group with the lowest tau; None without hyperparameters.
        groups: All groups.

    Example:
        >>> rank_correlation([1.0, 2.0, 3.0], [0.1, 0.2, 0.3]).runs
        3
    """

    tau: float
    p_value: float
    exact: bool
    runs: int
    ties: int
    by_hyperparameter: Mapping[str, float]
    granulated: float
    worst: GroupCorrelation | None
    groups: tuple[GroupCorrelation, ...]


def rank_correlation(
    measures: Sequence[float],
    gaps: Sequence[float],
    *,
    hyperparameters: Mapping[str, Sequence[Hashable]] | None = None,
    permutations: int = 10_000,
    seed: int = 0,
) -> RankCorrelation:
    """Kendall's tau of a measure with the gap over runs: ``mean over pairs of sign(dmeasure) sign(dgap)``.

    One tau over all runs can come from one hyperparameter that moves both. So with ``hyperparameters`` the pairs are
    also compared in groups that differ in one of them alone; a mean over groups hides those in which the measure
    fails, so the worst is told too.

    The p-value is of a permutation test with two sides. It is exact up to 100 runs without ties, and up to 8 with
    them. It needs runs that could have been exchanged: several seeds of one regime are not as many runs. Give their
    mean, one value for each regime. With 3 runs no p-value is below 1/3, with 4 below 1/12, with 5 below 1/60.

    Args:
        measures: One value for each run, expected to rise with the gap; infinite ones are the highest.
        gaps: Generalization gap of each run, in the same order.
        hyperparameters: By name the value of each run, in the same order. Seeds are none: two runs that differ in
            their seed alone are no pair.
        permutations: Random orders for the p-value, where it is not exact.
        seed: Seed of these orders.

    Returns:
        Kendall's tau with its p-value, and those of the groups.

    Raises:
        ValueError: If a value is NaN, which has no rank: leave out the run, and say so. If there are fewer than two
            runs, the series differ in length, or no two runs differ in one of the hyperparameters alone.

    Reference:
        Jiang, Neyshabur, Mobahi, Krishnan and Bengio (2020), arXiv 1912.02178: tau, in which ties count 0, and its
        granulated form. Dziugaite et al. (2020), arXiv 2010.11924: why to report the worst group.

    Example:
        >>> found = rank_correlation(
        ...     [3.0, 4.0, 1.0, 2.0], [0.3, 0.4, 0.2, 0.1], hyperparameters={"lr": [1, 2, 1, 2], "batch": [8, 8, 4, 4]}
        ... )
        >>> round(found.tau, 3), round(found.p_value, 3), found.by_hyperparameter
        (0.667, 0.333, {'lr': 0.0, 'batch': 1.0})
        >>> found.worst
        GroupCorrelation(hyperparameter='lr', fixed={'batch': 4}, tau=-1.0, pairs=1)
    """
    measures, gaps = _ranked("measures", measures), _ranked("gaps", gaps)
    runs = len(measures)
    if runs < 2 or runs != len(gaps):
        raise ValueError(f"measures and gaps must be those of the same runs, at least two, got {runs} and {len(gaps)}")
    permutations = whole_number("permutations", permutations)
    seed = seed_number("seed", seed)
    groups = tuple(_groups(measures, gaps, _columns(hyperparameters, runs)))
    names = dict.fromkeys(group.hyperparameter for group in groups)
    means = {name: statistics.fmean(g.tau for g in groups if g.hyperparameter == name) for name in names}
    products = [_sign(measures, i, j) * _sign(gaps, i, j) for i, j in itertools.combinations(range(runs), 2)]
    p_value, exact = _p_value(measures, gaps, abs(sum(products)), permutations, seed)
    return RankCorrelation(
        tau=sum(products) / len(products),
        p_value=p_value,
        exact=exact,
        runs=runs,
        ties=products.count(0),
        by_hyperparameter=means,
        granulated=statistics.fmean(means.values()) if means else math.nan,
        worst=min(groups, key=lambda group: group.tau, default=None),
        groups=groups,
    )


def _ranked(name: str, values: object) -> list[float]:
    """The values as plain floats; raise if one has no rank."""
    hint = "NaN has no rank; leave the run out of all series, and say so"

    def check(entry: str, value: object) -> float:
        number = real_number(entry, value, finite=False, hint=hint)
        if math.isnan(number):
            raise ValueError(refusal(entry, "must be a number", value, hint))
        return number

    entries = each(name, values, lambda _, value: value)
    return [check(f"{name}[{i}]", value) for i, value in enumerate(entries)]


def _columns(hyperparameters: object, runs: int) -> dict[str, list[Hashable]]:
    if hyperparameters is None:
        return {}
    hint = "by name the value of each run"
    given: Mapping[str, object] = instance("hyperparameters", hyperparameters, Mapping, hint=hint)  # type: ignore[type-abstract]
    columns: dict[str, list[Hashable]] = {}
    for name, values in given.items():
        columns[name] = each(f"hyperparameters[{name!r}]", values, lambda _, value: value)
        if len(columns[name]) != runs:
            raise ValueError(
                refusal(f"hyperparameters[{name!r}]", f"must hold one value for each of {runs} runs", values)
            )
        for value in columns[name]:
            if not isinstance(value, Hashable) or isinstance(value, Tensor):
                raise ValueError(refusal(f"hyperparameters[{name!r}]", "must hold plain numbers or texts", value))
    return columns


def _groups(
    measures: Sequence[float], gaps: Sequence[float], columns: Mapping[str, Sequence[Hashable]]
) -> Iterator[GroupCorrelation]:
    """The groups of runs that differ in one hyperparameter alone, one hyperparameter after the other."""
    for name, values in columns.items():
        members: dict[tuple[Hashable, ...], list[int]] = {}
        others = {other: column for other, column in columns.items() if other != name}
        for run in range(len(values)):
            members.setdefault(tuple(column[run] for column in others.values()), []).append(run)
        alone = True
        for shared, group in members.items():
            pairs = [(i, j) for i, j in itertools.combinations(group, 2) if values[i] != values[j]]
            if pairs:
                alone = False
                tau = statistics.fmean(_sign(measures, i, j) * _sign(gaps, i, j) for i, j in pairs)
                yield GroupCorrelation(name, dict(zip(others, shared, strict=True)), tau, len(pairs))
        if alone:
            raise ValueError(f"hyperparameters[{name!r}] never differs alone between two runs; leave it out")


def _sign(values: Sequence[float], i: int, j: int) -> int:
    return (values[j] > values[i]) - (values[j] < values[i])  # not of the difference: that of two infinite ones is NaN


def _p_value(
    measures: Sequence[float], gaps: Sequence[float], total: int, permutations: int, seed: int
) -> tuple[float, bool]:
    """Share of the orders whose sum of sign products is as far from 0 as ``total``, and whether all were counted."""
    runs = len(gaps)
    if len(set(measures)) == len(set(gaps)) == runs <= _COUNTED:
        # Of s pairs in the wrong order the sum is n (n - 1) / 2 - 2 s.
        pairs, counts = runs * (runs - 1) // 2, _orders_by_inversions(runs)
        far = sum(count for wrong, count in enumerate(counts) if abs(pairs - 2 * wrong) >= total)
        return far / math.factorial(runs), True
    if runs <= _ALL_ORDERS:
        orders = torch.tensor(list(itertools.permutations(range(runs))))
        return _share_as_far(measures, gaps, orders, total), True
    orders = torch.rand(permutations, runs, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    # The order that was found is one of them: a share of 0 would claim more than was seen.
    return (1 + _share_as_far(measures, gaps, orders, total) * permutations) / (1 + permutations), False


def _orders_by_inversions(runs: int) -> list[int]:
    """How many orders of so many runs have 0, 1, 2, ... pairs in the wrong order."""
    counts = [1]
    for length in range(2, runs + 1):  # a further run jumps over 0 to length - 1 others
        sums = [0, *itertools.accumulate(counts)]
        last = len(counts)
        counts = [sums[min(k + 1, last)] - sums[max(0, k + 1 - length)] for k in range(last + length - 1)]
    return counts


def _share_as_far(measures: Sequence[float], gaps: Sequence[float], orders: Tensor, total: int) -> float:
    first, second = torch.combinations(torch.arange(len(gaps)), 2).T
    ranks = [torch.tensor([sorted(set(values)).index(value) for value in values]) for values in (measures, gaps)]
    signs = (ranks[0][second] - ranks[0][first]).sign()
    far = 0
    for some in torch.split(orders, max(1, _AT_A_TIME // len(signs))):
        dealt = ranks[1][some]
        sums = ((dealt[:, second] - dealt[:, first]).sign() * signs).sum(1)
        far += int((sums.abs() >= total).sum())
    return far / len(orders)
