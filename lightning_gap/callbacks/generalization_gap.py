"""Log how much better the model does on its training data than on validation data, measured alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from .._lightning import is_due, refuse_same_keys, refuse_sharded_weights
from ._arguments import check_counts
from ._fixed_subset import Chunk, fixed_subsets
from ._undisturbed import LossFunction, check_measurable, chunk_losses, undisturbed


class GeneralizationGapMonitor(Callback):
    """Log the generalization gap, training minus validation, with both sides measured in the same way.

    The numbers that a training loop logs cannot be subtracted: the training side is averaged over an epoch in which
    the weights moved, with dropout on. Here both sides are one evaluation of the same weights, in evaluation mode,
    on equally many fixed samples. The loss comes from your own `training_step`, run silenced and isolated on those
    samples; ``loss_fn`` overrides it. The run is bit for bit the same with and without the monitor.

    Logs at the end of an epoch ``gap/loss`` (negative where the model overfits) and ``gap/accuracy`` (a fraction,
    positive where the model overfits). Accuracy is logged where it can be known: for batches that are a pair of
    inputs and integer targets and a `forward` that gives class scores (N, C), or with ``accuracy_fn``.

    Args:
        every_n_epochs: Measure at the end of every n-th epoch, and of the last one planned, once there is
            validation data.
        samples: Most samples of either kind; the smaller data set decides.
        chunk_size: Most samples in memory at a time.
        seed: Seed of the two subsets.
        train_data: Batches to measure on instead of the training subset, as `training_step` takes them.
        validation_data: The same for validation.
        loss_fn: Mean loss of one batch, a function of (module, batch), instead of `training_step`.
        accuracy_fn: Mean accuracy of one batch, a function of (module, batch).
        suffix: Appended to the keys, so that two monitors can stand side by side.

    Raises:
        ValueError: If an argument is out of range; at train start, if there is no validation data, no fixed subset
            can be drawn, the strategy shards the weights, or two monitors log the same key.

    Reference:
        Keskar et al. (2017), section 2; Hoffer, Hubara and Soudry (2017), section 1.
    """

    def __init__(
        self,
        *,
        every_n_epochs: int = 1,
        samples: int = 1000,
        chunk_size: int = 250,
        seed: int = 0,
        train_data: Iterable[Any] | None = None,
        validation_data: Iterable[Any] | None = None,
        loss_fn: LossFunction | None = None,
        accuracy_fn: Callable[[LightningModule, Any], Tensor] | None = None,
        suffix: str = "",
    ) -> None:
        check_counts(every_n_epochs=every_n_epochs, samples=samples, chunk_size=chunk_size)
        self.every_n_epochs = every_n_epochs
        self.samples = samples
        self.chunk_size = chunk_size
        self.seed = seed
        self.train_data = train_data
        self.validation_data = validation_data
        self.loss_fn = loss_fn
        self.accuracy_fn = accuracy_fn
        self.suffix = suffix
        self._chunks: dict[str, list[Chunk]] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs."""
        return (f"gap/loss{self.suffix}", f"gap/accuracy{self.suffix}")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            refuse_sharded_weights(trainer, self)
            refuse_same_keys(trainer, self, self.keys)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_measurable(pl_module, self.loss_fn)
        self._chunks = {}
        if self.validation_data is None and not trainer.enable_validation:
            raise ValueError(
                "GeneralizationGapMonitor needs validation data: give the module a validation_step and the Trainer a "
                "validation loader, pass validation_data=..., or remove the callback"
            )
        self._draw(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not is_due(trainer, self.every_n_epochs):
            return
        self._draw(trainer)
        if self._chunks:
            # BatchNorm buffers differ by process; all log rank zero's
            gaps = trainer.strategy.broadcast(self._gaps(trainer, pl_module))
            pl_module.log_dict(dict(zip(self.keys, gaps, strict=False)), sync_dist=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._chunks = {}

    def _draw(self, trainer: Trainer) -> None:
        """Draw the subsets as soon as validation data is there; Lightning may load it only when first needed."""
        if not self._chunks and (self.validation_data is not None or trainer.val_dataloaders is not None):
            self._chunks = fixed_subsets(
                {
                    "train_data": (self.train_data, trainer.train_dataloader),
                    "validation_data": (self.validation_data, trainer.val_dataloaders),
                },
                samples=self.samples,
                chunk_size=self.chunk_size,
                seed=self.seed,
            )

    def _gaps(self, trainer: Trainer, module: LightningModule) -> list[float]:
        with undisturbed(trainer, module):
            train = self._measure(trainer, module, self._chunks["train_data"])
            validation = self._measure(trainer, module, self._chunks["validation_data"])
        return [t - v for t, v in zip(train, validation, strict=False)]

    def _measure(self, trainer: Trainer, module: LightningModule, chunks: list[Chunk]) -> list[float]:
        """Mean loss over the samples and, where it can be known, mean accuracy."""
        totals: list[float] = []
        for batch, loss, share in chunk_losses(trainer, module, chunks, loss_fn=self.loss_fn, seed=self.seed):
            accuracy = self.accuracy_fn(module, batch) if self.accuracy_fn else _accuracy(module, batch)
            values = [float(value.detach()) * share for value in (loss, accuracy) if value is not None]
            totals = [a + b for a, b in zip(totals, values, strict=True)] if totals else values
        return totals


@torch.no_grad()
def _accuracy(module: LightningModule, batch: Any) -> Tensor | None:
    """Share of correct classes, or ``None`` where batch and forward are not those of a plain classifier."""
    if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        return None
    inputs, targets = batch
    if targets.ndim != 1 or targets.is_floating_point() or not _takes_inputs_alone(module):
        return None
    scores: Tensor | Any = module(inputs)
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(targets) or scores.shape[1] < 2:
        return None
    correct: Tensor = scores.argmax(dim=1) == targets
    return correct.float().mean()


def _takes_inputs_alone(module: LightningModule) -> bool:
    """Whether the module has a `forward` of its own that can be called with one argument."""
    if not is_overridden("forward", module):
        return False
    try:
        inspect.signature(module.forward).bind(None)
    except TypeError:
        return False
    return True
