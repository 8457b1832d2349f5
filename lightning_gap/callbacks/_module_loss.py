"""What a monitor of the loss asks of a module: a loss that can be measured, weights that can be moved."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional._loss_surface import checked_params
from ..trainer.optimizers import trained_weights as weights_of_optimizers
from ._evaluations import LossFunction
from ._loader_subset import one_line


def check_measurable(module: LightningModule, loss_fn: LossFunction | None) -> None:
    """Raise if the loss has to come from a `training_step` that does more than compute it."""
    if loss_fn is None and not module.automatic_optimization:
        raise ValueError(
            f"{type(module).__name__} optimizes manually, so its training_step takes steps and cannot be used to "
            "measure; pass loss_fn=..., a function of (module, batch) that returns the mean loss"
        )


def trained_weights(trainer: Trainer, module: LightningModule) -> dict[str, Tensor]:
    """The weights that are trained, by name, each checked to be one that can be moved."""
    return checked_params(weights_of_optimizers(trainer, module))


@contextmanager
def said_of(what: str, fix: str) -> Iterator[None]:
    """Let what a user's step raises on its first evaluation say where it comes from, and what to do.

    A ValueError is not always a user's: those of this package say themselves what to do.
    """
    try:
        yield
    except (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, AssertionError) as error:
        if is_out_of_memory(error) or _is_ours(error):
            raise
        raise ValueError(
            f"the loss of {what} cannot be measured in evaluation mode: {type(error).__name__}: "
            f"{one_line(error)}; {fix}"
        ) from error


def said_of_samples(samples: int, argument: str = "data") -> AbstractContextManager[None]:
    """The same of samples that a monitor has drawn; ``argument`` takes batches instead."""
    fix = "pass a loss_fn or accuracy_fn that takes (module, batch), another chunk_size, or batches of your own"
    return said_of(f"{samples} samples", f"{fix}, {argument}=...")


def _is_ours(error: Exception) -> bool:
    """Whether a ValueError was raised by this package, and not by a user's step or by what that calls."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    name = str(frames[-1].f_globals.get("__name__")) if frames else ""
    return isinstance(error, ValueError) and name.partition(".")[0] == __name__.partition(".")[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left."""
    texts = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )
