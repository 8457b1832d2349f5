"""Log how much better the model does on its training data than on validation data, measured alike."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from .._lightning import process_group, to_device
from ..functional._validation import flag, seed_number, text, whole_number
from ..functional.processes import sum_over_processes
from ._arguments import check_batches, optional_function
from ._fixed_subset import Batches, fixed_subsets
from ._module_loss import LossFunction, Seeded, batch_loss, check_measurable
from ._schedule import EveryNEpochs, Schedule, check_every_n_epochs, check_time_share
from ._scheduled_monitor import ScheduledMonitor
from ._undisturbed import undisturbed


class GeneralizationGapMonitor(ScheduledMonitor):
    """Log the generalization gap, training minus validation, with both sides measured in the same way.

    The numbers that a training loop logs cannot be subtracted: the training side is averaged over an epoch in which
    the weights moved, with dropout on. Here both sides are one evaluation of the same weights, in evaluation mode,
    on equally many fixed samples. The loss comes from your own `training_step`, run silenced and isolated on those
    samples; ``loss_fn`` overrides it. The run is bit for bit the same with and without the monitor.

    Logs at the end of an epoch ``gap/loss`` (negative where the model overfits) and ``gap/accuracy`` (a fraction,
    positive where the model overfits). Accuracy is logged where it can be known: for batches that are a pair of
    inputs and integer targets and a `forward` that gives class scores (N, C), or with ``accuracy_fn``.

    Args:
        every_n_epochs: Measure at the end of every n-th epoch, or with "log" of epochs 1, 2, 4, 8, ..., once there is
            validation data; and at the end of the run.
        at_start: Measure also before the first step, if there is validation data by then.
        samples: Most samples of either kind; the smaller data set decides.
        chunk_size: Most samples in memory at a time.
        seed: Seed of the two subsets.
        train_data: Batches to measure on instead of the training subset, as `training_step` takes them.
        validation_data: The same for validation.
        loss_fn: Mean loss of one batch, a function of (module, batch), instead of `training_step`.
        accuracy_fn: Mean accuracy of one batch, a function of (module, batch).
        max_time_share: Most time that measuring between the first and the last epoch may take, as a share of the
            training time; measurements wait until it allows them. Ten seconds are free. None for no limit.
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
        every_n_epochs: EveryNEpochs = 1,
        at_start: bool = False,
        samples: int = 1000,
        chunk_size: int = 250,
        seed: int = 0,
        train_data: Iterable[Any] | None = None,
        validation_data: Iterable[Any] | None = None,
        loss_fn: LossFunction | None = None,
        accuracy_fn: Callable[[LightningModule, Any], Tensor] | None = None,
        max_time_share: float | None = 0.1,
        suffix: str = "",
    ) -> None:
        check_batches(train_data=train_data, validation_data=validation_data)
        self.every_n_epochs = check_every_n_epochs(every_n_epochs)
        self.at_start = flag("at_start", at_start)
        self.samples = whole_number("samples", samples)
        self.chunk_size = whole_number("chunk_size", chunk_size)
        self.seed = seed_number("seed", seed)
        self.train_data = train_data
        self.validation_data = validation_data
        self.loss_fn = optional_function("loss_fn", loss_fn)
        self.accuracy_fn = optional_function("accuracy_fn", accuracy_fn)
        self.max_time_share = check_time_share(max_time_share)
        self.suffix = text("suffix", suffix)
        self._schedule = Schedule(self.every_n_epochs, self.max_time_share)
        self._batches: dict[str, Batches] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs."""
        return (f"gap/loss{self.suffix}", f"gap/accuracy{self.suffix}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_measurable(pl_module, self.loss_fn)
        self._batches = {}
        if self.validation_data is None and not trainer.enable_validation:
            raise ValueError(
                "GeneralizationGapMonitor needs validation data: give the module a validation_step and the Trainer a "
                "validation loader, pass validation_data=..., or remove the callback"
            )
        self._draw(trainer)
        super().on_train_start(trainer, pl_module)

    def _forget(self) -> None:
        self._batches = {}

    def _draw(self, trainer: Trainer) -> None:
        """Draw the subsets as soon as validation data is there; Lightning may load it only when first needed."""
        if not self._batches and (self.validation_data is not None or trainer.val_dataloaders is not None):
            self._batches = fixed_subsets(
                {
                    "train_data": (self.train_data, trainer.train_dataloader),
                    "validation_data": (self.validation_data, trainer.val_dataloaders),
                },
                samples=self.samples,
                chunk_size=self.chunk_size,
                seed=self.seed,
            )

    def _values(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """The gaps that are known; none before there is validation data."""
        self._draw(trainer)
        if not self._batches:
            return {}
        with self._schedule.measuring(trainer), undisturbed(trainer, module):
            train = self._measure(trainer, module, self._batches["train_data"])
            validation = self._measure(trainer, module, self._batches["validation_data"])
        gaps = {key: t - v for key, t, v in zip(self.keys, train, validation, strict=True)}
        return {key: gap for key, gap in gaps.items() if key == self.keys[0] or not math.isnan(gap)}

    def _measure(self, trainer: Trainer, module: LightningModule, given: Batches) -> list[float]:
        """Mean loss and mean accuracy over the samples, the processes each taking some; NaN where it is unknown."""

        def own_share() -> tuple[list[float], list[Tensor]]:
            totals = [0.0, 0.0]
            batches = Seeded(given.batches, self.seed)
            for i in range(trainer.global_rank, len(batches), trainer.world_size):
                batch = to_device(trainer, batches[i][1])
                loss = batch_loss(module, batch, i, self.loss_fn)
                accuracy = self.accuracy_fn(module, batch) if self.accuracy_fn else _accuracy(module, batch)
                share = given.sizes[i] / sum(given.sizes)
                totals[0] += share * float(loss.detach())
                totals[1] += share * (math.nan if accuracy is None else float(accuracy))
            return totals, []

        group = process_group(trainer)
        return sum_over_processes(own_share, numbers=2, process_group=group, device=module.device)[0]


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
