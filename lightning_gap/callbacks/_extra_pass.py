"""Further passes over the batch of a step, of which only the first counts for everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from ..trainer import closures
from ..trainer.optimizers import loss_scale, trained_weights
from ..trainer.progress import averages_weights_now
from ..trainer.state import random_states, same_random_numbers, set_random_states
from ._undisturbed import silenced

GradientChange = Callable[[Trainer, LightningModule, Callable[[], None]], None]


class TwoPassStep:
    """The steps of a fit, in which the gradient is changed after the pass over the batch.

    Not an optimizer of its own: so Lightning counts one step, clips the changed gradient, and its scaler works.

    Args:
        trainer: In a fit, of which each closure is wrapped until `remove` is called.
        changes: What to do with the gradient, one after the other, by the name of who does it.

    Attributes:
        is_extra_pass: Whether a pass is under way that is not the first over its batch.
        remove: Let Lightning have its own steps again.
    """

    def __init__(self, trainer: Trainer, changes: Mapping[str, GradientChange]) -> None:
        self.is_extra_pass = False
        self._trainer, self._module, self._changes = trainer, trainer.lightning_module, changes
        self.remove = closures.wrap_closures(trainer, self._step)

    def _step(self, closure: Any) -> Callable[[], Any]:
        trainer = self._trainer
        if averages_weights_now(trainer):  # no gradient to change
            return closure  # type: ignore[no-any-return]
        if trainer.accumulate_grad_batches > 1:  # by a schedule whose end was not known, or by the user's own callback
            how = f"accumulate_grad_batches={trainer.accumulate_grad_batches} in epoch {trainer.current_epoch}"
            raise spread_over_several(" and ".join(self._changes), how)
        return partial(self._passes, closure)

    def _passes(self, closure: Any) -> Any:
        random_numbers = random_states()
        loss = closure()
        if loss is None:  # the user's way to skip a batch
            return None
        scale = loss_scale(self._trainer)  # Lightning unscales only after the closure has returned

        def again() -> None:
            with self._extra_pass(), same_random_numbers(), closures.same_result(closure):
                set_random_states(random_numbers)
                closure()
            self._multiply_gradients(1 / scale)

        self._multiply_gradients(1 / scale)
        for change in self._changes.values():
            change(self._trainer, self._module, again)
        self._multiply_gradients(scale)
        return loss

    def _multiply_gradients(self, by: float) -> None:
        if by == 1:
            return
        for weight in trained_weights(self._trainer, self._module).values():
            if weight.grad is not None:
                weight.grad.mul_(by)

    @contextmanager
    def _extra_pass(self) -> Iterator[None]:
        """Buffers, running statistics for instance, and loggers are left to the first pass."""
        self.is_extra_pass = True
        try:
            with silenced(self._module), _same_buffers(self._module):
                yield
        finally:
            self.is_extra_pass = False


def spread_over_several(name: str, how: str) -> ValueError:
    """The error of further passes over the batch of a step, where a step has several."""
    return ValueError(
        f"{name} takes another pass over the batch of a step, and {how} spreads that over several; use "
        "Trainer(accumulate_grad_batches=1), and no max_micro_batch below the batch"
    )


@contextmanager
def _same_buffers(module: nn.Module) -> Iterator[None]:
    """Put all buffers back at the end, those too that a layer has put another tensor in the place of."""
    places = [(part, name, buffer) for part in module.modules() for name, buffer in part.named_buffers(recurse=False)]
    saved = [buffer.clone() if _can_be_written(buffer) else None for *_, buffer in places]
    try:
        yield
    finally:
        with torch.no_grad():
            for (part, name, buffer), value in zip(places, saved, strict=True):
                if getattr(part, name, None) is not buffer:
                    setattr(part, name, buffer)
                if value is not None:
                    buffer.copy_(value)


def _can_be_written(buffer: Tensor) -> bool:
    """Whether each element has a place of its own: not in what `expand` makes, which torch does not write to."""
    if buffer.layout != torch.strided:
        return True
    return not any(stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True))
