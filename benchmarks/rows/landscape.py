"""Losses along a line between two points of weight space, ours beside the loop that one writes by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from landscape import Case

from rows.row import Row, apart, in_turns

POINTS = 25
CASES = (("F1", 200, False), ("F1", 200, True), ("F1 of 16 units on digits", 200, True))


def rows(rounds: int, *, quick: bool) -> Iterator[Row]:
    """25 points, 200 samples, in a list of ready batches or a loader that makes each sample's tensor."""
    for network, samples, lazily in CASES[-1:] if quick else CASES:
        line = Case.of(network, "running", samples, POINTS, lazily=lazily)
        name = f"evaluate_points, {network}, {'loader' if lazily else 'ready batches'}"
        yield from in_turns({name: line.ours, "by hand": line.by_hand}, rounds, found=_found)


def _found(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return f"same losses to {apart(ours, theirs):.0e}"
