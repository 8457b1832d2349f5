"""Further passes over the batches of a step, of which only the first counts for everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from ..functional._uninterrupted import uninterrupted_exit
from ..trainer.closures import (
    MicroBatch,
    share_buffers_next,
    take_pass_by,
    watch_closures,
    without_synchronisation,
)
from ..trainer.optimizers import loss_scale, trained_weights
from ..trainer.processes import average_gradients
from ..trainer.progress import averages_weights_now
from ..trainer.state import random_states, same_random_numbers, set_random_states
from ._accumulation import SampleWeightedAccumulation
from ._gradient_change import GradientChange, OtherBatch, OtherLoss, Sees
from ._same_module import ModuleState, Unwritten
from ._undisturbed import silenced


@dataclass
class View:
    """A micro-batch as a pass takes it: with another batch in its place, and its loss changed, by whoever asks for it.

    Attributes:
        batch: As Lightning trains on it.
        given: What is in its place.
        losses: What changes its loss, one after the other.
    """

    batch: MicroBatch
    given: Any
    losses: tuple[OtherLoss, ...] = ()


class ExtraPasses:
    """The steps of a fit, in which gradients are changed after the pass over the batches.

    Not an optimizer of its own: so Lightning counts one step, clips the changed gradient, and its scaler works. The
    batches of a step, of which there are several under accumulation, are kept until it is taken.

    Args:
        trainer: In a fit, whose closures are watched until `remove` is called.
        changes: What to do with the gradient, one after the other: each sees what those before it have made, and its
            further passes include them.
        accumulation: Weighs the micro-batches.

    Raises:
        ValueError: If one of several changes cannot stand beside another.

    Attributes:
        repeated: The number in the epoch of the batch of which a further pass is under way, or ``None``.
        remove: Let Lightning have its own steps again.
    """

    def __init__(
        self, trainer: Trainer, changes: Sequence[GradientChange], accumulation: SampleWeightedAccumulation
    ) -> None:
        alone = [change for change in changes if change.stands_alone]
        if alone and len(changes) > 1:
            raise ValueError(
                f"{_names(changes)}: {_names(alone[:1])} takes steps of its own, and stands alone; keep one"
            )
        _refuse_different_sights(changes)
        self.repeated: int | None = None
        self._trainer, self._module, self._all = trainer, trainer.lightning_module, changes
        self._accumulation = accumulation
        self._changes: Sequence[GradientChange] = ()  # of this step
        self._window: list[MicroBatch] = []  # the batches of this step, where its gradient is changed
        self._ended = True
        self._began, self._has_looked = trainer.global_step, False
        self._share = 1.0  # of the gradients at hand, by which they are divided for whoever changes them
        self.remove = watch_closures(trainer, self._see, self._wrap)

    def begin_epoch(self) -> None:
        """Forget a step whose batches an epoch has left unfinished."""
        self._window, self._ended = [], True

    def _see(self, batch_at_hand: Callable[[], MicroBatch], closure: Any) -> None:
        if averages_weights_now(self._trainer):
            return  # no gradient to change
        if self._ended:
            self._window, self._ended = [], False
            self._changes = [change for change in self._all if change.changes_this_step(self._trainer)]
            _refuse_different_sights(self._changes)  # which may differ once batches are accumulated
        if self._changes:
            batch = batch_at_hand()
            self._window.append(batch)
            take_pass_by(closure, partial(self._first_pass, batch))
        elif not self._has_looked:  # so that what cannot be passed over twice is told of before the first step
            take_pass_by(closure, partial(self._look, batch_at_hand()))
        self._has_looked = True

    def _wrap(self, closure: Any) -> Callable[[], Any]:
        self._ended = True
        return partial(self._step, closure) if self._window and not averages_weights_now(self._trainer) else closure

    @property
    def separates_micro_batches(self) -> bool:
        """Whether the first pass over a micro-batch of this step leaves its own gradient alone."""
        return bool(self._window) and self._sees == "micro_batch"

    @property
    def _sees(self) -> Sees:
        return self._changes[0].sees

    def _look(self, batch: MicroBatch, take: Callable[[], Any]) -> Any:
        """Take Lightning's pass over a batch, and refuse what would spoil a further one."""
        if batch.before is not None:
            raise ValueError(
                f"{_names(self._all)} and {type(self._trainer.optimizers[0]).__name__} both take further passes over "
                "the batch of a step; use an optimizer that calls its closure once"
            )
        batch.random_numbers, batch.before = random_states(), ModuleState(self._module)
        first_steps = self._trainer.global_step < self._began + 2  # a teacher is as its student is in the very first
        frozen = Unwritten(self._module, self._weights(), by_value=first_steps)
        result = take()
        batch.refuse_if_written_to()
        frozen.refuse_if_written_to()
        return result

    def _first_pass(self, batch: MicroBatch, take: Callable[[], Any]) -> Any:
        earlier = self._take_out() if self._sees == "micro_batch" else []
        with self._synchronised(self._sees == "step"):
            result = self._look(batch, take)
        batch.loss = result.loss
        if self._sees == "micro_batch":
            if batch.loss is not None:
                self._change([batch])
            self._add_up(earlier if len(self._window) > 1 else [])
            batch.forget()
        return result

    def _step(self, closure: Any) -> Any:
        """The closure of an optimizer step, whose gradient is changed before it is used."""
        loss = closure()
        batches = [batch for batch in self._window if batch.loss is not None]
        if batches and self._sees != "micro_batch":  # there each was changed; without a loss all were skipped
            self._change(batches)
        if batches and self._sees != "step":
            average_gradients(self._trainer, self._weights())
            share_buffers_next(self._trainer)
        self._window = []
        return loss

    def _weight_of(self, batch: MicroBatch) -> float:
        """What the loss of a micro-batch was multiplied by, after its division by their number."""
        return self._accumulation.weight_of(batch.index)

    def _change(self, batches: Sequence[MicroBatch]) -> None:
        """Change what the first pass over these batches has left."""
        share = 1.0
        if self._sees == "micro_batch":
            share = self._weight_of(batches[0]) / self._trainer.accumulate_grad_batches
        if share == 0:
            return  # a micro-batch that counts for nothing
        self._share = share * loss_scale(self._trainer)  # Lightning unscales only after the closure has returned
        self._multiply(1 / self._share)
        self._apply(self._changes, [View(batch, batch.batch) for batch in batches])
        self._multiply(self._share)

    def _apply(self, changes: Sequence[GradientChange], views: Sequence[View]) -> None:
        for place, change in enumerate(changes):
            change.change_gradient(self._trainer, self._module, partial(self._again, changes[:place], views))

    def _again(
        self,
        inner: Sequence[GradientChange],
        views: Sequence[View],
        other_batch: OtherBatch | None = None,
        /,
        *,
        other_loss: OtherLoss | None = None,
    ) -> Tensor:
        for weight in self._weights():
            weight.grad = None
        changed = [
            View(view.batch, view.given, (*view.losses, *([other_loss] if other_loss else ()))) for view in views
        ]
        rise, shares = torch.zeros((), device=self._module.device), 0.0
        for view in changed:
            with self._synchronised(self._sees == "step" and view is changed[-1]):
                loss = self._repeat(view, other_batch)
            if loss is not None and view.batch.loss is not None:
                rise = rise + (loss - view.batch.loss) * self._weight_of(view.batch)
                shares += self._weight_of(view.batch) / self._trainer.accumulate_grad_batches
        self._multiply(1 / self._share)
        self._apply(inner, changed)  # whose passes are over what this one has made of the batches, too
        return rise / shares if shares else rise

    def _synchronised(self, yes: bool) -> AbstractContextManager[None]:
        """As Lightning averages gradients over processes, or not at all."""
        return nullcontext() if yes else without_synchronisation(self._trainer)

    def _take_out(self) -> list[Tensor | None]:
        """The gradients of the earlier micro-batches, which then are no more."""
        gradients = [weight.grad for weight in self._weights()]
        for weight in self._weights():
            weight.grad = None
        return gradients

    def _add_up(self, earlier: Sequence[Tensor | None]) -> None:
        for weight, gradient in zip(self._weights(), earlier, strict=False):
            if gradient is not None:
                gradient = gradient * self._accumulation.scale
                weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)

    def _repeat(self, view: View, other_batch: OtherBatch | None) -> Tensor | None:
        """Add the gradient of another pass over a micro-batch, at the weights as they are; its loss."""
        batch, scale = view.batch, loss_scale(self._trainer)

        def loss_of(other: Any) -> Tensor:
            set_random_states(batch.random_numbers)
            return batch.loss_on(other) * scale

        def changed(loss: Tensor) -> Tensor:
            for change in view.losses:
                loss = change(loss, view.given, loss_of)
            return loss

        if other_batch is not None:
            with without_synchronisation(self._trainer), self._extra_pass(batch):  # buffers until its last backward
                view.given = other_batch(view.given, loss_of)
        with self._extra_pass(batch):
            return batch.take_pass(view.given, changed if view.losses else None)

    def _multiply(self, by: float) -> None:
        if by == 1:
            return
        for weight in self._weights():
            if weight.grad is not None:
                weight.grad.mul_(by)

    def _weights(self) -> list[Tensor]:
        return list(trained_weights(self._trainer, self._module).values())

    @uninterrupted_exit
    def _extra_pass(self, batch: MicroBatch) -> Iterator[None]:
        """With the random numbers and the module's state that the first pass began with; its own are put back."""
        assert batch.before is not None  # since the first pass
        after = ModuleState(self._module)
        try:
            self.repeated = batch.index
            batch.before.put_back()
            with silenced(self._module), same_random_numbers():
                set_random_states(batch.random_numbers)
                yield
        finally:
            self.repeated = None
            after.put_back()


def _refuse_different_sights(changes: Sequence[GradientChange]) -> None:
    if len({change.sees for change in changes}) > 1:
        told = " and ".join(f"{_names([change])} those of each {change.sees}" for change in changes)
        raise ValueError(f"of the gradients {told.replace('_', '-')} are changed; let both change the same, see m")


def _names(changes: Sequence[GradientChange]) -> str:
    return " and ".join(type(change).__name__ for change in changes)
