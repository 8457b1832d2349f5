"""Single evaluations of a module's loss, each from the same state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from ..data._seeding import seed_all
from ..trainer.measuring import to_device
from ..trainer.state import Remembered
from ._fixed_subset import Batches
from ._loader_subset import one_line
from ._undisturbed import undisturbed

LossFunction = Callable[[LightningModule, Any], Tensor]


class NoLossError(ValueError):
    """The module's `training_step` gave no loss for a batch."""


class Evaluations:
    """Evaluations of a module's loss that all begin from one state, whatever a `training_step` keeps between calls.

    Args:
        trainer: In a fit.
        module: Its module, inside `undisturbed`.
        remembered: The state, as `undisturbed` gives it.
        loss_fn: Instead of `training_step`.

    Attributes:
        trainer: As given.
        module: As given.
    """

    def __init__(
        self, trainer: Trainer, module: LightningModule, remembered: Remembered, loss_fn: LossFunction | None
    ) -> None:
        self.trainer, self.module = trainer, module
        self._remembered, self._loss_fn = remembered, loss_fn

    def loss(self, stored: Any, index: int) -> Tensor:
        """Mean loss of a batch as the loader gave it."""
        return self.loss_on_device(self.begin(stored), index)

    def begin(self, stored: Any) -> Any:
        """The batch on the module's device, and all state as the training left it."""
        self._remembered.put_back(apart=False)
        return to_device(self.trainer, stored)

    def loss_on_device(self, batch: Any, index: int) -> Tensor:
        """Mean loss of a batch that is where the module is."""
        if self._loss_fn is not None:
            return _checked_loss(self._loss_fn(self.module, batch))
        batches = self.trainer.num_training_batches  # training_step never sees an index beyond its epoch
        return _training_step_loss(self.module, batch, index % int(batches) if 1 <= batches < math.inf else index)

    def loss_of_training_batch(self, batch: Any, index: int) -> Tensor:
        """Mean loss of a batch as `training_step` gets it, which stays as it is."""
        self._remembered.put_back(apart=False)
        return self.loss_on_device(copy.deepcopy(batch), index)

    def check_put_back(self) -> str | None:
        """Raise if an evaluation has changed what cannot be put back; the name of something that it has changed."""
        name = self._remembered.put_back(apart=False)
        still = self._remembered.put_back(apart=False)
        if still is not None:
            raise ValueError(
                f"training_step changes {still}, which cannot be put back after a measurement; pass loss_fn=..., a "
                "function of (module, batch) that leaves it alone"
            )
        return name

    def check_state(self, given: Batches, training_batch: Any) -> None:
        """Raise if an evaluation changes what cannot be put back, or starts from what training will not leave.

        ``training_batch`` is one of the run's own, on the module's device.
        """
        name = self.check_put_back()
        if name is None or self._loss_fn is not None:
            return
        for i in {given.sizes.index(min(given.sizes)), given.sizes.index(max(given.sizes))}:
            self._remembered.put_back(apart=False)
            _training_step_loss(self.module, copy.deepcopy(training_batch), 0)
            try:
                self.loss_on_device(to_device(self.trainer, given.batches[i]), i)
            except RuntimeError as error:
                raise ValueError(
                    f"training_step keeps {name} from one batch to the next, and {given.sizes[i]} samples to measure "
                    f"on do not fit what a training batch leaves there ({one_line(error)}); choose chunk_size as large "
                    "as the training batch and samples as a multiple of it, or pass loss_fn=..., a function of "
                    "(module, batch)"
                ) from error


@contextmanager
def evaluating(
    trainer: Trainer,
    module: LightningModule,
    loss_fn: LossFunction | None,
    *,
    batch_norm_apart: bool = False,
    weights: bool = False,
) -> Iterator[Evaluations]:
    """Evaluate a module's loss inside the block, and leave the run as it is; see `undisturbed`."""
    with undisturbed(trainer, module, batch_norm_apart=batch_norm_apart, weights=weights) as remembered:
        yield Evaluations(trainer, module, remembered, loss_fn)


class Seeded(Sequence[tuple[int, Any]]):
    """Batches with their index; the global generators are seeded anew before each is read."""

    def __init__(self, batches: Sequence[Any], seed: int) -> None:
        self._batches = batches
        self._seed = seed

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        seed_all((self._seed + index) % 2**32)
        return index, self._batches[index]

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return (self[i] for i in range(len(self)))


def _training_step_loss(module: LightningModule, batch: Any, batch_idx: int) -> Tensor:
    """Mean loss of one batch from the user's own `training_step`."""
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    output = module.training_step(batch, batch_idx) if takes_index else module.training_step(batch)
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise NoLossError(f"training_step gave no loss but {output!r}; pass loss_fn=..., a function of (module, batch)")
    return loss


def _checked_loss(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ValueError(f"loss_fn must return the mean loss of a batch as a scalar tensor, got {got}")
    return loss
