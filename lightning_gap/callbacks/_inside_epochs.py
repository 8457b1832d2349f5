"""Batch sizes that change inside epochs: what a schedule says by what was consumed, and how the loader follows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from lightning.pytorch import Trainer

from ..data._planned_loader import PlannedLoader
from ..data.stream import ResumableStream
from ..functional.batch_size.planned_steps import PlannedStep, SizeOfNextBatch, planned_steps
from ..functional.batch_size.schedule import EpochBatch, MicroBatching, split_batch
from ..functional.batch_size.units import Unit
from ..trainer.accumulation_windows import accumulate_from
from ..trainer.batches import drops_last_batch, micro_batch_size, samples_per_process
from ..trainer.planned_loader_sizes import PlannedLoaderSizes
from ..trainer.processes import raise_on_all_processes
from ..trainer.progress import batches_done, batches_to_skip, ends_accumulation
from ..trainer.resizing import description
from ..trainer.resume import fix_resume_progress
from ._batch_size_checks import check_fixed_loader
from ._consumed import Consumed
from ._run import run_of
from ._sample_counter import Count
from ._unit_counts import UnitCounts

MOST_STEPS = 100_000  # looked at ahead of a run that is longer, or whose end is not known


class SizesInsideEpochs:
    """The steps of one fit, each with the batch that a schedule by steps, samples or tokens asks for.

    A loader of this package is told before each epoch which sizes come when, where that is known: its length, and all
    that Lightning makes of it, is right from the first batch on. Any other loader keeps its batches, and the number of
    them that make a step changes.

    Args:
        trainer: Of the fit.
        at: What the schedule asks for by what was consumed before the step.
        unit: What is counted.
        consumed: What was consumed, of an earlier fit of this Trainer too.
        count_tokens: Tokens of a batch, where they are not samples times length.
        accumulate: Least micro-batches of a step, with a loader of this package.
        max_micro_batch: Most samples that one process works on at a time.

    Attributes:
        batch: What the schedule asks for in the present step.
        is_planned: Whether the loader knows the sizes of the epoch beforehand.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        at: Callable[[int], EpochBatch],
        unit: Unit,
        consumed: Consumed,
        count_tokens: Count | None,
        accumulate: int,
        max_micro_batch: int | None,
    ) -> None:
        self._trainer, self._at, self._unit, self._consumed = trainer, at, unit, consumed
        self._accumulate, self._max_micro_batch = accumulate, max_micro_batch
        self._counts = UnitCounts(trainer, unit, count_tokens)
        self._batch: tuple[Any, int] | None = None  # at hand and not yet counted, with its number in the epoch
        self._first_batch, self.is_planned = True, False
        self._its_plan: tuple[int, list[tuple[int, int]]] | None = None  # what the loader at hand was told last
        self._consumed.begin_epoch(trainer.current_epoch)
        self.batch = at(self._consumed.amount)
        self._loader = PlannedLoaderSizes(trainer, self._plan)
        self._loader.plan_again()

    # The course of a fit

    def resumed(self, epoch: int, max_micro_batch: int | None) -> None:
        """A checkpoint has been read, which continues in this epoch, and may say how batches were split."""
        self._max_micro_batch = max_micro_batch
        self._consumed.begin_epoch(epoch)
        self._loader.plan_again()

    def start(self) -> None:
        """Training begins: the loader is there."""
        trainer = self._trainer
        if self._plans_another(trainer.current_epoch):  # a checkpoint from the very end of an epoch
            self._loader.reload_now()
            fix_resume_progress(trainer)  # the position of the loader that is new
        if not self.is_planned:
            check_fixed_loader(trainer, self._unit, self._max_micro_batch)
        self._know_batches()
        self.batch = self._at(self._consumed.amount)
        self._split_now(first=batches_to_skip(trainer) - self._consumed.micro_batches)

    def limit(self, max_micro_batch: int | None) -> None:
        """No process works on more samples at a time; before the first batch."""
        if not self.is_planned:
            raise ValueError(
                f"max_micro_batch='auto': {micro_batch_size(self._trainer)} samples do not fit into memory, and "
                f"{description(self._trainer.train_dataloader)} gives as many at a time, which inside epochs cannot "
                f"change; give it a smaller batch_size, or use a lightning_gap.ResumableLoader or ResumableStream"
            )
        self._max_micro_batch = max_micro_batch
        if self._plans_another(self._trainer.current_epoch):
            self._loader.reload_now()
            fix_resume_progress(self._trainer)

    def begin_epoch(self) -> None:
        """An epoch begins, from its first batch."""
        self._loader.reloaded()
        self._know_batches()
        self.batch = self._at(self._consumed.amount)
        self._split_now(first=0)

    def plan_epoch(self, epoch: int) -> None:
        """An epoch comes; Lightning asks for the loader again where its length is another."""
        if self._plans_another(epoch) and not isinstance(self._planned_loader, ResumableStream):  # it has no length
            self._loader.reload_before_next_epoch()

    def end(self) -> None:
        """The fit is over: put back what the user had."""
        self._loader.restore()
        self._trainer.accumulate_grad_batches = self._accumulate

    # The batches

    def see(self, batch: Any, batch_idx: int) -> None:
        """A batch comes; the first is refused if it cannot be counted, or is not as large as the loader says."""
        self._batch = batch, batch_idx
        if self._first_batch:
            self._first_batch = False
            raise_on_all_processes(self._trainer, lambda: self._check_first_batch(batch, batch_idx))

    def count(self) -> None:
        """Count the batch at hand if it is done; once, whoever asks first."""
        if self._batch is None or batches_done(self._trainer) <= self._batch[1]:
            return
        (batch, index), self._batch = self._batch, None
        self._consumed.add(self._counts.in_batch(batch, index))
        if ends_accumulation(self._trainer):
            self._consumed.finish_step(self._counts.in_step(self._consumed.waiting), self.batch)

    def follow(self) -> None:
        """After a batch: split the next step as the schedule asks for it, if that is another split."""
        if self._consumed.micro_batches:
            return
        batch = self._at(self._consumed.amount)
        if batch != self.batch:
            self.batch = batch
            self._split_now(first=batches_done(self._trainer))

    # What is planned

    def steps(self, consumed: int) -> Iterator[PlannedStep]:
        """The steps of an epoch of the loader at hand, if so much was consumed before it."""
        trainer = self._trainer
        if self.is_planned:
            return self._steps_of(self._planned_loader, consumed)
        samples = samples_per_process(trainer)
        return self._planned_steps(
            consumed,
            samples=None if samples is None else samples * trainer.world_size,
            drop_last=drops_last_batch(trainer),
        )

    def after(self, step: PlannedStep) -> int:
        """What is consumed when a step is over."""
        return step.consumed + self._counts.per_step + step.samples * self._counts.per_sample

    def split(self, batch_size: int) -> MicroBatching:
        """How a batch is split; raise if it cannot be."""
        trainer = self._trainer
        if self.is_planned:
            return split_batch(
                batch_size,
                processes=trainer.world_size,
                accumulate=self._accumulate,
                max_micro_batch=self._max_micro_batch,
            )
        size = micro_batch_size(trainer) or 1
        at_a_time = size * trainer.world_size
        if batch_size % at_a_time:
            raise ValueError(
                f"schedule has a batch of {batch_size} samples, no multiple of the {at_a_time} that the loader gives "
                f"at a time ({size} on each of {trainer.world_size} processes), and inside epochs only their "
                f"number can change; use for instance {max(1, round(batch_size / at_a_time)) * at_a_time}, a loader "
                "with smaller batches, or a lightning_gap.ResumableLoader, whose batches change"
            )
        return MicroBatching(size, batch_size // at_a_time)

    @property
    def _planned_loader(self) -> PlannedLoader | ResumableStream:
        loader: Any = self._trainer.train_dataloader
        return loader  # type: ignore[no-any-return]

    def _plan(self, loader: Any) -> None:
        """Tell a loader of this package the sizes of the epoch that comes; leave any other alone."""
        own = isinstance(loader, PlannedLoader | ResumableStream)
        self.is_planned = own and self._counts.is_known_ahead
        if not self.is_planned:
            return
        self._counts.read_length(loader)
        began_at = self._consumed.began_at
        first = self.split(self._at(began_at).batch_size).micro_batch_size
        if isinstance(loader, ResumableStream):
            self._its_plan = first, [(began_at, first)]
            loader.follow(first, lambda: SizeOfNextBatch(self._steps_of(loader, began_at)))
            return
        sizes, after, end, whole = [(0, first)], began_at, 0, True
        for step in self._steps_of(loader, began_at):
            if sizes[-1][1] != step.split.micro_batch_size:
                sizes.append((step.samples_before, step.split.micro_batch_size))
            after, end = self.after(step), step.samples_before + step.samples
            whole = step.micro_batches == step.split.accumulate
        if loader.drop_last and whole:  # what is left fills no batch of the size that comes next; else none of its own
            sizes.append((end, self.split(self._at(after).batch_size).micro_batch_size))
        loader.plan_sizes(first, sizes[1:])
        self._its_plan = first, sizes[1:]

    def _plans_another(self, epoch: int) -> bool:
        """Plan this epoch; whether its batches are others than those of the loader at hand."""
        self._consumed.begin_epoch(epoch)
        before = self._its_plan
        self._loader.plan_again()
        return self._its_plan != before

    def _steps_of(self, loader: PlannedLoader | ResumableStream, consumed: int) -> Iterator[PlannedStep]:
        samples = None if isinstance(loader, ResumableStream) else len(loader.dataset)
        return self._planned_steps(consumed, samples=samples, drop_last=loader.drop_last)

    def _planned_steps(self, consumed: int, *, samples: int | None, drop_last: bool) -> Iterator[PlannedStep]:
        return planned_steps(
            self._at,
            self.split,
            consumed=consumed,
            per_step=self._counts.per_step,
            per_sample=self._counts.per_sample,
            samples=samples,
            processes=self._trainer.world_size,
            drop_last=drop_last,
        )

    def _split_now(self, *, first: int) -> None:
        split = self.split(self.batch.batch_size)
        run_of(self._trainer).change_split(self._trainer, split)
        accumulate_from(self._trainer, first, split.accumulate)

    def _know_batches(self) -> None:
        """Let each batch be counted by what is known of it."""
        loader = self._planned_loader if self.is_planned else None
        self._counts.plan = loader.plan if isinstance(loader, PlannedLoader) else loader

    def _check_first_batch(self, batch: Any, index: int) -> None:
        self._counts.check_first(batch, index)
        if self._unit == "tokens" and not self.is_planned:  # each size that comes must be a multiple
            deque(islice(self._planned_steps(self._consumed.amount, samples=None, drop_last=False), MOST_STEPS), 0)
