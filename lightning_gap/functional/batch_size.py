"""Batch sizes over time: schedules, how a batch is split over processes and micro-batches, and training longer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """What a schedule asks for in one epoch.

    Attributes:
        batch_size: Samples per optimizer step.
        learning_rate_factor: Factor on the learning rate, for schedules that say what becomes of it.
    """

    batch_size: int
    learning_rate_factor: float = 1.0


Schedule = Callable[[int], int | Stage]


def stage_at(schedule: Schedule | Mapping[int, int], epoch: int) -> Stage:
    """What a schedule asks for in an epoch, checked.

    Args:
        schedule: Batch sizes by the epoch they begin at, or a function of the epoch (from 0) that returns a batch
            size or a `Stage`.
        epoch: From 0.

    Returns:
        The stage.

    Raises:
        TypeError: If the schedule returns neither.
        ValueError: If the size is not a whole number of at least 1, or the rate's factor is not positive.

    Example:
        >>> [stage_at({0: 32, 2: 64}, epoch).batch_size for epoch in range(4)]
        [32, 32, 64, 64]
    """
    if isinstance(schedule, Mapping):
        asked: int | Stage = schedule[max(begin for begin in schedule if begin <= epoch)]
    else:
        asked = schedule(epoch)
    stage = asked if isinstance(asked, Stage) else Stage(asked)
    size, factor = stage.batch_size, stage.learning_rate_factor
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"schedule gives {size!r} in epoch {epoch}; it must be a whole number of samples, at least 1")
    if not 0 < factor < math.inf:
        raise ValueError(f"schedule multiplies the learning rate by {factor!r} in epoch {epoch}; it must be positive")
    return stage


def checked_milestones(milestones: Mapping[int, int]) -> Mapping[int, int]:
    """Give batch sizes by epoch back if they are a schedule.

    Raises:
        ValueError: If there are none, they do not begin at epoch 0, an epoch is no whole number, or the epochs do
            not rise.
    """
    epochs = list(milestones)
    if not epochs:
        raise ValueError("schedule is empty; give batch sizes by epoch, for instance {0: 128, 30: 512}")
    for epoch in epochs:
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"schedule has epoch {epoch!r}; epochs are whole numbers from 0")
    if epochs[0] != 0:
        raise ValueError(f"schedule begins at epoch {epochs[0]}; say the batch size of epoch 0 too")
    if epochs != sorted(epochs):
        raise ValueError(f"schedule has its epochs in the order {epochs}; write them in rising order")
    for epoch in epochs:
        stage_at(milestones, epoch)
    return milestones


@dataclass(frozen=True)
class SmithGrowth:
    """Multiply the batch where a schedule would divide the learning rate, up to a limit; from there divide the rate.

    After i milestones the noise scale, rate / batch size, is divided by ``factor**i``, as in the schedule that this
    one replaces: by a larger batch as far as ``max_batch_size`` allows, by a smaller rate for the rest.

    Args:
        batch_size: Samples per optimizer step in epoch 0.
        milestones: Epochs at which the rate would be divided.
        max_batch_size: Limit. In the paper a tenth of the training samples.
        factor: By what. 5 for the paper's Wide ResNet.

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
        _check_growth(self.batch_size, self.max_batch_size, self.factor)
        _check_epochs(self.milestones)

    def __call__(self, epoch: int) -> Stage:
        """The stage of an epoch, from 0."""
        return _capped(self.batch_size * self.factor ** _passed(self.milestones, epoch), self.max_batch_size)


