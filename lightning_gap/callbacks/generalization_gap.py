"""Log how much better the model does on its training data than on validation data, measured alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional._loss_surface import agree
from ..trainer.processes import sums_over_processes
from ._accuracy import proven_accuracy
from ._arguments import check_batches, optional_function
from ._evaluations import Evaluations, Seeded, evaluating
from ._fixed_subset import Batches, Sources
from ._loss_monitor import SubsetMonitor

AccuracyFunction = Callable[[LightningModule, Any], Tensor]


@dataclass(kw_only=True, eq=False, repr=False)
class GeneralizationGapMonitor(SubsetMonitor):
    """Log the generalization gap, training minus validation, with both sides measured in the same way.

    The numbers that a training loop logs cannot be subtracted: the training side is averaged over an epoch in which
    the weights moved, with dropout on. Here both sides are one evaluation of the same weights, in evaluation mode,
    on equally many fixed samples. The loss comes from your own `training_step`, run silenced and isolated on those
    samples; ``loss_fn`` overrides it. The run is bit for bit the same with and without the monitor.

    Logs at the end of an epoch ``gap/loss`` (negative where the model overfits) and ``gap/accuracy`` (a fraction,
    positive where the model overfits). Accuracy is logged where it is proven what it is of: with ``accuracy_fn``, or
    for batches of inputs and integer targets where `forward` gives scores (N, C) and the loss is their cross-entropy.

    Args:
        train_data: Batches to measure on instead of the training subset, as `training_step` takes them.
        validation_data: The same for validation.
        accuracy_fn: Mean accuracy of one batch, a function of (module, batch).

    The other arguments are those of `Monitor` and `SubsetMonitor`. Of both kinds equally many samples are drawn, at
    most ``samples``: the smaller data set decides. Nothing is measured before there is validation data.

    Raises:
        ValueError: If an argument is out of range; at train start, if there is no validation data or the run never
            loads it, no fixed subset can be drawn, the strategy shards the weights, or two monitors log the same key;
            before the first step, if `training_step` cannot take the batches of the validation loader.

    Reference:
        Keskar et al. (2017), section 2; Hoffer, Hubara and Soudry (2017), section 1.
    """

    area = "gap"
    quantity = "the generalization gap"
    names = ("loss", "accuracy")
    optional_names = names  # no loss before there is validation data, no accuracy where none is proven

    train_data: Iterable[Any] | None = None
    validation_data: Iterable[Any] | None = None
    accuracy_fn: AccuracyFunction | None = None

    def check_arguments(self) -> None:
        super().check_arguments()
        check_batches(train_data=self.train_data, validation_data=self.validation_data)
        self.accuracy_fn = optional_function("accuracy_fn", self.accuracy_fn)

    @property
    def plotted(self) -> tuple[str, ...]:
        """The gap in accuracy; that in loss where no accuracy is known."""
        return ("accuracy",) if any("accuracy" in point for point in self._history) else ("loss",)

    def sources(self, trainer: Trainer) -> Sources:
        """Of both sides; of the training side alone until validation data is there, which may be loaded when needed."""
        validation: Sources = {"validation_data": (self.validation_data, trainer.val_dataloaders)}
        is_there = self.validation_data is not None or trainer.val_dataloaders is not None
        return {"train_data": (self.train_data, trainer.train_dataloader), **(validation if is_there else {})}

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        if self.validation_data is None and not trainer.enable_validation:
            raise ValueError(
                "GeneralizationGapMonitor needs validation data: give the module a validation_step and the Trainer a "
                "validation loader, pass validation_data=..., or remove the callback"
            )
        every, epochs = trainer.check_val_every_n_epoch or 1, trainer.max_epochs
        if "validation_data" not in self.sources(trainer) and epochs is not None and 0 < epochs < every:
            raise ValueError(
                f"GeneralizationGapMonitor needs validation data, and a run of max_epochs={epochs} with "
                f"check_val_every_n_epoch={every} never loads it; lower the second, or pass validation_data=..."
            )
        super().draw(trainer, module)

    def undisturbed(self, trainer: Trainer, module: LightningModule) -> AbstractContextManager[Evaluations]:
        return evaluating(trainer, module, self.loss_fn, weights=True)

    def check_loss(self, evaluations: Evaluations, argument: str, batch: Any, size: int) -> None:
        """Raise if the loss is random, or there is none."""
        first, again = (self._totals(evaluations, Batches([batch], [size]), [0]) for _ in range(2))
        if not all(map(agree, first, again)):
            raise ValueError(
                f"the loss of {argument} is random: {first[0]!r} and then {again[0]!r} for the same samples; pass "
                "loss_fn=..., a function of (module, batch) that is not"
            )

    def unknown(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        return {"loss": math.nan}

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Measure now, inside fit: the gaps that are known, none before there is validation data; nothing is logged."""
        if len(self._batches) < len(self.sources(trainer)):
            self.draw(trainer, pl_module)
        if len(self._batches) < 2:
            return {}
        with self.undisturbed(trainer, pl_module) as evaluations:
            train, validation = (self._means(evaluations, side) for side in self._batches.values())
        gaps = {name: t - v for name, t, v in zip(self.names, train, validation, strict=True)}
        return {name: gap for name, gap in gaps.items() if name == "loss" or not math.isnan(gap)}

    def _means(self, evaluations: Evaluations, given: Batches) -> list[float]:
        """Mean loss and mean accuracy over the samples, the processes each taking some; NaN where it is unknown."""
        trainer = evaluations.trainer
        own = range(trainer.global_rank, len(given.sizes), trainer.world_size)
        return sums_over_processes(trainer, lambda: self._totals(evaluations, given, own), numbers=2)

    def _totals(self, evaluations: Evaluations, given: Batches, indices: Iterable[int]) -> list[float]:
        """What these batches add to the two means."""
        totals = [0.0, 0.0]
        batches = Seeded(given.batches, self.seed)
        for i in indices:
            batch = evaluations.begin(batches[i][1])
            loss = float(evaluations.loss_on_device(batch, i).detach())
            share = given.sizes[i] / sum(given.sizes)
            totals[0] += share * loss
            totals[1] += share * self._accuracy(evaluations.module, batch, loss)
        return totals

    def _accuracy(self, module: LightningModule, batch: Any, loss: float) -> float:
        """Of one batch; NaN where it is not proven what it would be of."""
        if self.accuracy_fn is not None:
            return _checked_accuracy(self.accuracy_fn(module, batch))
        accuracy = proven_accuracy(module, batch, loss)
        return math.nan if accuracy is None else accuracy


def _checked_accuracy(accuracy: Any) -> float:
    if not isinstance(accuracy, Tensor | float | int) or (isinstance(accuracy, Tensor) and accuracy.numel() != 1):
        raise ValueError(f"accuracy_fn must return the mean accuracy of a batch, a number, got {accuracy!r}")
    return float(accuracy)
