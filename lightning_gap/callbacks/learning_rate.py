"""Scale the learning rate with the batch size, and warm up to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from .._lightning import (
    micro_batch_size,
    optimizer_steps_per_epoch,
    optimizer_steps_taken,
    refuse_second,
    writes_logs_now,
)
from ..functional.learning_rate import Rule, gradual_warmup, learning_rate_scale
from ._arguments import check_counts


class LearningRateScaling(Callback):
    """Multiply the learning rate by what the batch size calls for, whatever the optimizer and scheduler.

    The factor is applied around each optimizer step and taken back right after it, so schedulers and checkpoints
    hold your own unscaled schedule, and a resumed run needs no bookkeeping. A factor above 1 is approached by
    gradual warmup: it starts at 1 and grows by the same amount every step.

    The batch size is micro-batch x `accumulate_grad_batches` x processes. Logs ``lr/effective`` (the rate really
    used by the first parameter group; others as ``lr/effective_1``, ...), ``lr/scale`` and ``batch/effective``.

    Args:
        base_batch_size: Samples per optimizer step for which your learning rate was chosen. Goyal et al. use 256.
        rule: ``"linear"`` (Goyal et al.) or ``"sqrt"`` (Hoffer et al.).
        warmup_epochs: Length of the warmup in epochs, 0 for none. Goyal et al. use 5.
        micro_batch_size: Samples per batch and process, for loaders that have no `batch_size` to read.

    Raises:
        ValueError: If an argument is out of range; at train start, if the batch size or the length of an epoch
            cannot be found, or the Trainer has a second scaling.

    Reference:
        Goyal et al. (2017), sections 2.1 and 2.2; Hoffer, Hubara and Soudry (2017), section 3.
    """

    def __init__(
        self,
        base_batch_size: int = 256,
        *,
        rule: Rule = "linear",
        warmup_epochs: float = 5,
        micro_batch_size: int | None = None,
    ) -> None:
        learning_rate_scale(1, base_batch_size, rule=rule)
        if micro_batch_size is not None:
            check_counts(micro_batch_size=micro_batch_size)
        if not 0 <= warmup_epochs < math.inf:
            raise ValueError(
                f"warmup_epochs must not be negative or infinite, got {warmup_epochs!r}; 0 means no warmup"
            )
        self.base_batch_size = base_batch_size
        self.rule: Rule = rule
        self.warmup_epochs = warmup_epochs
        self.micro_batch_size = micro_batch_size
        self._handles: list[RemovableHandle] = []
        self._unscaled: dict[Optimizer, list[Any]] = {}
        self._batch_size = 0
        self._factor = 1.0
        self._effective: dict[Optimizer, list[float]] = {}

    @property
    def current_scale(self) -> float:
        """What the optimizer's rate was multiplied by in the last step."""
        return self._factor

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            refuse_second(trainer, self, because="the rate would be scaled twice")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        micro = self.micro_batch_size or micro_batch_size(trainer)
        if micro is None:
            raise ValueError(
                f"LearningRateScaling cannot read a batch size from {type(trainer.train_dataloader).__name__}; "
                "pass micro_batch_size=..., the samples per batch and process"
            )
        self._batch_size = micro * trainer.accumulate_grad_batches * trainer.world_size
        scale = learning_rate_scale(self._batch_size, self.base_batch_size, rule=self.rule)
        warmup_steps = self._warmup_steps(trainer) if scale > 1 else 0

        def factor() -> float:
            return gradual_warmup(optimizer_steps_taken(trainer), warmup_steps, scale)

        self._scale_every_step(trainer.optimizers, factor)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._effective and writes_logs_now(trainer):
            used = [rate for optimizer in trainer.optimizers for rate in self._effective.get(optimizer, [])]
            rates = {f"lr/effective_{i}" if i else "lr/effective": rate for i, rate in enumerate(used)}
            terms = {"lr/scale": self._factor, "batch/effective": float(self._batch_size)}
            pl_module.log_dict(rates | terms, on_step=True, on_epoch=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _warmup_steps(self, trainer: Trainer) -> int:
        per_epoch = optimizer_steps_per_epoch(trainer)
        if per_epoch is None and self.warmup_epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs} has no length in steps: the train loader has no len(); "
                "give it one, set Trainer(limit_train_batches=<int>), or use warmup_epochs=0"
            )
        return round(self.warmup_epochs * (per_epoch or 0))

    def _scale_every_step(self, optimizers: list[Optimizer], factor: Callable[[], float]) -> None:
        """Hook into torch's own step: a scheduler steps after it and must see the unscaled rate."""

        def before(optimizer: Optimizer, *_: Any) -> None:
            self._factor = factor()
            self._unscaled[optimizer] = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * self._factor  # a new object: rates held as tensors are shared
            self._effective[optimizer] = [float(group["lr"]) for group in optimizer.param_groups]

        def after(optimizer: Optimizer, *_: Any) -> None:
            self._restore(optimizer)

        for optimizer in optimizers:
            self._handles += [
                optimizer.register_step_pre_hook(before),
                optimizer.register_step_post_hook(after),
            ]

    def _restore(self, optimizer: Optimizer) -> None:
        for group, rate in zip(optimizer.param_groups, self._unscaled.pop(optimizer), strict=True):
            group["lr"] = rate

    def _stop(self) -> None:
        for optimizer in list(self._unscaled):  # a step that raised never reached its post hook
            self._restore(optimizer)
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._effective = {}
