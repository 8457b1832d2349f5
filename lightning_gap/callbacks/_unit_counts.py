"""How much of its unit a batch counts for: steps, samples or tokens, on this process and on all."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from ..data._planned_loader import PlannedLoader
from ..data.batch_plan import BatchPlan
from ..data.stream import ResumableStream
from ..functional.batch_size.units import Unit, tokens_in
from ..trainer.batches import micro_batch_size
from ..trainer.processes import sums_over_processes
from ..trainer.progress import is_last_batch
from ._run import run_of
from ._sample_counter import Count, number_counted


class UnitCounts:
    """Counts the batches of one fit in the unit of a schedule.

    Args:
        trainer: Of the fit.
        unit: What is counted.
        count_tokens: Tokens of a batch, where they are not samples times length.

    Attributes:
        plan: What knows the samples of each batch over all processes; ``None`` where no loader of this package does.
    """

    def __init__(self, trainer: Trainer, unit: Unit, count_tokens: Count | None) -> None:
        self._trainer, self._unit, self._count_tokens = trainer, unit, count_tokens
        self._length: int | None = None  # of a sample, in tokens
        self._failure: Exception | None = None
        self.plan: BatchPlan | ResumableStream | None = None

    @property
    def per_step(self) -> int:
        """Units that a step counts for by itself."""
        return int(self._unit == "steps")

    @property
    def per_sample(self) -> int:
        """Units that a sample counts for; of tokens, as many as are known by now."""
        return {"epochs": 0, "steps": 0, "samples": 1, "tokens": self._length or 1}[self._unit]

    @property
    def is_known_ahead(self) -> bool:
        """Whether the number of samples says how much a batch counts for."""
        return self._unit != "tokens" or self._count_tokens is None

    def read_length(self, loader: PlannedLoader | ResumableStream) -> None:
        """Find out from its first sample how many tokens each of a loader's samples has."""
        if self._unit == "tokens" and self._length is None:
            batch = loader.first_samples(1)
            self._length = tokens_in(batch) or None
            if self._length is None:
                raise ValueError(_NO_TOKENS.format(batch=type(batch).__name__))

    def check_first(self, batch: Any, index: int) -> None:
        """Refuse a first batch that cannot be counted, or is not as large as the loader says."""
        units = self._units_in(batch, index) if self._unit == "tokens" else 0.0
        if self._count_tokens is not None and units == 0:
            raise ValueError(
                "count_tokens found 0 tokens in the first batch, so that the schedule would not move on; return the "
                "number of tokens of the batch"
            )
        if self.plan is not None:
            return
        found, stated = run_of(self._trainer).accumulation.counter.samples(), micro_batch_size(self._trainer)
        if found not in (None, stated) and self._trainer.num_training_batches > 1:
            raise ValueError(
                f"the loader states batches of {stated} samples for each process, but the first holds {found}, so that "
                "a step cannot have the samples that the schedule says; give the loader its batch_size, or pass "
                "count=..., a function of the batch, if the first axis of its tensors is not the sample"
            )
        if self._unit == "tokens":
            self._length = max(1, round(units / (found or stated or 1)))  # about; later batches are counted

    def in_batch(self, batch: Any, index: int) -> float:
        """Units of a batch: of this process, or where a plan knows them of all."""
        if self._unit == "steps":
            return 0.0
        try:
            return self._units_in(batch, index)
        except Exception as error:
            if self._trainer.world_size == 1 or self.plan is not None:
                raise
            self._failure = error  # raised with the sum over processes, where the others wait
            return 0.0

    def in_step(self, units: float) -> int:
        """Units of a step over all processes, from the sum of its batches."""
        if self._unit == "steps":
            return 1
        trainer = self._trainer
        if self.plan is not None or trainer.world_size == 1:
            return round(units)
        if self._unit == "samples" and run_of(trainer).accumulation.counter.is_certain and not is_last_batch(trainer):
            return round(units) * trainer.world_size
        return round(sums_over_processes(trainer, lambda: [self._own(units)], numbers=1)[0])

    def _own(self, units: float) -> float:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return units

    def _units_in(self, batch: Any, index: int) -> float:
        if self.plan is not None:
            if self._unit == "tokens":
                self._check_tokens(batch, self.plan.size(index) or 0)
            samples = self.plan.samples_before(index + 1) - self.plan.samples_before(index)
            return samples * self.per_sample
        if self._unit == "samples":
            return run_of(self._trainer).accumulation.counter.samples_or_latest()
        if self._count_tokens is not None:
            return number_counted(self._count_tokens(batch))
        tokens = tokens_in(batch)
        if tokens is None:
            raise ValueError(_NO_TOKENS.format(batch=type(batch).__name__))
        return tokens

    def _check_tokens(self, batch: Any, samples: int) -> None:
        """Refuse a batch that does not have as many tokens as its number of samples says."""
        tokens = tokens_in(batch)
        if tokens != samples * self.per_sample:
            raise ValueError(
                f"the samples of the data set do not all have {self._length} tokens: a batch of {samples} has "
                f"{tokens}; pass count_tokens=..., a function of the batch"
            )


_NO_TOKENS = (
    "unit='tokens' needs the tokens of a batch, and a {batch} has no integer tensors of one shape (samples, length) "
    "that tell them; pass count_tokens=..., a function of the batch that returns their number"
)
