"""Whether a measure of sharpness ranks the regimes as the gap does."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from lightning_gap.functional import rank_correlation

from ..intervals import Interval, mean_interval
from ..reports.parts import Numbers, Part, Remark, Table

BySeed = Mapping[int, float]


def rank_table(
    network: str, gaps: Mapping[str, BySeed], measured: Mapping[str, Mapping[str, BySeed]], names: Mapping[str, str]
) -> Iterator[Part]:
    """Kendall's tau of each measure with the gap over the regimes; none of fewer than three regimes.

    Of the means over seeds, with the p-value of a permutation test, and seed by seed with an interval. A regime whose
    measure is NaN, because a run diverged, is left out and said.

    Args:
        network: Its name.
        gaps: By regime and seed.
        measured: By regime, measure and seed.
        names: Of the measures.
    """
    if len(gaps) < 3:
        return
    rows, lacking = list[Sequence[str | Numbers]](), set[str]()
    for name in names:
        own = {regime: values[name] for regime, values in measured.items()}
        whole = [regime for regime in own if not any(map(math.isnan, own[regime].values()))]
        lacking |= own.keys() - set(whole)
        if len(whole) < 3:
            continue
        of_means = rank_correlation(
            [statistics.fmean(own[regime].values()) for regime in whole],
            [statistics.fmean(gaps[regime].values()) for regime in whole],
        )
        by_seed = []
        for seed in gaps[whole[0]]:
            there = [regime for regime in whole if seed in gaps[regime]]
            measures, own_gaps = ([values[regime][seed] for regime in there] for values in (own, gaps))
            by_seed.append(rank_correlation(measures, own_gaps).tau)
        mean, low, high = mean_interval(by_seed)
        seeds = Numbers(tuple(by_seed), interval=Interval(mean, max(low, -1.0), min(high, 1.0)))  # no tau is beyond
        p_value = "< 0.001" if of_means.p_value < 0.0005 else f"{of_means.p_value:.3f}"
        rows.append((name, f"{of_means.tau:.2f}", p_value, seeds))
    head = ["measure", "Kendall's tau of the means", "p", "tau seed by seed"]
    note = "Ties count 0. 1: the sharper regime always has the larger gap; 0: no relation; -1: the flatter one has."
    yield Table(f"{network.upper()}: does sharpness rank the regimes as the gap does?", head, rows, note)
    if lacking:
        yield Remark(f"{network.upper()}: left out of the ranks, because a run diverged: {', '.join(sorted(lacking))}.")
