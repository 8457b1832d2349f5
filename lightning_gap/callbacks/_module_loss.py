"""The loss of a LightningModule on fixed batches: from its own `training_step`, or from a function that replaces it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from ..functional._loss_surface import checked_params, loss_surface
from ..functional.dataset_loss import BatchNormMode, DatasetLoss
from ..trainer.optimizers import trained_weights as weights_of_optimizers
from ..trainer.processes import process_group
from ..trainer.refusals import refuse_sync_batch_norm
from ..trainer.state import same_tensor
from ._evaluations import Evaluations, LossFunction, Seeded
from ._fixed_subset import Batches, Count, checked_count, draw_subset, fixed_subsets, subset
from ._loader_subset import one_line
from ._undisturbed import undisturbed


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


class MeasuredLoss:
    """The loss that a monitor measures, with the monitor's arguments: drawn, tried, let go at the end of training."""

    def __init__(
        self,
        *,
        data: Iterable[Any] | None,
        loss_fn: LossFunction | None,
        samples: int,
        chunk_size: int,
        batch_norm: BatchNormMode,
        seed: int,
        count: Count | None = None,
    ) -> None:
        self._data = data
        self._loss_fn = loss_fn
        self._samples = samples
        self._batch_norm: BatchNormMode = batch_norm
        self._seed = seed
        self._count = count
        self.chunk_size = chunk_size
        self._batches: Batches | None = None
        self._evaluations: Evaluations | None = None

    def refuse(self, trainer: Trainer) -> None:
        """Raise if the Trainer's BatchNorm cannot be evaluated as asked."""
        if self._batch_norm != "running":
            refuse_sync_batch_norm(trainer, f"batch_norm={self._batch_norm!r}")

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        """Fix the batches, when training starts."""
        check_measurable(module, self._loss_fn)
        trained_weights(trainer, module)
        found = fixed_subsets(
            {"data": (self._data, trainer.train_dataloader)},
            samples=self._samples,
            chunk_size=self.chunk_size,
            seed=self._seed,
            count=self._count,
        )
        self._batches = found["data"]

    @property
    def sizes(self) -> list[int]:
        """What each of the drawn batches counts for."""
        assert self._batches is not None, "monitors measure inside fit"
        return self._batches.sizes

    def draw_more(self, trainer: Trainer, samples: int) -> Batches:
        """Other samples of the training set, more of them."""
        return draw_subset(trainer.train_dataloader, "data", samples, self.chunk_size, self._seed, self._count)

    def everything(self, trainer: Trainer) -> Batches:
        """All training samples, read whenever they are evaluated."""
        found = subset(trainer.train_dataloader, "data", None, self.chunk_size, self._seed)
        return Batches(
            found, found.sizes if self._count is None else [checked_count(self._count, batch) for batch in found]
        )

    def halve_chunks(self, trainer: Trainer, module: LightningModule) -> bool:
        """Measure the same samples in chunks of half the size; whether that is possible and the same measurement."""
        if self._data is not None or self._batch_norm == "batch" or self.chunk_size == 1:
            return False
        self.chunk_size = math.ceil(self.chunk_size / 2)
        self.draw(trainer, module)
        return True

    def forget(self) -> None:
        """Let go of the batches."""
        self._batches = None

    @contextmanager
    def undisturbed(self, trainer: Trainer, module: LightningModule) -> Iterator[Evaluations]:
        """Measure inside the block, and leave the run as it is."""
        with undisturbed(trainer, module, batch_norm_apart=self._batch_norm != "running") as remembered:
            self._evaluations = Evaluations(trainer, module, remembered, self._loss_fn)
            try:
                yield self._evaluations
            finally:
                self._evaluations = None

    def on(
        self, trainer: Trainer, module: LightningModule, batches: Batches | None = None, *, alone: bool = False
    ) -> DatasetLoss:
        """The mean loss on the drawn batches, or on others; for use inside `undisturbed` of this object.

        Dealt out between the processes, unless each is to be ``alone``. Random numbers that a data set or a
        `training_step` draws from the global generators are the same every time. Gradients are not turned off: a
        `training_step` may need them, for a gradient penalty.
        """
        given, evaluations = batches or self._batches, self._evaluations
        assert given is not None, "monitors measure inside fit"

        assert evaluations is not None, "monitors measure inside `undisturbed`"

        def compute(_: nn.Module, indexed: tuple[int, Any]) -> Tensor:
            index, stored = indexed
            return evaluations.loss(stored, index)

        return DatasetLoss(
            module,
            compute,
            Seeded(given.batches, self._seed),
            sizes=given.sizes,
            batch_norm=self._batch_norm,
            process_group=None if alone else process_group(trainer),
            evaluation_mode=_as_it_is,  # `undisturbed` has asked the module's own hook
        )

    def check(self, trainer: Trainer, module: LightningModule, training_batch: Any) -> None:
        """Raise if the loss of the smallest batch cannot be measured.

        There is none or no gradient, it is random, or evaluating it changes what cannot be put back. A missing
        attribute is left to the measurement: the module's own hooks come after the callbacks' and may set it.
        """
        assert self._batches is not None, "monitors measure inside fit"
        batches, sizes = self._batches
        i = min(range(len(sizes)), key=sizes.__getitem__)
        with suppress(AttributeError), said_of_samples(sizes[i]), self.undisturbed(trainer, module) as evaluations:
            twice = Batches([batches[i]] * 2, [sizes[i]] * 2)  # with indices 0 and 1: some steps do more in the first
            loss = self.on(trainer, module, twice, alone=True)
            with loss_surface(loss, trained_weights(trainer, module)) as surface:
                surface.loss_and_gradient()
                written = [not same_tensor(w, x) for w, x in zip(surface.weights, surface.centre, strict=True)]
                if any(written):
                    name = list(trained_weights(trainer, module))[written.index(True)]
                    raise ValueError(
                        f"training_step writes to the trained weight {name}, so that there is no loss of given weights "
                        "to measure; pass loss_fn=..., a function of (module, batch) that does not"
                    )
                surface.check_repeatable()
                evaluations.check_state(self._batches, training_batch)


@contextmanager
def said_of_samples(samples: int) -> Iterator[None]:
    """Let what a user's step raises on its first evaluation say where it comes from."""
    try:
        yield
    except (RuntimeError, TypeError, LookupError, ArithmeticError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"the loss of {samples} samples cannot be measured in evaluation mode: {type(error).__name__}: "
            f"{one_line(error)}; pass a loss_fn or accuracy_fn that takes (module, batch), another chunk_size, or "
            "batches of your own"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left."""
    texts = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def _as_it_is(module: nn.Module) -> None:
    """Stand in for what puts a module in evaluation mode."""
