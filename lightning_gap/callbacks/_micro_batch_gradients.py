"""The gradient of each micro-batch of a step, separated while they accumulate."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional.batch_size.adaptive_sampling import GradientStatistics, gradient_statistics
from ..trainer.optimizers import loss_scale, trained_weights
from ..trainer.processes import process_group
from ..trainer.progress import ends_accumulation


class MicroBatchGradients:
    """Separates the micro-batches' gradients by what each adds to the sum.

    On several processes the last micro-batch is left out, because its backward pass averages over them.
    """

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._sum: Tensor | None = None
        self._losses: list[Tensor] = []

    def begin(self) -> None:
        """A new step begins."""
        self._rows, self._sum, self._losses = [], None, []

    def see_loss(self, trainer: Trainer, loss: Tensor) -> None:
        """Note a micro-batch's loss, before Lightning's division by their number."""
        self._losses.append(loss.detach() * trainer.accumulate_grad_batches / loss_scale(trainer))

    def see_gradient(self, trainer: Trainer, module: LightningModule) -> None:
        """Note what the last backward pass has added."""
        if trainer.world_size > 1 and ends_accumulation(trainer):
            return
        total = torch.cat([_flat(weight) for weight in trained_weights(trainer, module).values()])
        added = total if self._sum is None else total - self._sum
        self._sum = total
        self._rows.append(added * (trainer.accumulate_grad_batches / loss_scale(trainer)))

    def rescale(self, scale: float) -> None:
        """Follow a window whose gradients so far were multiplied by a number, because its micro-batches differ."""
        if scale != 1.0 and self._sum is not None:
            self._rows = [row * scale for row in self._rows]
            self._sum = self._sum * scale

    def statistics(self, trainer: Trainer, micro_batch_size: int) -> GradientStatistics:
        """Of all micro-batches of all processes."""
        return gradient_statistics(self._rows, samples_each=micro_batch_size, process_group=process_group(trainer))

    @property
    def loss(self) -> float:
        """Mean loss of this process's micro-batches."""
        return float(torch.stack(self._losses).mean())


def _flat(parameter: Tensor) -> Tensor:
    """Its gradient as one row, in float32 at least; zeros where no loss depended on it yet."""
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    return dense.flatten().to(torch.promote_types(dense.dtype, torch.float32))
