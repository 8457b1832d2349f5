"""The closures with which Lightning trains on a batch: seen as they are made, and made again for further passes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from . import _private

_MAKE, _STEP = "_make_closure", "_optimizer_step"


class MicroBatch:
    """A batch that Lightning trains on, over which further passes can be taken.

    Attributes:
        index: The batch's number in the epoch.
        random_numbers: The states of the generators before the first pass; None until then.
        before: The module's state before the first pass, for whoever keeps one.
        loss: Of the first pass, divided by the micro-batches of a step; None where `training_step` skips the batch.
    """

    def __init__(self, make: Callable[..., Any], arguments: Mapping[str, Any], optimizer: Any, index: int) -> None:
        self.index = index
        self.random_numbers: Any = None
        self.before: Any = None
        self.loss: Tensor | None = None
        self._make, self._arguments, self._optimizer = make, arguments, optimizer
        self._versions = [(tensor, times_written(tensor)) for tensor in _tensors(self.batch)]

    @property
    def batch(self) -> Any:
        """As `training_step` gets it."""
        return self._arguments["batch"]

    def forget(self) -> None:
        """Let go of the batch, over which no further pass will be taken."""
        self._arguments, self._versions = {}, []

    def take_pass(self, batch: Any, other_loss: Callable[[Tensor], Tensor] | None = None) -> Tensor | None:
        """Take another pass, forward and backward, which adds to the gradients.

        Args:
            batch: In the place of the first one.
            other_loss: What it makes of the loss, as that of the first pass, goes backward in its place.

        Returns:
            The loss of `training_step`, as that of the first pass; None where it skips the batch.
        """
        closure = self._made_again(batch)
        _private.write(closure, "_zero_grad_fn", None)
        if other_loss is not None:
            step = _private.read(closure, "_step_fn")

            def changed() -> Any:
                result = step()
                if result.closure_loss is not None:
                    result.closure_loss = other_loss(result.closure_loss)
                return result

            _private.write(closure, "_step_fn", changed)
        loss: Tensor | None = closure()
        return loss

    def loss_on(self, batch: Any) -> Tensor:
        """The loss alone, with its graph.

        Raises:
            ValueError: If `training_step` skips this batch.
        """
        loss: Tensor | None = _private.read(self._made_again(batch), "_step_fn")().closure_loss
        if loss is None:
            raise ValueError(
                "training_step returns None, no loss, for a batch with other inputs; let it return the loss"
            )
        return loss

    def refuse_if_written_to(self) -> None:
        """Refuse a `training_step` that has changed its batch, of which another pass would see what is left.

        Raises:
            ValueError: If one of the batch's tensors was written to or taken out since.
        """
        now = [(tensor, times_written(tensor)) for tensor in _tensors(self.batch)]
        same = len(now) == len(self._versions) and all(
            one is other and version == before
            for (one, version), (other, before) in zip(now, self._versions, strict=True)
        )
        if not same:
            raise ValueError(
                "training_step writes to its batch, so that another pass over it would see another batch; let it work "
                "on new tensors, for instance images = images / 255 in place of images.div_(255)"
            )

    def _made_again(self, batch: Any) -> Any:
        arguments = type(self._arguments)(self._arguments)  # type: ignore[call-arg]
        arguments["batch"] = batch  # type: ignore[index]
        return self._make(arguments, self._optimizer, self.index)


def watch_closures(
    trainer: Trainer, see: Callable[[Callable[[], MicroBatch], Any], None], wrap: Callable[[Any], Any]
) -> Callable[[], None]:
    """Let ``see`` have what gives each batch and its closure, `optimizer_step` what ``wrap`` makes of the closure.

    On Lightning's loop, not on the module: a copy of the module during a fit is a plain one, and an `optimizer_step`
    that the user has put on it is called, and kept.

    Returns:
        What ends it.
    """
    loop = trainer.fit_loop.epoch_loop.automatic_optimization
    make, step = _private.read(loop, _MAKE), _private.read(loop, _STEP)
    former = {name: vars(loop)[name] for name in (_MAKE, _STEP) if name in vars(loop)}

    def seen(arguments: Mapping[str, Any], optimizer: Any, batch_idx: int) -> Any:
        closure = make(arguments, optimizer, batch_idx)
        see(partial(MicroBatch, make, arguments, optimizer, batch_idx), closure)
        return closure

    vars(loop)[_MAKE] = seen
    vars(loop)[_STEP] = lambda batch_idx, closure: step(batch_idx, wrap(closure))

    def end() -> None:
        for name in (_MAKE, _STEP):
            vars(loop).pop(name, None)
        vars(loop).update(former)

    return end


def take_pass_by(closure: Any, function: Callable[[Callable[[], Any]], Any]) -> None:
    """Let a function take the pass of one of Lightning's closures, given what takes Lightning's own."""
    known = weakref.ref(closure)  # not the closure, which would hold itself and its batch until garbage is collected
    own = type(closure).closure
    closure.closure = lambda *_: function(lambda: own(known()))


def without_synchronisation(trainer: Trainer) -> AbstractContextManager[None]:
    """Let gradients stay those of this process inside the block."""
    block: Callable[[], AbstractContextManager[None]] = getattr(trainer.strategy, "block_backward_sync", nullcontext)
    return block()


def share_buffers_next(trainer: Trainer) -> None:
    """Let the next pass begin with the buffers of the first process.

    As DistributedDataParallel does by itself after each pass whose gradients it has averaged.
    """
    if isinstance(trainer.strategy.model, DistributedDataParallel):
        trainer.strategy.model.require_forward_param_sync = True


def _tensors(batch: Any) -> list[Tensor]:
    found: list[Tensor] = []
    apply_to_collection(batch, Tensor, found.append, allow_frozen=True)
    return found


def times_written(tensor: Tensor) -> int:
    """How often it was written to; torch does not count it for tensors made in inference mode."""
    return 0 if tensor.is_inference() else int(tensor._version)
