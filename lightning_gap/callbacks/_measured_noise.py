"""The noise of a batch's gradient, measured while its micro-batches accumulate."""

from __future__ import annotations

import math

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional.batch_size.adaptive_sampling import GradientStatistics
from ..trainer.processes import mean_over_processes
from ..trainer.progress import ends_accumulation
from ._micro_batch_gradients import MicroBatchGradients
from ._run import run_of


class MeasuredNoise:
    """Of every n-th step the statistics of its micro-batches' gradients, where the run sets the batch size."""

    def __init__(self) -> None:
        self._gradients = MicroBatchGradients()
        self._measures = False

    def start(self) -> None:
        """Training begins."""
        self._gradients.begin()
        self._measures = False

    def begin_batch(self, trainer: Trainer, batch_idx: int, *, every_n_steps: int) -> None:
        """A batch comes: decide whether its step is measured. One whose micro-batches may differ is not."""
        run = run_of(trainer)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._gradients.begin()
            remaining = trainer.num_training_batches - batch_idx
            fits = trainer.accumulate_grad_batches < remaining or math.isinf(remaining)  # the last may be smaller
            self._measures = fits and trainer.global_step % every_n_steps == 0
        if self._measures and trainer.world_size == 1:  # several processes measure together or not at all
            counter = run.accumulation.counter
            cut = not run.is_counted_by_user and counter.looks_smaller
            self._measures = not cut and counter.samples() in (None, run.micro_batch_size(trainer))

    def see_loss(self, trainer: Trainer, loss: Tensor) -> None:
        """A micro-batch's loss is about to go backward."""
        if self._measures and not run_of(trainer).is_extra_pass:
            self._gradients.see_loss(trainer, loss)

    def see_gradient(self, trainer: Trainer, module: LightningModule) -> GradientStatistics | None:
        """A micro-batch's gradient was added; the statistics with the last one of a step that is measured."""
        run = run_of(trainer)
        if not self._measures or run.is_extra_pass:
            return None
        last = ends_accumulation(trainer)
        if last:
            self._gradients.rescale(run.accumulation.scale)
        self._gradients.see_gradient(trainer, module)
        return self._gradients.statistics(trainer, run.micro_batch_size(trainer) or 1) if last else None

    def mean_loss(self, trainer: Trainer) -> float:
        """Mean loss of the step's micro-batches, on all processes."""
        return mean_over_processes(trainer, self._gradients.loss)
