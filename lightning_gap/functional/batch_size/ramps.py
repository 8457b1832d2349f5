"""Schedules that grow the batch early in a run or late: a linear ramp, and one late switch."""

from __future__ import annotations

from dataclasses import dataclass

from .._validation import check_counts, real_number, set_plain, whole_number


@dataclass(frozen=True)
class LinearRamp:
    """Grow the batch in equal increments over the first part of a run, as Megatron's ``--rampup-batch-size`` does.

    With ``n = (max_batch_size - batch_size) / increment`` increments, one comes every ``ramp / n`` units. Leaves the
    learning rate alone.

    Args:
        batch_size: Samples per optimizer step at the start.
        max_batch_size: Samples per step after the ramp.
        increment: Samples that each increment adds.
        ramp: Length of the ramp in the unit of the scheduler, samples in Megatron.

    Raises:
        ValueError: If a count is not a whole number of at least 1, or the difference of the sizes is not a multiple
            of ``increment``, at least one.

    Reference:
        Megatron-LM, ``--rampup-batch-size start increment samples``.

    Example:
        >>> ramp = LinearRamp(16, 1024, increment=8, ramp=300_000)
        >>> [ramp(samples) for samples in (2_380, 2_381, 300_000)]
        [16, 24, 1024]
    """

    batch_size: int
    max_batch_size: int
    increment: int
    ramp: int

    def __post_init__(self) -> None:
        sizes = {"batch_size": self.batch_size, "max_batch_size": self.max_batch_size, "increment": self.increment}
        batch_size, max_batch_size, increment = check_counts(unit="samples", **sizes)
        if max_batch_size <= batch_size or (max_batch_size - batch_size) % increment:
            raise ValueError(
                f"max_batch_size={max_batch_size} must be a whole number of increments, at least one, above "
                f"batch_size={batch_size}; with increment={increment} use for instance "
                f"{batch_size + max(1, (max_batch_size - batch_size) // increment) * increment}"
            )
        ramp = whole_number("ramp", self.ramp, hint="its length in the unit of the scheduler")
        set_plain(self, batch_size=batch_size, max_batch_size=max_batch_size, increment=increment, ramp=ramp)

    def __call__(self, consumed: int) -> int:
        """The batch size after so many units."""
        increments = (self.max_batch_size - self.batch_size) // self.increment
        passed = whole_number("consumed", consumed, 0) * increments // self.ramp  # whole numbers: no rounding
        return self.batch_size + self.increment * min(passed, increments)


@dataclass(frozen=True)
class LateSwitch:
    """Train with the small batch until a last share of the run, then with the large one.

    Leaves the learning rate alone.

    Args:
        batch_size: Samples per optimizer step before the switch.
        later_batch_size: Samples per step after it; 2.5 times as many in the paper.
        total: Length of the run, in the unit of the scheduler: epochs, steps, samples or tokens.
        share: Share of the run at which the switch comes, above 0 and below 1. The paper's best.

    Raises:
        ValueError: If a count is not a whole number of at least 1, or ``share`` is out of range.

    Reference:
        arXiv 2602.14208 (ICLR 2026): on a 1.1 billion parameter mixture of experts, one trillion tokens, the switch at
        0.75 is better than at 0.25 and than a constant batch.

    Example:
        >>> switch = LateSwitch(1024, 2560, total=1_000)
        >>> [switch(consumed) for consumed in (0, 749, 750)]
        [1024, 1024, 2560]
    """

    batch_size: int
    later_batch_size: int
    total: int
    share: float = 0.75

    def __post_init__(self) -> None:
        sizes = {"batch_size": self.batch_size, "later_batch_size": self.later_batch_size}
        batch_size, later_batch_size = check_counts(unit="samples", **sizes)
        total = whole_number("total", self.total, hint="the length of the run in the unit of the scheduler")
        share = real_number("share", self.share, above=0, below=1)
        set_plain(self, batch_size=batch_size, later_batch_size=later_batch_size, total=total, share=share)

    def __call__(self, consumed: int) -> int:
        """The batch size after so many units."""
        late = whole_number("consumed", consumed, 0) >= self.share * self.total
        return self.later_batch_size if late else self.batch_size
