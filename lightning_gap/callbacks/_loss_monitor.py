"""The bases of the monitors that measure on a fixed subset of the data, and of those that measure the loss there."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, get_args

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from ..functional._loss_surface import loss_surface
from ..functional._validation import one_of, seed_number, whole_number
from ..functional.dataset_loss import BatchNormMode, DatasetLoss
from ..trainer.processes import process_group
from ..trainer.refusals import refuse_sync_batch_norm
from ..trainer.state import same_tensor
from ._arguments import check_batches, optional_function
from ._evaluations import Evaluations, LossFunction, Seeded, evaluating
from ._fixed_subset import Batches, Count, Sources, fixed_subsets
from ._module_loss import check_measurable, said_of_samples, trained_weights
from ._monitor import Monitor


@dataclass(kw_only=True, eq=False, repr=False)
class SubsetMonitor(Monitor):
    """A monitor that measures on fixed samples, drawn before the first step.

    The loss comes from your own `training_step`, run silenced and isolated in evaluation mode; ``loss_fn`` overrides
    it. The run is bit for bit the same with and without the monitor.

    Args:
        samples: Samples to measure on; keep the number and ``seed`` equal in runs that you compare.
        chunk_size: Most samples in memory at a time.
        seed: Seed of the subset.
        loss_fn: Mean loss of one batch, a function of (module, batch), instead of `training_step`.
        count: What the mean loss of a batch is taken over, a function of the batch, for instance its tokens. By default
            its samples; needed for given batches whose tensors do not agree on a first axis.
    """

    samples: int = 1000
    chunk_size: int = 250
    seed: int = 0
    loss_fn: LossFunction | None = None
    count: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._batches: dict[str, Batches] = {}
        self._chunk_size = self.chunk_size

    @abstractmethod
    def sources(self, trainer: Trainer) -> Sources:
        """For each argument that takes batches what was given for it, and the loader to draw from otherwise."""

    @abstractmethod
    def undisturbed(self, trainer: Trainer, module: LightningModule) -> AbstractContextManager[Evaluations]:
        """Measure inside the block, and leave the run as it is."""

    @abstractmethod
    def check_loss(self, evaluations: Evaluations, argument: str, batch: Any, size: int) -> None:
        """Raise if the loss of this batch, the smallest, cannot be measured; called inside `undisturbed`."""

    def check_arguments(self) -> None:
        super().check_arguments()
        self.samples = whole_number("samples", self.samples)
        self.chunk_size = whole_number("chunk_size", self.chunk_size)
        self.seed = seed_number("seed", self.seed)
        self.loss_fn = optional_function("loss_fn", self.loss_fn)
        self.count = optional_function("count", self.count, "the batch")

    def begin(self, trainer: Trainer) -> None:
        self._chunk_size = self.chunk_size  # halved where memory runs out

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        check_measurable(module, self.loss_fn)
        self._batches = self._drawn(self.sources(trainer), self.samples)

    def try_out(self, trainer: Trainer, module: LightningModule, training_batch: Any) -> None:
        """Raise before the first step if the loss of the smallest batch cannot be measured.

        A missing attribute is left to the measurement: the module's own hooks come after the callbacks' and may set it.
        """
        for argument, (batches, sizes) in self._batches.items():
            size = min(sizes)
            smallest = batches[sizes.index(size)]
            with (
                suppress(AttributeError),
                said_of_samples(size, argument),
                self.undisturbed(trainer, module) as evaluations,
            ):
                self.check_loss(evaluations, argument, smallest, size)
                evaluations.check_state(Batches(batches, sizes), training_batch)

    def halve_chunks(self, trainer: Trainer, module: LightningModule) -> bool:
        sources = self.sources(trainer)
        if self._chunk_size == 1 or any(given is not None for given, _ in sources.values()):
            return False
        self._chunk_size = math.ceil(self._chunk_size / 2)
        self.draw(trainer, module)
        return True

    def forget(self) -> None:
        self._batches = {}

    def _drawn(self, sources: Sources, samples: int) -> dict[str, Batches]:
        return fixed_subsets(sources, samples=samples, chunk_size=self._chunk_size, seed=self.seed, count=self.count)


@dataclass(kw_only=True, eq=False, repr=False)
class LossMonitor(SubsetMonitor):
    """A monitor of the loss on a fixed subset of the training data: `loss`, to be used inside `undisturbed`.

    Args:
        batch_norm: ``"running"`` evaluates BatchNorm layers with running statistics, ``"batch"`` with those of each
            chunk, as Keskar et al.'s networks did, ``"recomputed"`` with those of the samples, gathered afresh. On
            large-batch solutions sharpness with the first is about ten times that with the second.
        data: Batches to measure on instead of the subset, as `training_step` takes them.
    """

    batch_norm: BatchNormMode = "running"
    data: Iterable[Any] | None = None

    def check_arguments(self) -> None:
        super().check_arguments()
        self.batch_norm = one_of("batch_norm", self.batch_norm, get_args(BatchNormMode))
        check_batches(data=self.data)

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        if self.batch_norm != "running":
            refuse_sync_batch_norm(trainer, f"batch_norm={self.batch_norm!r}")

    def sources(self, trainer: Trainer) -> Sources:
        return {"data": (self.data, trainer.train_dataloader)}

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        super().draw(trainer, module)
        trained_weights(trainer, module)

    def halve_chunks(self, trainer: Trainer, module: LightningModule) -> bool:
        return self.batch_norm != "batch" and super().halve_chunks(trainer, module)

    def undisturbed(self, trainer: Trainer, module: LightningModule) -> AbstractContextManager[Evaluations]:
        return evaluating(trainer, module, self.loss_fn, batch_norm_apart=self.batch_norm != "running")

    def loss(self, evaluations: Evaluations, batches: Batches | None = None, *, alone: bool = False) -> DatasetLoss:
        """The mean loss on the drawn batches, or on others, for use inside the block of `undisturbed`.

        Dealt out between the processes, unless each is to be ``alone``. Random numbers that a data set or a
        `training_step` draws from the global generators are the same every time. Gradients are not turned off: a
        `training_step` may need them, for a gradient penalty.
        """
        if batches is None and not self._batches:
            raise RuntimeError(
                f"{type(self).__name__} measures inside fit alone, on batches that it draws when fit starts; "
                "call it from a callback, on_train_start or later"
            )
        given = batches or self._batches["data"]

        def compute(_: nn.Module, indexed: tuple[int, Any]) -> Tensor:
            index, stored = indexed
            return evaluations.loss(stored, index)

        return DatasetLoss(
            evaluations.module,
            compute,
            Seeded(given.batches, self.seed),
            sizes=given.sizes,
            batch_norm=self.batch_norm,
            process_group=None if alone else process_group(evaluations.trainer),
            evaluation_mode=lambda _: None,  # `undisturbed` has asked the module's own hook
        )

    def check_loss(self, evaluations: Evaluations, argument: str, batch: Any, size: int) -> None:
        """Raise if there is no loss or no gradient, it is random, or the step writes to the weights."""
        weights = trained_weights(evaluations.trainer, evaluations.module)
        twice = Batches([batch] * 2, [size] * 2)  # with indices 0 and 1: some steps do more in the first
        with loss_surface(self.loss(evaluations, twice, alone=True), weights) as surface:
            surface.loss_and_gradient()
            for name, now, before in zip(weights, surface.weights, surface.centre, strict=True):
                if not same_tensor(now, before):
                    raise ValueError(
                        f"training_step writes to the trained weight {name}, so that there is no loss of given weights "
                        "to measure; pass loss_fn=..., a function of (module, batch) that does not"
                    )
            surface.check_repeatable()
