"""The noise of a batch's gradient, measured while its micro-batches accumulate."""

from __future__ import annotations

import math

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional.batch_size.gradient_statistics import GradientStatistics, gradient_statistics
from ..trainer.optimizers import loss_scale, trained_weights
from ..trainer.processes import mean_over_processes, process_group
from ..trainer.progress import ends_accumulation
from ._run import run_of


class MeasuredNoise:
    """Of every n-th step the statistics of its micro-batches' gradients, where the run sets the batch size.

    The gradients are separated by what each micro-batch adds to their sum. On several processes the last one is left
    out, because its backward pass averages over them.
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Training begins, or the next step."""
        self._measures = False
        self._rows: list[Tensor] = []
        self._sum: Tensor | None = None
        self._losses: list[Tensor] = []

    def begin_batch(self, trainer: Trainer, batch_idx: int, *, every_n_steps: int) -> None:
        """A batch comes: decide whether its step is measured. One whose micro-batches may differ is not."""
        run = run_of(trainer)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.start()
            remaining = trainer.num_training_batches - batch_idx
            fits = trainer.accumulate_grad_batches < remaining or math.isinf(remaining)  # the last may be smaller
            self._measures = fits and trainer.global_step % every_n_steps == 0
        if self._measures and trainer.world_size == 1:  # several processes measure together or not at all
            counter = run.accumulation.counter
            cut = run.count is None and counter.looks_smaller
            self._measures = not cut and counter.samples() in (None, run.micro_batch_size(trainer))

    def see_loss(self, trainer: Trainer, loss: Tensor) -> None:
        """A micro-batch's loss, which Lightning has divided by their number, is about to go backward."""
        if self._measures and run_of(trainer).repeated is None:
            self._losses.append(loss.detach() * trainer.accumulate_grad_batches / loss_scale(trainer))

    def see_gradient(self, trainer: Trainer, module: LightningModule) -> GradientStatistics | None:
        """A micro-batch's gradient was added; the statistics with the last one of a step that is measured."""
        run = run_of(trainer)
        if not self._measures or run.repeated is not None:
            return None
        last = ends_accumulation(trainer)
        if last and self._sum is not None and run.accumulation.scale != 1.0:  # the gradients so far were multiplied
            self._rows = [row * run.accumulation.scale for row in self._rows]
            self._sum = self._sum * run.accumulation.scale
        if trainer.world_size == 1 or not last:
            total = torch.cat([_flat(weight) for weight in trained_weights(trainer, module).values()])
            added = total if self._sum is None or run.separates_micro_batches else total - self._sum
            self._sum = total
            self._rows.append(added * (trainer.accumulate_grad_batches / loss_scale(trainer)))
        if not last:
            return None
        samples = run.micro_batch_size(trainer) or 1
        return gradient_statistics(self._rows, samples_each=samples, process_group=process_group(trainer))

    def mean_loss(self, trainer: Trainer) -> float:
        """Mean loss of the step's micro-batches, on all processes."""
        return mean_over_processes(trainer, float(torch.stack(self._losses).mean()))


def _flat(parameter: Tensor) -> Tensor:
    """Its gradient as one row, in float32 at least; zeros where no loss depended on it yet."""
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    return dense.flatten().to(torch.promote_types(dense.dtype, torch.float32))