@dataclass(frozen=True)
class AdaBatch:
    """Double the batch at fixed intervals, with a milder decay of the rate.

    Batch times ``factor`` and rate times ``learning_rate_factor`` stands for a fixed batch with the rate times
    ``learning_rate_factor / factor``. At ``max_batch_size`` the rate takes over what the batch cannot.

    Args:
        batch_size: Samples per optimizer step in epoch 0.
        max_batch_size: Limit.
        every_n_epochs: Length of an interval. The paper: 20 of 100 epochs.
        factor: On the batch, after each interval. The paper: 2.
        learning_rate_factor: On the rate. The paper: 0.75, beside a baseline of 0.375.

    Reference:
        Devarakonda, Naumov and Garland (2017), section 3.

    Example:
        >>> grow = AdaBatch(128, 2048)
        >>> grow(40)
        Stage(batch_size=512, learning_rate_factor=0.5625)
    """

    batch_size: int
    max_batch_size: int
    every_n_epochs: int = 20
    factor: float = 2.0
    learning_rate_factor: float = 0.75

    def __post_init__(self) -> None:
        _check_growth(self.batch_size, self.max_batch_size, self.factor)
        if isinstance(self.every_n_epochs, bool) or not isinstance(self.every_n_epochs, int) or self.every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be a whole number, at least 1, got {self.every_n_epochs!r}")
        if not 0 < self.learning_rate_factor < math.inf:
            raise ValueError(f"learning_rate_factor must be positive, got {self.learning_rate_factor!r}")

    def __call__(self, epoch: int) -> Stage:
        """The stage of an epoch, from 0."""
        intervals = epoch // self.every_n_epochs
        stage = _capped(self.batch_size * self.factor**intervals, self.max_batch_size)
        return Stage(stage.batch_size, stage.learning_rate_factor * self.learning_rate_factor**intervals)


