"""How many samples the batch at hand holds: what the loader states, and only then what the batch looks like."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from ..data._planned_loader import PlannedLoader
from ..functional._sample_count import guess_samples, shared_first_axis
from ..trainer.batches import changes_batches
from ..trainer.resizing import index_counts
from ..trainer.stated_batches import StatedBatches, batch_sampler_of, gives_ready_batches, nominal_size, stated_batches

Count = Callable[[Any], float]
_PEEKED = 64  # lists of indices of a batch sampler that are compared with the first batch


def number_counted(value: Any) -> float:
    """What ``count`` has returned, as a plain number of at least 0."""
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

    Where the loader states the size of the batch at this position of its pass, that is taken: a collate function may
    lay the samples out in any way, and a first axis that agrees in some batches proves nothing. Where the loader
    states nothing, the batch is asked; see `guess_samples`.
    """

    def __init__(self) -> None:
        self.start()

    def start(self, *, told: bool = False) -> None:
        """Training begins; ``told`` says that the user counts batches by a function, so that no warning is needed."""
        self._told = told
        self._latest: int | None = None
        self._seen = 0  # batches of the run
        self._is_last = False
        self.begin_pass()

    def begin_pass(self) -> None:
        """The loader begins a new pass."""
        self._stated: StatedBatches | None = None
        self._loader: Any = None
        self._first: int | None = None
        self._position = 0
        self._batch: Any = None
        self._changes = True

    def see(self, trainer: Trainer, batch: Any, batch_idx: int) -> None:
        """Keep the batch that comes next; it is counted only if asked for."""
        if self._first is None:
            loader = trainer.train_dataloader
            self._loader, self._stated, self._changes = loader, _stated(loader), changes_batches(trainer)
            # Resumed inside an epoch, a loader without a state begins again with its first batch.
            goes_on = isinstance(loader, PlannedLoader) or hasattr(loader, "load_state_dict")
            self._first = 0 if goes_on else batch_idx
        self._position = batch_idx - self._first
        self._batch = batch
        self._seen += 1
        self._is_last = bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)

    def samples(self) -> int | None:
        """Samples in the batch that was seen last; ``None`` where neither loader nor batch tells for certain."""
        stated = self._stated_now
        if stated is not None and self._is_direct:
            return stated
        if self._stated is None:  # in the first batch its batch sampler, if it has one, must agree
            return None if self.contradiction() is not None else self._guess()
        return self._settle(stated, self._guess())

    def contradiction(self) -> str | None:
        """Why the first batch of a run is not believed to be as large as loader or sampler say; else ``None``."""
        guessed = self._guess()
        if self._seen > 1 or not self._changes or self.is_certain or guessed is None:
            return None
        if self._stated_now is not None:
            return self._words(self._stated_now, guessed) if guessed < self._stated_now else None
        sizes = self._sizes_known()
        return self._words(sizes[0], guessed) if sizes and guessed not in sizes else None

    @property
    def is_certain(self) -> bool:
        """Whether nothing can make the batch another one than the loader states, on this process and all others."""
        return self._is_direct and self._stated_now is not None

    @property
    def _is_direct(self) -> bool:
        return self._stated is not None and self._stated.direct and not self._changes

    def samples_or_latest(self) -> float:
        """Samples in the batch; where they are not known, as many as the batch before had, with one warning."""
        found = self.samples()
        if found is None:
            found = self._latest or 1
            self._warn(
                f"cannot tell how many samples a {type(self._batch).__name__} holds at this position of the epoch; it "
                f"is weighed as {found}, like the batch before it"
            )
        self._latest = found
        return found

    @property
    def looks_smaller(self) -> bool:
        """Whether the batch may hold fewer samples than the loader states."""
        guessed, stated = self._guess(), self._stated_now
        return self._changes and not self.is_certain and None not in (guessed, stated) and guessed < stated  # type: ignore[operator]

    @property
    def _stated_now(self) -> int | None:
        return None if self._stated is None else self._stated.at(self._position)

    def _settle(self, stated: int | None, guessed: int | None) -> int | None:
        """What holds where the loader states one number and the batch looks like another."""
        if not self._changes:  # torch's own collate function puts the samples first; a wrapped sampler may give others
            return stated if guessed is None else guessed
        if stated is None:
            return self._settle_for_stream(guessed)
        if guessed not in (None, stated):
            self._warn(f"{self._words(stated, guessed)}; the loader's number is taken")
        return stated

    def _settle_for_stream(self, guessed: int | None) -> int | None:
        """Of a stream only the size of full batches is known: the last one, of each worker, may be smaller."""
        size = None if self._stated is None else self._stated.size
        if guessed is None or size is None or guessed == size:
            return guessed
        if self._seen == 1 or guessed > size:
            return None
        if self._is_last or getattr(self._loader, "num_workers", 0) > 1:
            return guessed
        self._warn(f"{self._words(size, guessed)}; the loader's number is taken")
        return size

    def _guess(self) -> int | None:
        """What the batch says of itself."""
        guessed = guess_samples(self._batch)
        if guessed is not None:
            return guessed
        shared = shared_first_axis(self._batch)  # lists inside the batch may hold fields, as from torch's own collate
        return shared if shared is not None and (not self._changes or shared in self._sizes_known()[:1]) else None

    def _sizes_known(self) -> list[int]:
        """Sizes that batches have by the loader or its batch sampler, the nominal one first; none if not known."""
        if self._stated is not None:
            return [self._stated_now or self._stated.size]
        if batch_sampler_of(self._loader) is None or gives_ready_batches(self._loader):
            return []
        nominal = nominal_size(self._loader)
        return ([] if nominal is None else [nominal]) + index_counts(self._loader, _PEEKED)

    def _words(self, stated: Any, guessed: Any) -> str:
        return f"the loader states a batch of {stated} samples, and the first axis of its tensors is {guessed}"

    def _warn(self, text: str) -> None:
        if not self._told:
            self._told = True
            rank_zero_warn(f"{text}; if that is wrong, pass count=... with a function of the batch")


def _stated(loader: Any) -> StatedBatches | None:
    """What a loader states; of several at once, where all of them state the same."""
    parts = list(loader.values()) if isinstance(loader, Mapping) else loader
    if not isinstance(parts, list | tuple):
        return stated_batches(loader)
    stated = [stated_batches(part) for part in parts]
    terms = {None if one is None else (one.size, one.samples, one.drop_last) for one in stated}
    first = stated[0] if len(terms) == 1 else None
    return None if first is None else replace(first, direct=False)
