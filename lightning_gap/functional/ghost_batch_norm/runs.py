"""Which samples of a batch form a ghost."""

from __future__ import annotations

from typing import Literal, get_args

from .._validation import one_of, whole_number

Leftover = Literal["merge", "balance", "error"]

Runs = tuple[tuple[int, int], ...]
"""The ghosts of a batch in order, as runs ``(count, size)``: ``count`` ghosts of ``size`` samples each."""


def ghost_runs(samples: int, ghost_batch_size: int, leftover: Leftover = "merge", *, positions: int = 1) -> Runs:
    """Cut a batch into consecutive ghosts; a batch of at most one ghost stays whole.

    Args:
        samples: Samples in the batch, N.
        ghost_batch_size: Samples per ghost, g.
        leftover: How to handle the remainder of N mod g samples. ``"merge"``: they make a shorter last ghost, and join
            the one before where they would hold a single value per channel. ``"balance"``: as many
            ghosts as N / g, rounded half up, whose sizes differ by at most one. ``"error"``: refused.
        positions: Values per channel of one sample, such as H x W of an image.

    Returns:
        At most two runs ``(count, size)``, whose sizes add up to ``samples``.

    Raises:
        ValueError: If a count is no whole number, or too small, ``leftover`` is unknown or is ``"error"`` and there
            is a remainder, or ghosts would hold one value per channel, whose variance is zero whatever the value.

    Reference:
        Hoffer, Hubara and Soudry (2017), Algorithm 1, which leaves the remainder open.

    Example:
        >>> ghost_runs(1000, 128), ghost_runs(1000, 128, "balance"), ghost_runs(129, 128)
        (((7, 128), (1, 104)), ((8, 125),), ((1, 129),))
    """
    return cut(whole_number("samples", samples, 0), ghost_batch_size, leftover, whole_number("positions", positions))


def cut(samples: int, ghost_batch_size: int, leftover: Leftover, positions: int) -> Runs:
    """`ghost_runs` for sizes that torch gives: the compiler and the tracer have their own kinds of int."""
    checked_ghost_batch_size(ghost_batch_size)
    checked_leftover(leftover)
    if leftover == "error" and samples % ghost_batch_size:
        raise ValueError(
            f"a batch of {samples} samples leaves {samples % ghost_batch_size} over with "
            f"ghost_batch_size={ghost_batch_size} and leftover='error'; use a size that divides the batch, "
            "drop_last=True in the loader, or leftover='merge' or 'balance'"
        )
    if samples <= ghost_batch_size:
        return ((1, samples),)
    if ghost_batch_size * positions == 1:
        raise ValueError(
            "Expected more than 1 value per channel when training, got ghosts of a single value: "
            "ghost_batch_size=1 has a variance only where a sample has several positions; use at least 2"
        )
    if leftover == "balance":
        fewest = 1 if positions > 1 else 2
        count = min((2 * samples + ghost_batch_size) // (2 * ghost_batch_size), samples // fewest)
        size, longer = samples // count, samples % count
        return _without_empty((longer, size + 1), (count - longer, size))
    count, rest = samples // ghost_batch_size, samples % ghost_batch_size  # the compiler cannot trace divmod
    if rest * positions == 1:
        return _without_empty((count - 1, ghost_batch_size), (1, ghost_batch_size + 1))
    return _without_empty((count, ghost_batch_size), (1 if rest else 0, rest))


def number_of_ghosts(runs: Runs) -> int:
    """How many ghosts the runs hold.

    Example:
        >>> number_of_ghosts(((7, 128), (1, 104)))
        8
    """
    return sum(count for count, _ in runs)


def checked_ghost_batch_size(ghost_batch_size: int) -> int:
    """Give ``ghost_batch_size`` back, or raise the one error that names it."""
    return whole_number("ghost_batch_size", ghost_batch_size, unit="samples", hint="try 128")


def checked_leftover(leftover: Leftover) -> Leftover:
    """Give ``leftover`` back, or raise the one error that names it."""
    return one_of("leftover", leftover, get_args(Leftover))


def _without_empty(*runs: tuple[int, int]) -> Runs:
    return tuple(run for run in runs if run[0])
