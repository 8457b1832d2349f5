"""The callbacks whose learning rates follow the batch size: how they read it, and what they log of it."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from ..functional._validation import whole_number
from ._arguments import optional_whole_number
from ._learning_rate_checks import check_micro_batch_size
from ._rate_scaling import RateScalingCallback
from ._run import run_of

SCALE_RATES = "scale the learning rate with the batch size"


class BatchFollowingCallback(RateScalingCallback):
    """Multiplies learning rates by what the batch size of each step calls for.

    Args:
        base_batch_size: Samples per optimizer step for which the hyperparameters were chosen.
        micro_batch_size: Samples per batch and process, for loaders that have no `batch_size` to read.
    """

    def __init__(self, *, base_batch_size: int, micro_batch_size: int | None) -> None:
        self.base_batch_size = whole_number("base_batch_size", base_batch_size, unit="samples")
        self.micro_batch_size = optional_whole_number("micro_batch_size", micro_batch_size)
        self._is_first_batch = False

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        run_of(trainer).state_micro_batch_size(self, self.micro_batch_size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.micro_batch_size is not None and run_of(trainer).split is None:
            check_micro_batch_size(trainer, self.micro_batch_size)
        self._is_first_batch = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self.batch_size(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._is_first_batch:  # others may have changed it since, as Lightning's GradientAccumulationScheduler does
            self._is_first_batch = False
            run_of(trainer).read_batch_size(trainer)
            self.begin_batches(trainer)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def begin_batches(self, trainer: Trainer) -> None:
        """The first batch of this fit comes, of which the batch size is known."""

    def batch_size(self, trainer: Trainer) -> int:
        """Samples per optimizer step now; raise if no loader states them."""
        size = run_of(trainer).batch_size(trainer)
        if size is None:
            raise ValueError(
                f"{type(self).__name__} cannot read a batch size from {type(trainer.train_dataloader).__name__}; pass "
                "micro_batch_size=..., the samples per batch and process"
            )
        return size

    def effective_rates(self, trainer: Trainer) -> dict[str, float]:
        """The learning rates of the last updates by the keys to log them under, groups without an update left out.

        The Trainer's optimizers come first, then those that the module steps by hand.
        """
        record = run_of(trainer).factors_of(trainer).record
        used = [record.used(optimizer) or [math.nan] * len(optimizer.param_groups) for optimizer in trainer.optimizers]
        rates = [rate for group in used for rate in group] + record.used_by_others(trainer.optimizers)
        return {keyed("lr/effective", i): rate for i, rate in enumerate(rates) if not math.isnan(rate)}


def keyed(key: str, group: int) -> str:
    """The key of a parameter group, by its number among those of all optimizers."""
    return f"{key}_{group}" if group else key
