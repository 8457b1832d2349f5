"""The base of the callbacks that set the batch size: where it is written, when, and what must follow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from lightning.pytorch import LightningModule, Trainer

from ..functional._validation import text
from ..functional.batch_size.schedule import MicroBatching, split_batch
from ..trainer.loader import TrainLoaderSize
from ..trainer.logs import log_step
from ..trainer.progress import averages_weights_now
from ..trainer.refusals import refuse_other_batch_sizes
from ..trainer.resume import fix_resume_progress
from ..trainer.saved_progress import epoch_of
from ..trainer.stated_batches import stated_batches
from ._arguments import optional_whole_number
from ._batch_size_checks import FirstBatchChecks, check_plan, sizes_to_prove
from ._run import run_of
from ._sample_counter import Count
from ._weighing import WeighingCallback


class BatchSizeCallback(WeighingCallback):
    """Sets the batch size of each epoch: the size of the loader, and how many of its batches make a step.

    A subclass answers two questions: what is `planned` for an epoch, as far as it is known, and what is `decided` when
    the epoch comes. The second is asked once for each epoch: for the first before its loader is made, for later ones
    as soon as the epoch before is over. Lightning then makes the loader again. In between nothing changes, also where a
    run is resumed inside an epoch. When the fit is over, loader, module and Trainer have their own values again.

    Args:
        max_micro_batch: Most samples that one process works on at a time; larger batches are accumulated. ``None``
            keeps the Trainer's `accumulate_grad_batches` and lets the loader's batches grow.
        batch_arg_name: Attribute of the module or data module that its `train_dataloader` reads its batch size from, as
            in Lightning's `BatchSizeFinder`. Not used for a loader that is passed to `fit`.
        count: As in `ExactAccumulation`: what the mean of your loss is taken over, if not the samples.
    """

    may_change: ClassVar[tuple[str, ...]] = ("max_micro_batch", "batch_arg_name")

    def __init__(self, *, max_micro_batch: int | None, batch_arg_name: str, count: Count | None) -> None:
        super().__init__(count)
        self.max_micro_batch: int | Literal["auto"] | None = optional_whole_number("max_micro_batch", max_micro_batch)
        self.batch_arg_name = text("batch_arg_name", batch_arg_name)
        self._loader: TrainLoaderSize | None = None  # while a fit runs
        self._users_accumulation = 1
        self._decided_epoch: int | None = None  # whose batch size was asked for last
        self._checks = FirstBatchChecks()

    @abstractmethod
    def planned(self, trainer: Trainer, epoch: int) -> MicroBatching | None:
        """How an epoch will begin as far as it is known; ``None`` for what loader and Trainer have by themselves."""

    def decided(self, trainer: Trainer, epoch: int) -> MicroBatching | None:
        """How an epoch begins, asked when it comes: by default as planned."""
        return self.planned(trainer, epoch)

    def recall(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        """Take what decides about the size from a checkpoint."""

    def values(self, trainer: Trainer) -> dict[str, float]:
        """What is logged of a step."""
        size, accumulate = run_of(trainer).batch_size(trainer), float(trainer.accumulate_grad_batches)
        return {"batch/accumulate": accumulate} | ({} if size is None else {"batch/size": float(size)})

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this callback logs."""
        return ("batch/size", "batch/accumulate")

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        run = run_of(trainer)
        run.claim_batch_size(trainer, self, self._begin)
        refuse_other_batch_sizes(trainer, self)
        self._users_accumulation = trainer.accumulate_grad_batches
        self._begin_sizes(trainer)

    def resume_from(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        self.recall(trainer, checkpoint)
        self._resume_sizes(trainer, checkpoint)  # before configure_optimizers, which may ask for the loader

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._check_sizes(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._begin_epoch(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._checks.check(trainer, self.batch_arg_name)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._checks.stop_watching()
        log_step(trainer, pl_module, lambda: self.values(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        following = trainer.current_epoch + 1
        if following != trainer.max_epochs:
            self._plan_epoch(trainer, following)

    def end_fit(self, trainer: Trainer) -> None:
        super().end_fit(trainer)
        self._checks.stop_watching()
        self._end_sizes(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._loader is not None:
            self._loader.hide_from(checkpoint)

    @property
    def _limit(self) -> int | None:
        """Most samples that one process works on at a time, as far as there is a limit."""
        return None if self.max_micro_batch == "auto" else self.max_micro_batch

    @property
    def _least_accumulation(self) -> int:
        """Micro-batches that a step has at least."""
        return self._users_accumulation

    @property
    def _its_loader(self) -> TrainLoaderSize:
        if self._loader is None:
            raise RuntimeError(f"{type(self).__name__} has not been set up")
        return self._loader

    def _settings_of_process(self, trainer: Trainer) -> dict[str, Any]:
        plan = [[split.micro_batch_size, split.accumulate] for split in run_of(trainer).planned]
        return super()._settings_of_process(trainer) | {"micro-batches and their sizes": plan}

    def _epochs_to_come(self, trainer: Trainer) -> Iterable[int]:
        """All epochs of the run; the next one alone where its end is not known."""
        first, last = trainer.current_epoch, trainer.max_epochs or 0
        return range(first, max(last, first + 1))

    def _plan_to_prove(self, trainer: Trainer) -> list[MicroBatching]:
        """What is to come, for which the loader is made as a trial."""
        return run_of(trainer).planned

    # The sizes of epochs, at each moment of a fit; another unit of the schedule does the same inside them

    def _begin_sizes(self, trainer: Trainer) -> None:
        """A fit begins."""
        run = run_of(trainer)
        self._loader = TrainLoaderSize(trainer, self.batch_arg_name)
        self._decided_epoch = None
        planned = (self.planned(trainer, epoch) for epoch in self._epochs_to_come(trainer))
        run.planned = [split for split in planned if split is not None]
        self._prepare(trainer, trainer.current_epoch)
        self._accumulate(trainer)

    def _resume_sizes(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        """The fit continues where a checkpoint was saved."""
        self._decided_epoch = None
        self._prepare(trainer, epoch_of(checkpoint))
        self._accumulate(trainer)

    def _check_sizes(self, trainer: Trainer) -> None:
        """Refuse before the first step what cannot work."""
        run = run_of(trainer)
        self._checks.start(trainer, check_plan(trainer, run.planned))
        self._check_loader(trainer)
        sizes = sizes_to_prove(trainer, self._plan_to_prove(trainer), run.split)
        self._its_loader.prove(sizes, by_batches=run.count is None)

    def _begin_epoch(self, trainer: Trainer) -> None:
        self._its_loader.reloaded()
        if not averages_weights_now(trainer):
            self._accumulate(trainer)
            self._check_loader(trainer)

    def _plan_epoch(self, trainer: Trainer, epoch: int) -> None:
        """An epoch comes, and the one before it is over."""
        if self._prepare(trainer, epoch):
            self._its_loader.reload_before_next_epoch()

    def _end_sizes(self, trainer: Trainer) -> None:
        """The fit is over: put back what the user had."""
        if self._loader is not None:
            self._loader.restore()
            self._loader = None
            trainer.accumulate_grad_batches = self._users_accumulation

    def _begin(self, trainer: Trainer) -> None:
        """Training begins, in the epoch that it was resumed in."""
        if self._prepare(trainer, trainer.current_epoch):  # a checkpoint from the very end of an epoch
            self._its_loader.reload_now()
            fix_resume_progress(trainer)  # the position of the loader that is new
        self._accumulate(trainer)

    def _prepare(self, trainer: Trainer, epoch: int) -> bool:
        """Write the size of an epoch to where its loader will be made from; whether it is another than before."""
        if epoch == self._decided_epoch:
            return False
        run, before = run_of(trainer), run_of(trainer).split
        self._decided_epoch, run.split = epoch, self.decided(trainer, epoch)
        if run.split == before:
            return False
        if run.split is None:
            self._its_loader.restore()
            return True
        if before is None or run.split.micro_batch_size != before.micro_batch_size:
            self._its_loader.set(run.split.micro_batch_size)
            return True
        return False

    def _accumulate(self, trainer: Trainer) -> None:
        split = run_of(trainer).split
        trainer.accumulate_grad_batches = self._users_accumulation if split is None else split.accumulate

    def _check_loader(self, trainer: Trainer) -> None:
        split, stated = run_of(trainer).split, stated_batches(trainer.train_dataloader)
        self._checks.is_due = split is not None and not (stated is not None and stated.direct)
        if split is not None:
            self._its_loader.check(split.micro_batch_size)

    def _split(self, trainer: Trainer, size: int) -> MicroBatching:
        return split_batch(
            size,
            processes=trainer.world_size,
            accumulate=self._least_accumulation,
            max_micro_batch=self._limit,
        )
