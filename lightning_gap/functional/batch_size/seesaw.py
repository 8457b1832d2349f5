"""Trade a decay of the learning rate for a larger batch, as Seesaw does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from .._validation import check_counts, one_of, real_number, refusal, set_plain, whole_number
from .schedule import EpochBatch

Decay = Literal["cosine", "half_cosine", "linear"]
_DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: math.cos(math.pi / 2 * share),
    "half_cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    "linear": lambda share: 1 - share,
}


@dataclass(frozen=True)
class Seesaw:
    """Where a schedule would divide the learning rate by ``a``: divide it by the root of ``a``, multiply the batch.

    The schedule that this one replaces is followed in cuts: whenever its learning rate has fallen by another factor
    ``a``, the batch is multiplied by ``a`` and the learning rate divided by ``sqrt(a)`` for Adam, kept for SGD. Give
    the optimizer the peak learning rate and no decay of its own. With a cosine and small cuts a run of the same tokens
    takes ``2 / pi`` of the steps. At ``max_batch_size`` the learning rate takes over the rest.

    Args:
        batch_size: Samples per optimizer step at the start.
        max_batch_size: Largest batch, in samples.
        total: Length of the run, in the unit of the scheduler: epochs, steps, samples or tokens.
        decay: The learning rate of the schedule that is replaced, relative to its peak: ``"cosine"`` for
            ``cos(pi s / 2)``, ``"half_cosine"`` for ``(1 + cos(pi s)) / 2``, ``"linear"`` for ``1 - s``, or a function
            of the share ``s`` of the run, from 0 to below 1, that begins at 1 and never rises.
        factor: The factor ``a`` of one cut, above 1. The paper compares 1.1 and 2.
        optimizer: ``"adam"`` (AdamW and others that normalise the gradient) or ``"sgd"``.
        multiple_of: What the size must be divisible by: processes, micro-batches, ghosts.

    Raises:
        ValueError: If a count is not a whole number of at least 1, the limit is below ``batch_size``, a size is no
            multiple of ``multiple_of``, ``factor`` is not above 1, or a name is unknown. When called, if a function
            of your own returns no number above 0 and at most 1.

    Reference:
        Meterez et al. (2025), arXiv 2510.14717: the rate by sqrt(a), the batch by a is the edge of stability.

    Example:
        >>> grow = Seesaw(512, 2048, total=9_000)
        >>> [grow(consumed).batch_size for consumed in (0, 5_999, 6_000, 8_000)]
        [512, 512, 1024, 2048]
        >>> grow(6_000).learning_rate_factor ** 2
        0.5000000000000001
    """

    batch_size: int
    max_batch_size: int
    total: int
    decay: Decay | Callable[[float], float] = "cosine"
    factor: float = 2.0
    optimizer: Literal["adam", "sgd"] = "adam"
    multiple_of: int = 1

    def __post_init__(self) -> None:
        sizes = {"batch_size": self.batch_size, "max_batch_size": self.max_batch_size, "multiple_of": self.multiple_of}
        batch_size, max_batch_size, multiple_of = check_counts(unit="samples", **sizes)
        if max_batch_size < batch_size:
            raise ValueError(
                f"max_batch_size={max_batch_size} is below batch_size={batch_size}, which is to grow; exchange them"
            )
        for name in ("batch_size", "max_batch_size"):
            if sizes[name] % multiple_of:
                raise ValueError(f"{name}={sizes[name]} must be a multiple of multiple_of={multiple_of}")
        if not callable(self.decay):
            one_of("decay", self.decay, get_args(Decay))
        set_plain(
            self,
            batch_size=batch_size,
            max_batch_size=max_batch_size,
            multiple_of=multiple_of,
            total=whole_number("total", self.total, hint="the length of the run in the unit of the scheduler"),
            factor=real_number("factor", self.factor, above=1, hint="the batch is to grow"),
            optimizer=one_of("optimizer", self.optimizer, ("adam", "sgd")),
        )

    def __call__(self, consumed: int) -> EpochBatch:
        """Batch size and learning-rate factor after so many units; past the end as just before it."""
        consumed = min(whole_number("consumed", consumed, 0), self.total - 1)
        cut = self._cut(consumed / self.total)
        grown = self.batch_size / cut
        size = min(max(round(grown / self.multiple_of) * self.multiple_of, self.batch_size), self.max_batch_size)
        # What Adam keeps is rate / sqrt(batch), SGD rate / batch: at the limit and after rounding, too.
        ratio = size / self.batch_size
        return EpochBatch(size, cut * (math.sqrt(ratio) if self.optimizer == "adam" else ratio))

    def _cut(self, share: float) -> float:
        """The learning rate of the schedule that is replaced, as a power of the factor."""
        decay = _DECAYS[self.decay] if isinstance(self.decay, str) else self.decay
        rate = decay(share)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1 + 1e-9:
            rule = f"at {share} of the run must be a number above 0, at most 1"
            raise ValueError(refusal("decay", rule, rate, "divide it by the peak, leave warmup out, end above 0"))
        cuts = math.floor(math.log(1 / min(rate, 1.0)) / math.log(self.factor) + 1e-9)
        return float(self.factor**-cuts)
