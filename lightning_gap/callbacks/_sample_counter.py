"""How many samples the batch at hand holds: what the loader states, and only then what the batch looks like."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from .._batches import StatedBatches, changes_batches, stated_batches
from ..data._planned_loader import PlannedLoader
from ..functional._sample_count import guess_samples

Count = Callable[[Any], float]


def number_counted(value: Any) -> float:
    """What ``count`` has returned, as a plain number.

    Raises:
        ValueError: If it is no number, negative, infinite or NaN.
    """
    if isinstance(value, Tensor) or hasattr(value, "dtype"):
        value = value.item() if getattr(value, "shape", None) in ((), (1,)) else value
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise ValueError(
            f"count must return how much a batch counts for, a number of at least 0, but gave {value!r}; return for "
            "instance the number of tokens that are not padding"
        )
    return float(value)


class SampleCounter:
    """The batches of a run, one after the other, and the samples in each.

    The loader's word is taken where it states the batch at this position of its pass: a collate function may lay the
    samples out in any way. Where it states nothing, the batch is asked, see `guess_samples`.
    """

    def __init__(self) -> None:
        self.start()

    def start(self, *, told: bool = False) -> None:
        """Training begins.

        Args:
            told: Whether the user counts batches by a function, so that there is nothing to warn about.
        """
        self._told = told
        self._latest: int | None = None
        self._agreed = 0  # batches that look as the loader says
        self.begin_pass()

    def begin_pass(self) -> None:
        """The loader begins a new pass."""
        self._stated: StatedBatches | None = None
        self._first: int | None = None
        self._position = 0
        self._batch: Any = None
        self._changes = True

    def see(self, trainer: Trainer, batch: Any, batch_idx: int) -> None:
        """Keep the batch that comes next; it is counted only if asked for."""
        if self._first is None:
            loader = trainer.train_dataloader
            self._stated, self._changes = stated_batches(loader), changes_batches(trainer)
            # Resumed inside an epoch, a loader without a state begins again with its first batch.
            goes_on = isinstance(loader, PlannedLoader) or hasattr(loader, "load_state_dict")
            self._first = 0 if goes_on else batch_idx
        self._position = batch_idx - self._first
        self._batch = batch

    def samples(self) -> int | None:
        """Samples in the batch that was seen last; ``None`` where neither loader nor batch tells for certain."""
        stated = None if self._stated is None else self._stated.at(self._position)
        return stated if self.is_certain else self._settle(stated, guess_samples(self._batch))

    @property
    def is_certain(self) -> bool:
        """Whether nothing can make the batch another one than the loader states, on this process and all others."""
        stated = self._stated
        return stated is not None and stated.direct and not self._changes and stated.at(self._position) is not None

    def samples_or_latest(self) -> float:
        """Samples in the batch; where they cannot be told, as many as the batch before had, which is said once."""
        found = self.samples()
        if found is None:
            found = self._latest or 1
            self._warn(
                f"cannot tell how many samples a {type(self._batch).__name__} holds at this position of the epoch; it "
                f"is weighed as {found}, like the batch before it"
            )
        self._latest = found
        return found

    def _settle(self, stated: int | None, guessed: int | None) -> int | None:
        """What holds where the loader states one number and the batch looks like another."""
        nominal = None if self._stated is None else self._stated.size
        if stated is None:  # of a stream only the size of full batches is known
            unsure = nominal is not None and self._changes and self._agreed == 0 and guessed != nominal
            self._agreed += not unsure
            return None if unsure else guessed
        if guessed is None or guessed == stated:
            self._agreed += guessed is not None
            return stated
        if not self._changes:  # torch's own collate function puts the samples first; a wrapped sampler may give others
            return guessed
        if self._agreed and guessed < stated:  # the collate function has dropped some
            return guessed
        self._warn(
            f"the loader states a batch of {stated} samples, and the first axis of its tensors is {guessed}; the "
            f"loader's number is taken"
        )
        return stated

    def _warn(self, text: str) -> None:
        if not self._told:
            self._told = True
            rank_zero_warn(f"{text}; if that is wrong, pass count=... with a function of the batch")
