"""Further passes over the batch of a step, of which only the first counts for everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn.modules.batchnorm import _BatchNorm

from ..trainer import closures
from ..trainer.state import random_states, same_random_numbers, set_random_states
from ._undisturbed import silenced

GradientChange = Callable[[Trainer, LightningModule, Callable[[], None]], None]


class TwoPassStep:
    """The module's `optimizer_step` while a fit runs: after the pass over the batch the gradient is changed.

    Not an optimizer of its own: so Lightning counts one step, clips the changed gradient, and its scaler works.

    Args:
        trainer: In a fit.
        module: Its module, whose `optimizer_step` is wrapped until `remove` is called.
        changes: What to do with the gradient, one after the other.

    Attributes:
        is_extra_pass: Whether a pass is under way that is not the first over its batch.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, changes: Sequence[GradientChange]) -> None:
        self.is_extra_pass = False
        self._trainer, self._module, self._changes = trainer, module, changes
        self._own = module.optimizer_step
        vars(module)["optimizer_step"] = self._step

    def remove(self) -> None:
        """Let the module have its own step again."""
        vars(self._module).pop("optimizer_step", None)

    def _step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        def passes() -> Any:
            random_numbers = random_states()
            loss = optimizer_closure()
            if loss is None:  # the user's way to skip a batch
                return None

            def again() -> None:
                with self._extra_pass(), same_random_numbers(), closures.same_result(optimizer_closure):
                    set_random_states(random_numbers)
                    optimizer_closure()

            for change in self._changes:
                change(self._trainer, self._module, again)
            return loss

        self._own(epoch, batch_idx, optimizer, passes)

    @contextmanager
    def _extra_pass(self) -> Iterator[None]:
        """Running statistics and loggers are left to the first pass."""
        layers = (layer for layer in self._module.modules() if isinstance(layer, _BatchNorm))
        statistics = [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers(recurse=False)]
        self.is_extra_pass = True
        try:
            with silenced(self._module):
                yield
        finally:
            self.is_extra_pass = False
            with torch.no_grad():
                for buffer, value in statistics:
                    buffer.copy_(value)
