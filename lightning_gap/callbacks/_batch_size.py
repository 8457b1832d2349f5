"""What the callbacks that set the batch size have in common: where it is written, when, and what must follow."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ..functional._validation import text, whole_number
from ..functional.batch_size.schedule import MicroBatching as Split
from ..functional.batch_size.schedule import split_batch
from ..trainer.batches import drops_last_batch, micro_batch_size, samples_per_process, states_its_batches
from ..trainer.callbacks import is_first_that
from ..trainer.loader import TrainLoaderSize
from ..trainer.logs import writes_logs_now
from ..trainer.optimizers import step_schedulers_with_a_length
from ..trainer.progress import averages_weights_now, validation_interval
from ..trainer.refusals import refuse_other_accumulation, refuse_several_that
from ..trainer.resizing import index_counts
from ..trainer.resume import fix_resume_progress, keep_epoch, recall_epoch
from ..trainer.saved_progress import epoch_of
from ..trainer.stated_batches import nominal_size
from ._accumulation import ExactWindows, is_counted_by_user, raise_on_all_processes, refuse_different_counts
from ._arguments import optional_function
from ._callback import GapCallback
from ._last_batch import batch_norm_layers, first_size_that_leaves_one, watch_for_single_values
from ._sample_counter import Count


class BatchSizeCallback(GapCallback):
    """Sets the batch size of each epoch: the size of the loader, and how many of its batches make a step.

    The size of the first epoch is set before the loader is made; those of later epochs as soon as the epoch before is
    over, and Lightning then makes the loader again. In between nothing changes, also where a run is resumed inside an
    epoch. When the fit is over, loader, module and Trainer have their own values again.
    """

    sets_batch_size = True
    weighs_accumulation = True
    may_change: ClassVar[tuple[str, ...]] = ("max_micro_batch", "batch_arg_name")

    def __init__(self, *, max_micro_batch: int | None, batch_arg_name: str, count: Count | None) -> None:
        self.max_micro_batch = None if max_micro_batch is None else whole_number("max_micro_batch", max_micro_batch)
        self.batch_arg_name = text("batch_arg_name", batch_arg_name)
        self.count = optional_function("count", count, "the batch")
        self._windows = ExactWindows(count)
        self._weighs = False
        self._watches: list[RemovableHandle] = []  # of BatchNorm layers in the first batch
        self._loader: TrainLoaderSize | None = None
        self._users_accumulation = 1
        self._set: Split | None = None  # what loader and Trainer were told
        self._checks_batch = self._first_batch = self._told = False
        self._plan: list[Split] = []  # as far as it is known
        self.planned_micro_batch_sizes: set[int] = set()  # in it
        self.most_accumulation_planned = 1

    @abstractmethod
    def _split_at(self, trainer: Trainer, epoch: int) -> Split | None:
        """How an epoch begins; ``None`` for what loader and Trainer have by themselves."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_several_that(trainer, "sets_batch_size", because="each would undo what the other sets")
        refuse_other_accumulation(trainer, self)
        refuse_different_counts(trainer)
        self._users_accumulation = trainer.accumulate_grad_batches
        self._loader = TrainLoaderSize(trainer, self.batch_arg_name)
        self._set = None
        self._plan = self._planned(trainer)
        self.planned_micro_batch_sizes = {split.micro_batch_size for split in self._plan}
        self.most_accumulation_planned = max((split.accumulate for split in self._plan), default=1)
        self._prepare(trainer, trainer.current_epoch)
        self._accumulate(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        recall_epoch(trainer, checkpoint)
        if self._loader is not None:  # the fit's own, not one of `validate` or `test`
            self._recall(trainer, checkpoint)
            self._prepare(trainer, epoch_of(checkpoint))  # before configure_optimizers, which may ask for the loader
            self._accumulate(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        loader = self._its_loader
        fix_resume_progress(trainer)
        if self._prepare(trainer, trainer.current_epoch):  # a checkpoint from the very end of an epoch
            loader.reload_now()
            fix_resume_progress(trainer)
        self._accumulate(trainer)
        self._windows.start(trainer)
        self._weighs = is_first_that(trainer, self, "weighs_accumulation")
        self._check_run(trainer)
        self._check_loader(trainer)
        known = (nominal_size(trainer.train_dataloader), self.micro_batch_size_set)
        sizes = (size for size in self._sizes_to_prove(trainer) if size not in known)
        loader.prove(sizes, by_batches=not is_counted_by_user(trainer))
        self._first_batch, self._told = True, False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._its_loader.reloaded()
        if not averages_weights_now(trainer):
            self._accumulate(trainer)
            self._check_loader(trainer)
        self._windows.begin()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._windows.see(trainer, batch, batch_idx, weighs=self._weighs)
        if self._checks_batch and self._set is not None:
            self._checks_batch = False
            self._check_batch(trainer, self._set.micro_batch_size)
        self._first_batch = False

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._weighs:
            self._windows.weigh(trainer, loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._windows.after_backward()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._windows.step(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._watch_no_more()
        if writes_logs_now(trainer):
            pl_module.log_dict(self._values(trainer), on_step=True, on_epoch=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        following = trainer.current_epoch + 1
        if following != trainer.max_epochs and self._prepare(trainer, following):
            self._its_loader.reload_before_next_epoch()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        keep_epoch(trainer, checkpoint)
        if self._loader is not None:
            self._loader.hide_from(checkpoint)

    def _settings_of_process(self, trainer: Trainer) -> dict[str, Any]:
        plan = [[split.micro_batch_size, split.accumulate] for split in self._plan]
        return super()._settings_of_process(trainer) | {"micro-batches and their sizes": plan}

    def _recall(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        """Take what decides about the size from a checkpoint."""

    def _values(self, trainer: Trainer) -> dict[str, float]:
        """What is logged of a step."""
        micro = micro_batch_size(trainer) if self._set is None else self._set.micro_batch_size
        accumulate = trainer.accumulate_grad_batches
        values = {"batch/accumulate": float(accumulate)}
        return values if micro is None else values | {"batch/size": float(micro * accumulate * trainer.world_size)}

    @property
    def micro_batch_size_set(self) -> int | None:
        """Samples per batch and process of this epoch, if it was set here."""
        return None if self._set is None else self._set.micro_batch_size

    @property
    def _least_accumulation(self) -> int:
        """Micro-batches that a step has at least."""
        return self._users_accumulation

    @property
    def _its_loader(self) -> TrainLoaderSize:
        if self._loader is None:
            raise RuntimeError(f"{type(self).__name__} has not been set up")
        return self._loader

    def _prepare(self, trainer: Trainer, epoch: int) -> bool:
        """Write the size of an epoch to where its loader will be made from; whether it is another than before."""
        split = self._split_at(trainer, epoch)
        if split == self._set:
            return False
        before, self._set = self._set, split
        if split is None:
            self._its_loader.restore()
        elif before is None or split.micro_batch_size != before.micro_batch_size:
            self._its_loader.set(split.micro_batch_size)
            return True
        return split is None

    def _planned(self, trainer: Trainer) -> list[Split]:
        """What is known to come, epoch by epoch."""
        splits = (self._split_at(trainer, epoch) for epoch in self._epochs_to_come(trainer))
        return [split for split in splits if split is not None]

    def _epochs_to_come(self, trainer: Trainer) -> Iterable[int]:
        """All epochs of the run; the next one alone where its end is not known."""
        first, last = trainer.current_epoch, trainer.max_epochs or 0
        return range(first, max(last, first + 1))

    def _check_loader(self, trainer: Trainer) -> None:
        self._checks_batch = self._set is not None and not states_its_batches(trainer)
        if self._set is not None:
            self._its_loader.check(self._set.micro_batch_size)

    def _check_batch(self, trainer: Trainer, wanted: int) -> None:
        """Whether the first batch of an epoch has the size that was set; an error only before the first step."""
        size = next(iter(index_counts(trainer.train_dataloader, 1)), None)
        if size is None and not is_counted_by_user(trainer):
            size = self._windows.counter.samples()
        short = trainer.num_training_batches == 1 and (size or 0) < wanted
        text = (
            f"the batch size was set to {wanted} samples for each process and batch, but a batch holds {size}; let "
            f"train_dataloader() read its batch size from self.{self.batch_arg_name}, or pass count=..., a function of "
            "the batch, if the first axis of its tensors is not the sample"
        )

        def check() -> None:
            if size not in (None, wanted) and not short:
                raise ValueError(text)

        if self._first_batch:
            raise_on_all_processes(trainer, check)
        elif size not in (None, wanted) and not short and not self._told:
            self._told = True
            rank_zero_warn(text)

    def _sizes_to_prove(self, trainer: Trainer) -> list[int]:
        """Of the sizes to come a few, for which the loader is made as a trial: the next, the largest, the smallest."""
        sizes = [split.micro_batch_size for split in self._plan]
        now = sizes[0] if self._set is None and sizes else self.micro_batch_size_set
        following = [size for size in sizes if size != now][:1]
        return list(dict.fromkeys([*following, max(sizes), min(sizes)])) if sizes else []

    def _check_run(self, trainer: Trainer) -> None:
        """Raise before the first step where a size that comes later cannot work."""
        samples = samples_per_process(trainer)
        planned = [split.micro_batch_size * split.accumulate * trainer.world_size for split in self._plan]
        if samples is None or not planned:
            return
        if max(planned) > samples * trainer.world_size:
            raise ValueError(
                f"a batch of {max(planned)} samples is larger than the {samples * trainer.world_size} samples to train "
                "on; use a smaller one"
            )
        interval = validation_interval(trainer)
        fewest = _batches(trainer, samples, max(self.planned_micro_batch_sizes))
        if interval is not None and interval > fewest:
            raise ValueError(
                f"val_check_interval={interval} is more batches than an epoch has once a batch holds "
                f"{max(self.planned_micro_batch_sizes)} samples, {fewest}; use a fraction, at most {fewest}, or "
                "check_val_every_n_epoch=None"
            )
        self._watch_the_first_batch(trainer)
        if trainer.max_steps == -1 and trainer.limit_train_batches == 1.0 and len(planned) == trainer.max_epochs:
            lengths = ((_batches(trainer, samples, split.micro_batch_size), split.accumulate) for split in self._plan)
            self._check_schedulers(trainer, sum(math.ceil(batches / window) for batches, window in lengths))

    def _watch_the_first_batch(self, trainer: Trainer) -> None:
        """Let BatchNorm raise in the first batch if a later one of a single sample would leave it one value."""
        size, present = first_size_that_leaves_one(trainer, self._plan), micro_batch_size(trainer)
        if size is not None and present is not None:
            layers = batch_norm_layers(trainer.lightning_module)
            self._watches = watch_for_single_values(layers, samples=present, sizes_that_leave_one=[size])

    def _watch_no_more(self) -> None:
        while self._watches:
            self._watches.pop().remove()

    def _check_schedulers(self, trainer: Trainer, optimizer_steps: int) -> None:
        for name, total, frequency in step_schedulers_with_a_length(trainer):
            steps = optimizer_steps // frequency
            text = (
                f"{name} was made for total_steps={total}, and with these batch sizes the run takes {steps} steps; "
                "Lightning's estimated_stepping_batches takes all epochs to be alike, "
                "lightning_gap.functional.planned_optimizer_steps does not"
            )
            if total < steps:
                raise ValueError(text)
            if total > steps:
                rank_zero_warn(text)

    def _split(self, trainer: Trainer, size: int) -> Split:
        return split_batch(
            size,
            processes=trainer.world_size,
            accumulate=self._least_accumulation,
            max_micro_batch=self.max_micro_batch,
        )

    def _accumulate(self, trainer: Trainer) -> None:
        trainer.accumulate_grad_batches = self._users_accumulation if self._set is None else self._set.accumulate

    def _restore(self, trainer: Trainer) -> None:
        self._watch_no_more()
        if self._loader is not None:
            self._loader.restore()
            self._loader = None
            trainer.accumulate_grad_batches = self._users_accumulation


def _batches(trainer: Trainer, samples: int, micro_batch_size: int) -> int:
    """Batches of an epoch on one process."""
    full, rest = divmod(samples, micro_batch_size)
    return full + (rest > 0 and not drops_last_batch(trainer))
