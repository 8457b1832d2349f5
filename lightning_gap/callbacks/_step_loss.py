"""The loss on the batches of a step of the run, as a function of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from ..functional._loss_surface import loss_surface
from ..functional.batch_statistics import batch_statistics
from ..trainer.state import random_states, same_tensor, set_random_states
from ._evaluations import Evaluations, LossFunction, evaluating
from ._gathered_statistics import trained_layers
from ._module_loss import said_of, trained_weights
from ._run import run_of

BatchNorm = Literal["batch", "running"]


class KeptBatch(NamedTuple):
    """A micro-batch as `training_step` gets it, and its number in the epoch."""

    batch: Any
    number: int


class StepLoss:
    """The loss of a step: called, it gives one scalar for each of its micro-batches, which sum to it over processes.

    Micro-batches are weighed as in training. Random numbers are the same every time, and all else that a
    `training_step` keeps between calls.
    """

    def __init__(self, evaluations: Evaluations, batches: Sequence[KeptBatch]) -> None:
        self.evaluations, self._batches = evaluations, batches
        self._random_numbers = random_states()  # not a seed: torch takes milliseconds to seed generators
        self._share = 1 / (len(batches) * evaluations.trainer.world_size)

    def __call__(self) -> Iterator[Tensor]:
        weight_of = run_of(self.evaluations.trainer).accumulation.weight_of
        set_random_states(self._random_numbers)
        for batch, number in self._batches:
            yield self.evaluations.loss_of_training_batch(batch, number) * (weight_of(number) * self._share)


@contextmanager
def step_loss(
    trainer: Trainer,
    module: LightningModule,
    batches: Sequence[KeptBatch],
    *,
    batch_norm: BatchNorm,
    loss_fn: LossFunction | None,
) -> Iterator[StepLoss]:
    """Evaluate a step's loss inside the block, in evaluation mode but for BatchNorm; the run stays as it is.

    Args:
        trainer: In a fit.
        module: Its module.
        batches: Of the step, on this process.
        batch_norm: "batch" lets layers that are trained normalise by each batch; the others keep their statistics.
        loss_fn: Instead of `training_step`.
    """
    by_batch = batch_norm == "batch"
    layers = nn.ModuleList(trained_layers(module) if by_batch else ())
    with (
        evaluating(trainer, module, loss_fn, batch_norm_apart=by_batch) as evaluations,
        batch_statistics(layers) if by_batch else nullcontext(),
    ):
        yield StepLoss(evaluations, batches)


def check_step_loss(
    trainer: Trainer, module: LightningModule, batch: KeptBatch, *, batch_norm: BatchNorm, loss_fn: LossFunction | None
) -> None:
    """Raise before the first step if the loss of a batch cannot be evaluated again and again."""
    fix = "pass loss_fn=..., a function of (module, batch)"
    measured = step_loss(trainer, module, [batch], batch_norm=batch_norm, loss_fn=loss_fn)
    with said_of("a training batch", fix), measured as loss:
        weights = trained_weights(trainer, module)
        with loss_surface(loss, weights) as surface:
            surface.loss()
            for name, now, before in zip(weights, surface.weights, surface.centre, strict=True):
                if not same_tensor(now, before):
                    raise ValueError(
                        f"training_step writes to the trained weight {name}, so that there is no loss of given "
                        f"weights to measure; {fix} that does not"
                    )
            surface.check_repeatable()
        loss.evaluations.check_put_back()
