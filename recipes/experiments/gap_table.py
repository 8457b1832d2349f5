"""Regimes beside the small and the large batch: accuracy, gap, and the share of the gap that each brings back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..gap import Gap, gaps
from ..intervals import Interval, ratio_interval
from ..reports.parts import Numbers, Published, Table
from ..runner.run_result import RunResult

Results = Mapping[str, Mapping[int, RunResult]]  # by regime and seed


def gaps_of(results: Results) -> dict[str, Gap]:
    """To the small batch, by regime."""
    return gaps({name: {seed: run.test_accuracy for seed, run in own.items()} for name, own in results.items()})


def gap_table(title: str, results: Results, paper: Mapping[str, Published] | None = None) -> Table:
    """A row for each regime; "small" and "large" must be among them.

    Args:
        title: Heading.
        results: By regime and seed.
        paper: Test accuracies in percent, of regimes that a paper has.
    """
    found, paper = gaps_of(results), paper or {}
    rows = list[Sequence[str | Numbers]]()
    for regime, own in results.items():
        gap = found[regime]
        theirs = Published(round(paper["small"].mean - paper[regime].mean, 3)) if regime in paper else None
        rows.append(
            (
                regime,
                Numbers(tuple(100 * run.test_accuracy for run in own.values()), paper=paper.get(regime)),
                "-" if regime == "small" else Numbers(gap.points, paper=theirs, differences=True),
                "-" if regime in ("small", "large") else _share(found["large"], gap),
                f"{next(iter(own.values())).steps:,}",
                Numbers(tuple(100 * run.train_accuracy for run in own.values())),
                Numbers(tuple(run.distance for run in own.values())),
            )
        )
    head = ["regime", "test accuracy %", "gap to small, points", "of large's gap back, %", "optimizer steps"]
    head += ["training accuracy %", "distance from init"]
    seeds = ", ".join(f"{name} {len(own)}" for name, own in results.items() if len(own) < len(results["small"]))
    note = "The share's interval by Fieller's theorem; \"no gap\" where the large batch's own may be zero."
    return Table(title, head, rows, note + f" Fewer seeds: {seeds}." * bool(seeds))


def _share(large: Gap, gap: Gap) -> str | Numbers:
    """Of the large batch's gap that a regime brings back, in percent: by the seeds it has, of a gap that all show."""
    if not large.is_there:
        return "no gap"
    whole = large.of(gap.by_seed)
    back = [a - b for a, b in zip(whole.points, gap.points, strict=True)]
    ratio = ratio_interval(back, whole.points)
    percent = tuple(100 * b / a if a else math.nan for a, b in zip(whole.points, back, strict=True))
    return Numbers(percent, 0, interval=Interval(*(100 * end for end in ratio)))
