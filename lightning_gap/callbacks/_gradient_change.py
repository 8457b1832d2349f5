"""What changes the gradient of a step, and the further passes that it may ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

Sees = Literal["step", "process", "micro_batch"]
Loss = Callable[[Any], Tensor]
OtherBatch = Callable[[Any, Loss], Any]
OtherLoss = Callable[[Tensor, Any, Loss], Tensor]


class Again(Protocol):
    """Make the gradients anew, by another pass over the batches of the step."""

    def __call__(self, other_batch: OtherBatch | None = None, /, *, other_loss: OtherLoss | None = None) -> Tensor:
        """Take the pass.

        Args:
            other_batch: Makes another batch of one, and of a function that gives the loss of a batch, times the factor
                of a gradient scaler.
            other_loss: Makes what goes backward of the loss of a batch, of the batch, and of the same function. All
                losses are divided by the micro-batches of a step.

        Returns:
            How much more this process's mean loss is than in the first pass, over the batches skipped in neither.
        """


class GradientChange(Protocol):
    """What changes gradients, and takes further passes to do so: a `Plugin`."""

    sees: Sees
    stands_alone: ClassVar[bool]

    def changes_this_step(self, trainer: Trainer) -> bool:
        """Whether the gradient of the step that begins is changed."""

    def change_gradient(self, trainer: Trainer, pl_module: LightningModule, again: Again, /) -> None:
        """Change the gradients of the module's weights."""
