"""What an evaluation of the module inside a running fit needs."""

from __future__ import annotations

import copy
from typing import Any

from lightning.pytorch import Trainer

from . import _private


def to_device(trainer: Trainer, batch: Any) -> Any:
    """Bring a batch to `training_step` the way the training loop does; the batch itself stays as it is."""
    batch = trainer.precision_plugin.convert_input(copy.deepcopy(batch))
    batch = _private.before_batch_transfer(trainer.lightning_module, batch)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def attributes_of_run(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """What a `training_step` can set on the Trainer, its loops and its metrics, by where it is."""
    return {
        "self.trainer": trainer.__dict__,
        "self.trainer.fit_loop": trainer.fit_loop.__dict__,
        "self.trainer.fit_loop.epoch_loop": trainer.fit_loop.epoch_loop.__dict__,
        "self.trainer.callback_metrics": vars(_private.logger_connector(trainer)),
    }
