"""Regimes beside the small and the large batch: accuracy, gap, and the share of the gap that each brings back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..intervals import Interval, mean_interval, ratio_interval
from ..reports.parts import Numbers, Published, Table
from ..runner.run_result import RunResult

Results = Mapping[str, Mapping[int, RunResult]]  # by regime and seed
BySeed = dict[int, float]


def accuracies(results: Results) -> dict[str, BySeed]:
    """Test accuracy in percent, by regime and seed."""
    return {name: {seed: 100 * run.test_accuracy for seed, run in own.items()} for name, own in results.items()}


def differences(one: Mapping[int, float], other: Mapping[int, float]) -> BySeed:
    """By the seeds that both have."""
    return {seed: one[seed] - other[seed] for seed in one if seed in other}


def gap_table(title: str, results: Results, paper: Mapping[str, Published] | None = None) -> Table:
    """A row for each regime; "small" and "large" must be among them.

    Args:
        title: Heading.
        results: By regime and seed.
        paper: Test accuracies in percent, of regimes that a paper has.
    """
    test, paper = accuracies(results), paper or {}
    whole = differences(test["small"], test["large"])
    rows = list[Sequence[str | Numbers]]()
    for regime, own in results.items():
        gap = differences(test["small"], test[regime])
        theirs = Published(round(paper["small"].mean - paper[regime].mean, 3)) if regime in paper else None
        share: str | Numbers = "-"
        if regime not in ("small", "large"):
            back = differences(test[regime], test["large"])
            ratio = ratio_interval(tuple(back.values()), tuple(whole[seed] for seed in back))
            percent = tuple(100 * back[seed] / whole[seed] if whole[seed] else float("nan") for seed in back)
            share = Numbers(percent, 0, interval=Interval(*(100 * end for end in ratio)))
            if mean_interval(tuple(whole.values())).sign <= 0:
                share = "no gap"
        rows.append(
            (
                regime,
                Numbers(tuple(test[regime].values()), paper=paper.get(regime)),
                "-" if regime == "small" else Numbers(tuple(gap.values()), paper=theirs, differences=True),
                share,
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
