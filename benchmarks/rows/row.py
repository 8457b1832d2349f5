"""A row of the table: ours beside a peer, measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from measuring import interleaved

Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """Ours beside a peer.

    Attributes:
        ours: What ours is, and on what.
        peer: What it is beside.
        ratios: Ours over the peer's, one for each round; below 1 is faster, or smaller. Empty where nothing was
            measured, and ``found`` says why.
        amount: Ours alone, the median, with its unit.
        found: What both came to, where that can differ.
    """

    ours: str
    peer: str
    ratios: tuple[float, ...] = ()
    amount: str = ""
    found: str = ""

    @property
    def median(self) -> float:
        """Of the ratios."""
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third, of the ratios."""
        if len(self.ratios) < 2:
            return self.ratios[0], self.ratios[0]
        first, _, third = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return first, third


def in_turns(
    variants: Mapping[str, Callable[[], Result]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.process_time,
    found: Callable[[Result, Result], str] = lambda ours, theirs: "",  # noqa: ARG005
) -> Iterator[Row]:
    """A row for each variant but the first, which is ours; one round goes before that is not counted.

    Args:
        variants: What to run, by name.
        rounds: How often each takes its turn.
        clock: By default the time that the processor works for this process: what else the machine does counts little.
        found: What to say of our result and of a peer's.
    """
    times, results = interleaved(variants, rounds + 1, clock)
    ours, *peers = variants
    for peer in peers:
        said = found(results[ours], results[peer])
        yield Row(ours, peer, ratios(times[ours], times[peer]), milliseconds(times[ours]), said)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Round by round, without the first, in which much is done once."""
    return tuple(a / b for a, b in zip(ours[1:], theirs[1:], strict=True))


def milliseconds(seconds: Sequence[float]) -> str:
    """The median, without the first."""
    return f"{1e3 * statistics.median(seconds[1:]):.3g} ms"


def apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference."""
    return max(abs(a - b) / (1e-12 + abs(b)) for a, b in zip(ours, theirs, strict=True))
