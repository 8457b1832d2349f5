"""The callbacks that weigh micro-batches by their samples: one of a Trainer's weighs for all."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from ._arguments import optional_function
from ._callback import GapCallback
from ._run import run_of
from ._sample_counter import Count


class WeighingCallback(GapCallback):
    """Weighs every micro-batch by its samples, so that each step's gradient is the mean over the whole batch.

    Args:
        count: What the mean of your loss is taken over, as a function of the batch; the samples by default.
    """

    resumes_exactly = True

    def __init__(self, count: Count | None = None) -> None:
        self.count = optional_function("count", count, "the batch")

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        run_of(trainer).claim_weighing(self, optional_function("count", self.count, "the batch"))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        run_of(trainer).accumulation.begin_epoch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        run = run_of(trainer)
        run.accumulation.see(trainer, batch, batch_idx, will_weigh=run.will_weigh)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        run = run_of(trainer)
        if run.weighs(self):
            if run.repeated is None:
                run.accumulation.weigh(trainer, loss)
            else:
                run.accumulation.weigh_again(trainer, loss, run.repeated)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run_of(trainer).accumulation.after_backward()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        run = run_of(trainer)
        if run.weighs(self):
            run.accumulation.step(trainer)
