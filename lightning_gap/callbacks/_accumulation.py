"""Weigh micro-batches inside a running fit, so that an accumulated gradient is that of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from .._lightning import (
    ends_accumulation,
    processes_hold_equally_many,
    samples_in,
    sum_over_processes,
    zeroes_gradients,
)
from ..functional.accumulation import AccumulationWindow


class ExactWindows:
    """The windows of a run, one after the other.

    Args:
        count: What the mean of the loss is taken over, from a batch; the samples by default.
    """

    def __init__(self, count: Callable[[Any], float] | None = None) -> None:
        self._count = count
        self._window = AccumulationWindow()
        self._batch: Any = None

    def begin(self) -> None:
        """Forget a window that was left unfinished."""
        self._window = AccumulationWindow()

    def see(self, batch: Any) -> None:
        """Keep the batch that comes next until its loss is there; counted only where it matters."""
        self._batch = batch

    def weigh(self, trainer: Trainer, loss: Tensor) -> None:
        """Weigh a loss that is about to go backward, and with the last one of a window all that came before."""
        divisor = trainer.accumulate_grad_batches
        self._refuse_or_clear(trainer)
        if divisor == 1 and trainer.world_size == 1 and self._window.micro_batches == 0:
            return
        weight = self._window.add(self._samples_in(self._batch), divisor=divisor)
        if ends_accumulation(trainer):
            alike = self._count is None and processes_hold_equally_many(trainer)
            own = self._window.samples
            total = own * trainer.world_size if alike else sum_over_processes(trainer, own)
            scale = self._window.finish(total, processes=trainer.world_size)
            if self._window.micro_batches > 1:
                _scale_gradients(trainer, scale)
            weight *= scale
            self._window = AccumulationWindow()
        if weight != 1.0:
            loss.register_hook(lambda gradient: gradient * weight)  # type: ignore[no-untyped-call]

    def step(self, trainer: Trainer) -> None:
        """The optimizer steps; a window whose last micro-batch had no loss (`training_step` gave None) ends here."""
        if self._window.micro_batches:
            _scale_gradients(trainer, self._window.finish(self._window.samples))
            self._window = AccumulationWindow()

    def _samples_in(self, batch: Any) -> float:
        samples = samples_in(batch) if self._count is None else float(self._count(batch))
        if samples is None:
            raise ValueError(
                f"cannot tell how many samples a {type(batch).__name__} holds, by which micro-batches are weighed; add "
                "ExactAccumulation(count=...) with a function of the batch"
            )
        return samples

    def _refuse_or_clear(self, trainer: Trainer) -> None:
        """Lightning zeroes gradients where the batch index is a multiple of the factor, wherever a window begins."""
        begins, zeroed = self._window.micro_batches == 0, zeroes_gradients(trainer)
        if begins and not zeroed:
            for optimizer in trainer.optimizers:
                optimizer.zero_grad()
        if zeroed and not begins:
            raise ValueError(
                f"accumulate_grad_batches became {trainer.accumulate_grad_batches} inside a window, at batch "
                f"{trainer.fit_loop.batch_idx}: the gradients of {self._window.micro_batches} micro-batches were "
                "thrown away; change it where the next batch index is a multiple of both factors"
            )


def _scale_gradients(trainer: Trainer, scale: float) -> None:
    if scale != 1.0:
        for parameter in trainer.lightning_module.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
