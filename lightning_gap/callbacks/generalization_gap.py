"""Log how much better the model does on its training data than on validation data, measured alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional._loss_surface import agree
from ..functional._processes import sum_over_processes
from ..functional._validation import flag, seed_number, text, whole_number
from ..trainer.processes import process_group
from ._accuracy import proven_accuracy
from ._arguments import check_batches, optional_function
from ._evaluations import Evaluations, LossFunction, Seeded
from ._fixed_subset import Batches, Count, fixed_subsets
from ._module_loss import check_measurable, said_of_samples
from ._schedule import EveryNEpochs, Schedule, check_every_n_epochs, check_time_share
from ._scheduled_monitor import ScheduledMonitor
from ._undisturbed import undisturbed

AccuracyFunction = Callable[[LightningModule, Any], Tensor]


class GeneralizationGapMonitor(ScheduledMonitor):
    """Log the generalization gap, training minus validation, with both sides measured in the same way.

    The numbers that a training loop logs cannot be subtracted: the training side is averaged over an epoch in which
    the weights moved, with dropout on. Here both sides are one evaluation of the same weights, in evaluation mode,
    on equally many fixed samples. The loss comes from your own `training_step`, run silenced and isolated on those
    samples; ``loss_fn`` overrides it. The run is bit for bit the same with and without the monitor.

    Logs at the end of an epoch ``gap/loss`` (negative where the model overfits) and ``gap/accuracy`` (a fraction,
    positive where the model overfits). Accuracy is logged where it is proven what it is of: with ``accuracy_fn``, or
    for batches of inputs and integer targets where `forward` gives scores (N, C) and the loss is their cross-entropy.

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
        count: What the mean loss of a batch is taken over, as in `SharpnessMonitor`.
        max_time_share: Most time that measuring between the first and the last epoch may take, as a share of the
            training time; measurements wait until it allows them. Ten seconds are free. None for no limit.
        suffix: Appended to the keys, so that two monitors can stand side by side.

    Raises:
        ValueError: If an argument is out of range; at train start, if there is no validation data, no fixed subset
            can be drawn, the strategy shards the weights, or two monitors log the same key.

    Reference:
        Keskar et al. (2017), section 2; Hoffer, Hubara and Soudry (2017), section 1.
    """

    _quantity = "the generalization gap"

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
        accuracy_fn: AccuracyFunction | None = None,
        count: Count | None = None,
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
        self.count = optional_function("count", count, "the batch")
        self.max_time_share = check_time_share(max_time_share)
        self.suffix = text("suffix", suffix)
        self._schedule = Schedule(self.every_n_epochs, self.max_time_share)
        self._chunk_size = self.chunk_size  # halved where memory runs out
        self._batches: dict[str, Batches] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs."""
        return (f"gap/loss{self.suffix}", f"gap/accuracy{self.suffix}")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._chunk_size = self.chunk_size

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_measurable(pl_module, self.loss_fn)
        self._batches = {}
        if self.validation_data is None and not trainer.enable_validation:
            raise ValueError(
                "GeneralizationGapMonitor needs validation data: give the module a validation_step and the Trainer a "
                "validation loader, pass validation_data=..., or remove the callback"
            )
        super().on_train_start(trainer, pl_module)

    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        """Draw the subsets as soon as validation data is there; Lightning may load it only when first needed."""
        if not self._batches and (self.validation_data is not None or trainer.val_dataloaders is not None):
            self._batches = self._drawn(
                trainer,
                {
                    "train_data": (self.train_data, trainer.train_dataloader),
                    "validation_data": (self.validation_data, trainer.val_dataloaders),
                },
            )

    def _drawn(self, trainer: Trainer, sources: dict[str, tuple[Iterable[Any] | None, Any]]) -> dict[str, Batches]:
        return fixed_subsets(
            sources, samples=self.samples, chunk_size=self._chunk_size, seed=self.seed, count=self.count
        )

    def _halve_chunks(self, trainer: Trainer, module: LightningModule) -> bool:
        given = self.train_data is not None or self.validation_data is not None
        if given or self._chunk_size == 1:
            return False
        self._chunk_size, self._batches = math.ceil(self._chunk_size / 2), {}
        self._draw(trainer, module)
        return True

    def _forget(self) -> None:
        self._batches = {}

    def _check(self, trainer: Trainer, module: LightningModule, training_batch: Any) -> None:
        """Try the smallest batch of each side; of the training side alone while there is no validation data yet."""
        sources = {"train_data": (self.train_data, trainer.train_dataloader)}
        for name, batches in (self._batches or self._drawn(trainer, sources)).items():
            i = min(range(len(batches.sizes)), key=batches.sizes.__getitem__)
            alone = Batches(batches.batches[i : i + 1], batches.sizes[i : i + 1])
            with (
                suppress(AttributeError),
                said_of_samples(alone.sizes[0]),
                undisturbed(trainer, module, weights=True) as remembered,
            ):
                evaluations = Evaluations(trainer, module, remembered, self.loss_fn)
                first, again = (self._totals(module, evaluations, alone, [0]) for _ in range(2))
                if not all(map(agree, first, again)):
                    raise ValueError(
                        f"the loss of {name} is random: {first[0]!r} and then {again[0]!r} for the same samples; pass "
                        "loss_fn=..., a function of (module, batch) that is not"
                    )
                evaluations.check_state(batches, training_batch)

    def _no_values(self, trainer: Trainer) -> dict[str, float]:
        return {self.keys[0]: math.nan}

    def _values(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """The gaps that are known; none before there is validation data."""
        self._draw(trainer, module)
        if not self._batches:
            return {}
        with undisturbed(trainer, module, weights=True) as remembered:
            evaluations = Evaluations(trainer, module, remembered, self.loss_fn)
            train = self._measure(trainer, module, evaluations, self._batches["train_data"])
            validation = self._measure(trainer, module, evaluations, self._batches["validation_data"])
        gaps = {key: t - v for key, t, v in zip(self.keys, train, validation, strict=True)}
        return {key: gap for key, gap in gaps.items() if key == self.keys[0] or not math.isnan(gap)}

    def _measure(
        self, trainer: Trainer, module: LightningModule, evaluations: Evaluations, given: Batches
    ) -> list[float]:
        """Mean loss and mean accuracy over the samples, the processes each taking some; NaN where it is unknown."""

        def own_share() -> tuple[list[float], list[Tensor]]:
            own = range(trainer.global_rank, len(given.sizes), trainer.world_size)
            return self._totals(module, evaluations, given, own), []

        group = process_group(trainer)
        return sum_over_processes(own_share, numbers=2, process_group=group, device=module.device)[0]

    def _totals(
        self, module: LightningModule, evaluations: Evaluations, given: Batches, indices: Iterable[int]
    ) -> list[float]:
        """What these batches add to the two means."""
        totals = [0.0, 0.0]
        batches = Seeded(given.batches, self.seed)
        for i in indices:
            batch = evaluations.begin(batches[i][1])
            loss = evaluations.loss_on_device(batch, i)
            share = given.sizes[i] / sum(given.sizes)
            totals[0] += share * float(loss.detach())
            totals[1] += share * self._accuracy(module, batch, float(loss.detach()))
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
