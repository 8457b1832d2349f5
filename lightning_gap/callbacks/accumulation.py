"""Make accumulated gradients those of the large batch, also where a window is short or its parts differ."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from ..trainer.callbacks import is_first_that
from ..trainer.refusals import refuse_manual_optimization, refuse_second
from ..trainer.resume import fix_resume_progress, keep_epoch, recall_epoch
from ._accumulation import ExactWindows, refuse_different_counts
from ._arguments import optional_function
from ._callback import GapCallback
from ._sample_counter import Count


class ExactAccumulation(GapCallback):
    """Weigh every micro-batch by its samples, so that each step's gradient is the mean over the whole batch.

    Lightning divides each loss by `accumulate_grad_batches` and averages over processes. That is the mean over the
    batch only where all micro-batches are equal and none is missing: the last step of an epoch with 10 batches and
    ``accumulate_grad_batches=4`` has half the gradient it should have. With this callback losses are weighed before
    `backward`, so that gradient clipping, other callbacks and the optimizer see the right gradient. What the module
    logs stays as it is. Where all micro-batches are equal nothing is changed at all.

    The callbacks of this package that set the batch size do this by themselves; beside them this one is for ``count``.

    Args:
        count: What the mean of your loss is taken over, as a function of the batch: for instance the number of tokens
            that are not padding. A batch for which it gives 0 counts for nothing. By default the samples: as many as
            the loader states, and where it states nothing the first axis that all tensors of the batch have in common.

    Raises:
        ValueError: Before the first step in manual optimization, if the strategy accumulates by itself, with a
            second one or one with another ``count``, or if neither the loader nor its first batch says how many
            samples there are. In a step, if ``count`` gives no number of at least 0, or `accumulate_grad_batches`
            changes inside a window, where gradients would be lost.

    Reference:
        Goyal et al. (2017), section 3, remark 3: normalise by the total number of samples.
    """

    weighs_accumulation = True
    decides_training = ("count",)

    def __init__(self, count: Count | None = None) -> None:
        self.count = optional_function("count", count, "the batch")
        self._windows = ExactWindows(count)
        self._weighs = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            refuse_second(trainer, self, because="a batch would be weighed twice")
            refuse_manual_optimization(trainer, self)
            refuse_different_counts(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        keep_epoch(trainer, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        recall_epoch(trainer, checkpoint)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        fix_resume_progress(trainer)
        self._windows.start(trainer)
        self._weighs = is_first_that(trainer, self, "weighs_accumulation")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._windows.begin()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._windows.see(trainer, batch, batch_idx, weighs=self._weighs)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._weighs:
            self._windows.weigh(trainer, loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._windows.after_backward()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._windows.step(trainer)
