"""Weigh micro-batches inside a running fit, so that an accumulated gradient is that of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from ..functional.batch_size.accumulation import AccumulationWindow
from ..trainer.optimizers import weights_of
from ..trainer.processes import raise_on_all_processes, sums_over_processes
from ..trainer.progress import ends_accumulation, is_last_batch, zeroes_gradients
from ._sample_counter import Count, SampleCounter, number_counted


class SampleWeightedAccumulation:
    """The accumulation windows of a run, one after the other.

    Attributes:
        counter: The samples of each batch.
        scale: What the gradients of a window's earlier micro-batches were multiplied by when it ended.
    """

    def __init__(self) -> None:
        self.counter = SampleCounter()
        self._hooks: list[Any] = []
        self.start(None)

    def start(self, count: Count | None) -> None:
        """Training begins; ``count`` gives what the mean of a batch's loss is taken over, by default its samples."""
        self._count = count
        self.counter.start(told=count is not None)
        self._batch: Any = None
        self._position: int | None = None  # in the run, of the batch at hand
        self._failure: Exception | None = None
        self._first_batch, self._told = True, False
        self._weights: dict[int, tuple[float, float]] = {}  # samples and weight by the micro-batches of a window
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """An epoch begins; a window that was left unfinished is forgotten. Called once or several times."""
        self.counter.begin_pass()
        self._window, self.scale = AccumulationWindow(), 1.0
        self.after_backward()

    def see(self, trainer: Trainer, batch: Any, batch_idx: int, *, will_weigh: Callable[[Trainer], bool]) -> None:
        """Keep the batch that comes next until its loss is there; called once or several times.

        The first one is refused if ``will_weigh`` says that batches must be counted, and it cannot be.
        """
        position = trainer.fit_loop.total_batch_idx
        if position == self._position:
            return
        self._batch, self._position = batch, position
        self.counter.see(trainer, batch, batch_idx)
        if self._first_batch:
            self._first_batch = False
            if will_weigh(trainer):
                raise_on_all_processes(trainer, self._check_first_batch)

    def weigh(self, trainer: Trainer, loss: Tensor) -> None:
        """Weigh a loss that is about to go backward, and with the last one of a window all that came before."""
        divisor = trainer.accumulate_grad_batches
        if self._window.micro_batches == 0:
            self._weights = {}
            if divisor == 1 and trainer.world_size == 1 and self._count is None:
                return  # the whole batch
        self._refuse_or_clear(trainer)
        index = trainer.fit_loop.batch_idx
        samples = self._samples(trainer)
        self._weights[index] = samples, self._window.add(samples, divisor=divisor)
        if ends_accumulation(trainer):
            processes, own = trainer.world_size, self._window.samples
            alike = processes == 1 or (
                # the last batch's shares may differ
                self._count is None and self.counter.is_certain and not is_last_batch(trainer)
            )
            total = own * processes if alike else self._sum(trainer, own)
            scale = self._window.finish(total, processes=processes)
            if self._window.micro_batches > 1:
                _scale_gradients(trainer, scale)
                self.scale = scale
            if total == 0:
                self._say_that_nothing_counts()
            self._weights = {each: (n, weight * scale) for each, (n, weight) in self._weights.items()}
            self._window = AccumulationWindow()
        self.weigh_again(trainer, loss, index)

    def weigh_again(self, trainer: Trainer, loss: Tensor, index: int) -> None:
        """Weigh the loss of another pass over a micro-batch of this window, as far as it is known.

        Args:
            trainer: Hands the batches out.
            loss: Of this pass.
            index: The micro-batch's number in the epoch.
        """
        samples, weight = self._weights.get(index, (1.0, 1.0))
        if samples == 0:
            self._leave_out(trainer)
        elif weight != 1.0:
            loss.register_hook(lambda gradient: gradient * weight)  # type: ignore[no-untyped-call]

    def weight_of(self, index: int) -> float:
        """What the loss of a micro-batch of this window was multiplied by, as far as it is known."""
        return self._weights.get(index, (1.0, 1.0))[1]

    def after_backward(self) -> None:
        """The next gradient counts again."""
        while self._hooks:
            self._hooks.pop().remove()

    def step(self, trainer: Trainer) -> None:
        """The optimizer steps; a window whose last micro-batch had no loss (`training_step` gave None) ends here."""
        if self._window.micro_batches:
            _scale_gradients(trainer, self._window.finish(self._window.samples))
            if self._window.samples == 0:
                self._say_that_nothing_counts()
            self._window = AccumulationWindow()

    def _samples(self, trainer: Trainer) -> float:
        if self._window.micro_batches == 0:
            self.scale = 1.0
        try:
            return self.counter.samples_or_latest() if self._count is None else number_counted(self._count(self._batch))
        except Exception as error:
            if trainer.world_size == 1:
                raise
            self._failure = error  # raised with the sum over processes, where the others wait
            return 0.0

    def _sum(self, trainer: Trainer, own: float) -> float:
        """The samples of a window over all processes."""

        def compute() -> list[float]:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            return [own]

        return sums_over_processes(trainer, compute, numbers=1)[0]

    def _check_first_batch(self) -> None:
        if self._count is not None:
            number_counted(self._count(self._batch))
            return
        contradiction = self.counter.contradiction()
        if contradiction is not None or self.counter.samples() is None:
            may_be = "the collate function may leave samples out, or put something else first"
            unknown = "the loader does not state it, and the first axes of its tensors differ or may be something else"
            raise ValueError(
                f"cannot tell how many samples a {type(self._batch).__name__} holds, by which micro-batches are "
                f"weighed: {unknown if contradiction is None else f'{contradiction}; {may_be}'}; pass count=..., a "
                "function of the batch, to this callback or ExactAccumulation(count=...)"
            )

    def _leave_out(self, trainer: Trainer) -> None:
        """Let the next gradient be zero, also where the loss is 0 / 0 and its gradient is NaN."""
        for weight in weights_of(*trainer.optimizers).values():
            if weight.requires_grad:
                self._hooks.append(weight.register_hook(torch.zeros_like))  # type: ignore[no-untyped-call]

    def _say_that_nothing_counts(self) -> None:
        if not self._told:
            self._told = True
            rank_zero_warn(
                "every micro-batch of a step counts for nothing: count gave 0 for all of them, so that the gradient of "
                "the step is zero; leave such batches out if the optimizer's momentum and weight decay are to wait too"
            )

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
        for weight in weights_of(*trainer.optimizers).values():
            if weight.grad is not None:
                weight.grad.mul_(scale)