@dataclass(frozen=True)
class GeometricGrowth:
    """Grow the batch by a small factor every epoch, so that the error of the gradient shrinks geometrically.

    ``B <- min(ceil(factor * B + 1), max_batch_size)``, rounded up to a multiple of ``multiple_of``.

    Args:
        batch_size: Samples per optimizer step in epoch 0.
        max_batch_size: Limit; the paper's is the whole training set.
        factor: By what. 1.1 in the paper, there for each step of a batch method.
        multiple_of: For what the size must be divisible by: processes, micro-batches, ghosts.

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

    def __post_init__(self) -> None:
        _check_growth(self.batch_size, self.max_batch_size, self.factor)
        if isinstance(self.multiple_of, bool) or not isinstance(self.multiple_of, int) or self.multiple_of < 1:
            raise ValueError(f"multiple_of must be a whole number, at least 1, got {self.multiple_of!r}")
        for name, size in (("batch_size", self.batch_size), ("max_batch_size", self.max_batch_size)):
            if size % self.multiple_of:
                raise ValueError(f"{name}={size} is no multiple of multiple_of={self.multiple_of}")

    def __call__(self, epoch: int) -> int:
        """The batch size of an epoch, from 0."""
        size = self.batch_size
        for _ in range(epoch):
            grown = math.ceil(round(self.factor * size + 1, 9) / self.multiple_of) * self.multiple_of
            size = min(grown, self.max_batch_size)
            if size == self.max_batch_size:
                break
        return size


@dataclass(frozen=True)
class Split:
    """How one optimizer step's batch is worked off.

    Attributes:
        micro_batch_size: Samples per batch and process.
        accumulate: Batches per optimizer step.
    """

    micro_batch_size: int
    accumulate: int


def split_batch(
    batch_size: int, *, processes: int = 1, accumulate: int = 1, max_micro_batch: int | None = None
) -> Split:
    """Split a batch over processes, and where it is too large for one of them over micro-batches.

    Args:
        batch_size: Samples per optimizer step.
        processes: Processes that share it.
        accumulate: Micro-batches per step, or a lower bound on them if there is a limit.
        max_micro_batch: Most samples that one process works on at a time; ``None`` for no limit.

    Returns:
        The smallest split in equal parts that keeps to the limit.

    Raises:
        ValueError: If the batch cannot be split in equal parts, or only in parts below half of what the limit allows.

    Example:
        >>> split_batch(4096, processes=2, max_micro_batch=512)
        Split(micro_batch_size=512, accumulate=4)
    """
    parts = processes * accumulate
    if max_micro_batch is None:
        if batch_size % parts:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared equally by {processes} processes in {accumulate} "
                f"micro-batches each; use a multiple of {parts}, for instance {_multiple(batch_size, parts)}"
            )
        return Split(batch_size // parts, accumulate)
    fewest = max(accumulate, math.ceil(batch_size / (processes * max_micro_batch)))
    equal = (k for k in range(fewest, 2 * fewest + 1) if batch_size % (processes * k) == 0)
    found = next(equal, None)
    if found is None:
        raise ValueError(
            f"a batch of {batch_size} cannot be split equally over {processes} processes in micro-batches of at most "
            f"max_micro_batch={max_micro_batch}; use for instance {_multiple(batch_size, processes * fewest)}"
        )
    return Split(batch_size // (processes * found), found)


@dataclass(frozen=True)
class LongerTraining:
    """A training regime with as many updates as that of the small batch.

    Attributes:
        epochs: Epochs of the run.
        milestones: Epochs at which its learning rate changes.
    """

    epochs: int
    milestones: tuple[int, ...]


def train_longer(
    epochs: int, milestones: Sequence[int] = (), *, batch_size: int, base_batch_size: int
) -> LongerTraining:
    """Stretch a small batch's regime so that the large batch makes as many updates: regime adaptation.

    Epochs and milestones are multiplied by ``batch_size / base_batch_size`` and rounded up.

    Args:
        epochs: Epochs of the small-batch regime.
        milestones: Epochs at which its learning rate changes.
        batch_size: Samples per step of the large batch.
        base_batch_size: Samples per step of the small batch.

    Returns:
        The longer regime.

    Raises:
        ValueError: If a count is not a whole number of at least 1 or a milestone is negative.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 5.

    Example:
        >>> train_longer(200, (81, 122, 164), batch_size=2048, base_batch_size=128)
        LongerTraining(epochs=3200, milestones=(1296, 1952, 2624))
    """
    counts = {"epochs": epochs, "batch_size": batch_size, "base_batch_size": base_batch_size}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")
    _check_epochs(milestones)

    def stretched(epoch: int) -> int:
        return -(-epoch * batch_size // base_batch_size)

    return LongerTraining(stretched(epochs), tuple(stretched(epoch) for epoch in milestones))


def planned_optimizer_steps(schedule: Schedule | Mapping[int, int], *, samples: int, epochs: int) -> int:
    """Optimizer steps of a whole run under a batch-size schedule.

    What a step-wise rate scheduler needs to know; Lightning's `estimated_stepping_batches` takes every epoch to be as
    long as the present one.

    Args:
        schedule: As in `stage_at`.
        samples: Training samples.
        epochs: Epochs of the run.

    Returns:
        Steps, the smaller last batch of each epoch included.

    Example:
        >>> planned_optimizer_steps({0: 32, 2: 64}, samples=100, epochs=3)
        10
    """
    return sum(math.ceil(samples / stage_at(schedule, epoch).batch_size) for epoch in range(epochs))


def _capped(wanted: float, limit: int) -> Stage:
    """The size nearest to the wanted one, and the rate that makes up for the difference."""
    size = min(round(wanted), limit)
    return Stage(size, size / wanted)


def _passed(milestones: Sequence[int], epoch: int) -> int:
    return sum(milestone <= epoch for milestone in milestones)


def _check_growth(batch_size: int, max_batch_size: int, factor: float) -> None:
    for name, size in (("batch_size", batch_size), ("max_batch_size", max_batch_size)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number of samples, at least 1, got {size!r}")
    if max_batch_size < batch_size:
        raise ValueError(f"max_batch_size={max_batch_size} is below batch_size={batch_size}, which is to grow")
    if not 1 < factor < math.inf:
        raise ValueError(f"factor must be larger than 1 for the batch to grow, got {factor!r}")


def _check_epochs(milestones: Sequence[int]) -> None:
    for epoch in milestones:
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"milestones must be epochs, whole numbers from 0, got {epoch!r}")
    if any(later <= earlier for earlier, later in itertools.pairwise(milestones)):
        raise ValueError(f"milestones must rise, each named once, got {tuple(milestones)}")


def _multiple(size: int, parts: int) -> int:
    return max(1, round(size / parts)) * parts
