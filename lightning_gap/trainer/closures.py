"""What Lightning hands to `optimizer_step` to be called: the pass over a batch, with zeroed gradients and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer

from . import _private

_STEP = "_optimizer_step"


def wrap_closures(trainer: Trainer, wrap: Callable[[Any], Any]) -> Callable[[], None]:
    """Let `optimizer_step` be handed what ``wrap`` makes of each closure.

    On Lightning's loop, not on the module: a copy of the module during a fit is a plain one, and an `optimizer_step`
    that the user has put on it is called, and kept.

    Returns:
        What ends it.
    """
    loop = trainer.fit_loop.epoch_loop.automatic_optimization
    step, former = _private.read(loop, _STEP), vars(loop).get(_STEP)
    vars(loop)[_STEP] = lambda batch_idx, closure: step(batch_idx, wrap(closure))

    def unwrap() -> None:
        vars(loop).pop(_STEP, None)
        if former is not None:
            vars(loop)[_STEP] = former

    return unwrap


@contextmanager
def same_result(closure: Any) -> Iterator[None]:
    """Let the result of another call inside the block not replace that of the first, which Lightning hands on."""
    first = _private.read(closure, "_result")
    try:
        yield
    finally:
        _private.write(closure, "_result", first)
