"""End a run at the first loss or gradient that is no number, before the weights take it up."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ..trainer.processes import sum_over_processes
from ._callback import GapCallback
from ._run import run_of


class StopOnNaN(GapCallback):
    """End the run with an error where the loss or the gradient of a step is NaN or infinite, before that step.

    A learning rate that was scaled too far is seen within one step, and the weights that the Trainer holds are still
    finite, as is the last checkpoint. With gradient scaling, ``precision="16-mixed"``, an infinite gradient is usual
    and the scaler leaves its step out: there only the loss is looked at. Each step waits once for the device, and of
    several processes once for the others.

    Raises:
        FloatingPointError: Before the optimizer step, on all processes; names step, epoch, learning rate, batch size
            and the newest checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loss: Tensor | None = None  # summed over the micro-batches since the last step: finite if all of them are

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._loss = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        loss, self._loss = 0.0 if self._loss is None else float(self._loss), None
        found = [] if math.isfinite(loss) else [f"the loss is {loss}"]
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = _gradients(optimizer)
            # Far quicker on a CPU than to look for the largest entry, but squares of a large one overflow.
            if not math.isfinite(get_total_norm(gradients)):
                largest = float(get_total_norm(gradients, norm_type=torch.inf))
                found += [] if math.isfinite(largest) else [f"the gradient's largest entry is {largest}"]
        elsewhere = bool(sum_over_processes(trainer, len(found))) if trainer.world_size > 1 else bool(found)
        if elsewhere:
            raise FloatingPointError(_told(trainer, optimizer, found or ["the loss of another process is not finite"]))


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    """Those of an optimizer's weights; of sparse ones the entries that are there."""
    gradients: list[Any] = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
    held = [gradient for gradient in gradients if gradient is not None]
    return [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in held]


def _told(trainer: Trainer, optimizer: Optimizer, found: list[str]) -> str:
    run = run_of(trainer)
    rates = [float(group["lr"]) * run.learning_rate_scale for group in optimizer.param_groups if "lr" in group]
    rate = " and ".join(dict.fromkeys(f"{rate:g}" for rate in rates)) or "none"
    size = run.batch_size(trainer)
    saved = [path for path in map(_newest, trainer.checkpoint_callbacks) if path]
    return (
        f"{' and '.join(found)} in step {trainer.global_step} (epoch {trainer.current_epoch}), at learning rate {rate}"
        f"{'' if size is None else f' and batch size {size}'}; the step was not taken. Lower the learning rate, warm "
        "it up (LearningRateScaling), clip the gradient (gradient_clip_val), or look at that batch"
        + "".join(f"; saved before: {path!r}" for path in saved)
    )


def _newest(saver: Any) -> str:
    return str(getattr(saver, "last_model_path", "") or getattr(saver, "best_model_path", ""))
