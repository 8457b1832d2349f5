"""Schedules by which the batch grows: where the learning rate would decay, at intervals, or a little each epoch.

In a `BatchSizeScheduler` of another unit an epoch stands for a step, a sample or a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .._validation import check_counts, real_number, set_plain, whole_number
from .schedule import EpochBatch, checked_epochs


@dataclass(frozen=True)
class SmithGrowth:
    """Multiply the batch where a schedule would divide the learning rate; at the limit, divide the learning rate.

    After i milestones the noise scale, learning rate / batch size, is divided by ``factor**i``, as in the schedule that
    this one replaces: by a larger batch as far as ``max_batch_size`` allows, by a smaller learning rate for the rest.

    Args:
        batch_size: Samples per optimizer step in epoch 0.
        milestones: Epochs at which the learning rate would be divided, in rising order; or steps, samples, tokens.
        max_batch_size: Largest batch, in samples. In the paper a tenth of the training samples.
        factor: Factor on the batch at each milestone. 5 for the paper's Wide ResNet.

    Raises:
        ValueError: If a size is below 1, the limit is below ``batch_size``, ``factor`` is not above 1, or the
            milestones do not rise.

    Reference:
        Smith, Kindermans, Ying and Le (2018), sections 3 and 5.1.

    Example:
        >>> grow = SmithGrowth(128, (60, 120, 160), max_batch_size=5120)
        >>> [(grow(epoch).batch_size, grow(epoch).learning_rate_factor) for epoch in (0, 60, 120, 160)]
        [(128, 1.0), (640, 1.0), (3200, 1.0), (5120, 0.32)]
    """

    batch_size: int
    milestones: Sequence[int]
    max_batch_size: int
    factor: float = 5.0

    def __post_init__(self) -> None:
        _check_growth(self)
        set_plain(self, milestones=checked_epochs("milestones", self.milestones))

    def __call__(self, epoch: int) -> EpochBatch:
        """Batch size and learning-rate factor of an epoch, from 0."""
        epoch = whole_number("epoch", epoch, 0)
        passed = sum(milestone <= epoch for milestone in self.milestones)
        return _capped(self.batch_size * self.factor**passed, self.max_batch_size)


@dataclass(frozen=True)
class AdaBatch:
    """Double the batch at fixed intervals, with a milder decay of the learning rate.

    Batch times ``factor`` and learning rate times ``learning_rate_factor`` stands for a fixed batch with the learning
    rate times ``learning_rate_factor / factor``. At ``max_batch_size`` the learning rate takes over the rest.

    Args:
        batch_size: Samples per optimizer step in epoch 0.
        max_batch_size: Largest batch, in samples.
        every_n_epochs: Epochs of an interval, or as many steps, samples or tokens. The paper: 20 of 100 epochs.
        factor: Factor on the batch after each interval. The paper: 2.
        learning_rate_factor: Factor on the learning rate. The paper: 0.75, beside a baseline of 0.375.

    Raises:
        ValueError: If a size or interval is below 1, the limit is below ``batch_size``, ``factor`` is not above 1, or
            ``learning_rate_factor`` is not positive.

    Reference:
        Devarakonda, Naumov and Garland (2017), section 3.

    Example:
        >>> grow = AdaBatch(128, 2048)
        >>> grow(40)
        EpochBatch(batch_size=512, learning_rate_factor=0.5625)
    """

    batch_size: int
    max_batch_size: int
    every_n_epochs: int = 20
    factor: float = 2.0
    learning_rate_factor: float = 0.75

    def __post_init__(self) -> None:
        _check_growth(self)
        set_plain(
            self,
            every_n_epochs=whole_number("every_n_epochs", self.every_n_epochs),
            learning_rate_factor=real_number("learning_rate_factor", self.learning_rate_factor, above=0),
        )

    def __call__(self, epoch: int) -> EpochBatch:
        """Batch size and learning-rate factor of an epoch, from 0."""
        intervals = whole_number("epoch", epoch, 0) // self.every_n_epochs
        capped = _capped(self.batch_size * self.factor**intervals, self.max_batch_size)
        return EpochBatch(capped.batch_size, capped.learning_rate_factor * self.learning_rate_factor**intervals)


@dataclass(frozen=True)
class GeometricGrowth:
    """Grow the batch by a small factor every epoch, so that the error of the gradient shrinks geometrically.

    ``B <- min(ceil(factor * B + 1), max_batch_size)``, rounded up to a multiple of ``multiple_of``.

    Args:
        batch_size: Samples per optimizer step in epoch 0.
        max_batch_size: Largest batch, in samples; the paper's is the whole training set.
        factor: Factor on the batch in each epoch. 1.1 in the paper, there for each step of a batch method.
        multiple_of: What the size must be divisible by: processes, micro-batches, ghosts.
        every_n: Epochs from one growth to the next, or as many steps, samples or tokens.

    Raises:
        ValueError: If a size is below 1 or no multiple of ``multiple_of``, the limit is below ``batch_size``, or
            ``factor`` is not above 1.

    Reference:
        Friedlander and Schmidt (2012), section 5; Byrd et al. (2012), section 4, for geometric growth.

    Example:
        >>> [GeometricGrowth(100, 1000)(epoch) for epoch in range(4)]
        [100, 111, 124, 138]
    """

    batch_size: int
    max_batch_size: int
    factor: float = 1.1
    multiple_of: int = 1
    every_n: int = 1

    def __post_init__(self) -> None:
        _check_growth(self)
        set_plain(self, multiple_of=whole_number("multiple_of", self.multiple_of))
        set_plain(self, every_n=whole_number("every_n", self.every_n))
        for name, size in (("batch_size", self.batch_size), ("max_batch_size", self.max_batch_size)):
            if size % self.multiple_of:
                raise ValueError(
                    f"{name}={size} must be a multiple of multiple_of={self.multiple_of}; use for instance "
                    f"{(size // self.multiple_of + 1) * self.multiple_of}"
                )

    def __call__(self, epoch: int) -> int:
        """The batch size of an epoch, from 0."""
        size = self.batch_size
        for _ in range(whole_number("epoch", epoch, 0) // self.every_n):
            grown = math.ceil(round(self.factor * size + 1, 9) / self.multiple_of) * self.multiple_of
            size = min(grown, self.max_batch_size)
            if size == self.max_batch_size:
                break
        return size


def _capped(wanted: float, limit: int) -> EpochBatch:
    """The size nearest to the wanted one, and the learning-rate factor that makes up for the difference."""
    size = min(round(wanted), limit)
    return EpochBatch(size, size / wanted)


def _check_growth(growth: SmithGrowth | AdaBatch | GeometricGrowth) -> None:
    """Check what all three have, and keep it as plain numbers."""
    sizes = {"batch_size": growth.batch_size, "max_batch_size": growth.max_batch_size}
    batch_size, max_batch_size = check_counts(unit="samples", **sizes)
    if max_batch_size < batch_size:
        raise ValueError(f"max_batch_size={max_batch_size} is below batch_size={batch_size}; raise it, or start lower")
    factor = real_number("factor", growth.factor, above=1, hint="the batch is to grow")
    set_plain(growth, batch_size=batch_size, max_batch_size=max_batch_size, factor=factor)
