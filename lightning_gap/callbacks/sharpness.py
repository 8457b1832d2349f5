"""Log how sharp the current solution is, while it trains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any, Literal, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from .._lightning import is_due, refuse_same_keys, refuse_sharded_weights
from ..functional.batch_statistics import batch_statistics
from ..functional.sharpness import Sharpness, UndefinedSharpnessError, checked_params, epsilon_name, sharpness
from ._arguments import check_counts
from ._fixed_subset import Chunk, fixed_subsets
from ._undisturbed import LossFunction, check_measurable, chunk_losses, undisturbed

BatchNormMode = Literal["running", "batch"]


class SharpnessMonitor(Callback):
    """Log the sharpness of the solution: the rise of the loss, in percent, within a small box around the weights.

    The loss comes from your own `training_step`, run silenced and isolated in evaluation mode on a fixed subset of
    the training data; ``loss_fn`` overrides it. The run is bit for bit the same with and without the monitor.

    Logs at the end of an epoch, in percent, ``sharpness/full_eps1e-3`` for each epsilon, and beside it
    ``sharpness/loss`` and ``sharpness/gradient_norm``, both at the weights themselves on the same samples.

    Args:
        epsilon: Half-widths of the box, relative to ``|x_i| + 1``. The paper uses 1e-3 and 5e-4.
        every_n_epochs: Measure at the end of every n-th epoch, and of the last one planned.
        samples: Training samples to measure on. On a well-fitted small-batch solution the value settles only at
            about 10,000; keep the number and ``seed`` equal in runs that you compare.
        chunk_size: Most samples in memory at a time; with ``batch_norm="batch"`` it is part of the definition.
        batch_norm: ``"running"`` evaluates with running statistics, ``"batch"`` with those of each chunk, as the
            paper's networks did. On large-batch solutions the first gives about ten times the second.
        max_evaluations: Most evaluations of the loss for one epsilon.
        seed: Seed of the subset.
        data: Batches to measure on instead of the subset, as `training_step` takes them.
        loss_fn: Mean loss of one batch, a function of (module, batch), instead of `training_step`.
        suffix: Appended to the keys, so that two monitors can stand side by side.

    Raises:
        ValueError: If an argument is out of range; at train start, if no fixed subset can be drawn, the strategy
            shards the weights, or two monitors log the same key.

    Reference:
        Keskar et al. (2017), Metric 2.1 and Figure 6; see `lightning_gap.functional.sharpness`.
    """

    def __init__(
        self,
        epsilon: float | tuple[float, ...] = (1e-3, 5e-4),
        *,
        every_n_epochs: int = 1,
        samples: int = 1000,
        chunk_size: int = 250,
        batch_norm: BatchNormMode = "running",
        max_evaluations: int = 7,
        seed: int = 0,
        data: Iterable[Any] | None = None,
        loss_fn: LossFunction | None = None,
        suffix: str = "",
    ) -> None:
        self.epsilon = tuple(epsilon) if isinstance(epsilon, tuple | list) else (epsilon,)
        numbers = all(isinstance(e, int | float) and 0 < e < math.inf for e in self.epsilon)
        if not self.epsilon or not numbers or len(set(self.epsilon)) < len(self.epsilon):
            raise ValueError(f"epsilon must be positive, or several different positive numbers, got {epsilon!r}")
        check_counts(
            every_n_epochs=every_n_epochs, samples=samples, chunk_size=chunk_size, max_evaluations=max_evaluations
        )
        if max_evaluations < 2:
            raise ValueError(f"max_evaluations must be at least 2, got {max_evaluations!r}; try 7")
        if batch_norm not in get_args(BatchNormMode):
            raise ValueError(f"batch_norm must be 'running' or 'batch', got {batch_norm!r}")
        self.every_n_epochs = every_n_epochs
        self.samples = samples
        self.chunk_size = chunk_size
        self.batch_norm = batch_norm
        self.max_evaluations = max_evaluations
        self.seed = seed
        self.data = data
        self.loss_fn = loss_fn
        self.suffix = suffix
        self._chunks: list[Chunk] = []

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs."""
        names = [f"full_eps{epsilon_name(epsilon)}" for epsilon in self.epsilon] + ["loss", "gradient_norm"]
        return tuple(f"sharpness/{name}{self.suffix}" for name in names)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            refuse_sharded_weights(trainer, self)
            refuse_same_keys(trainer, self, self.keys)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_measurable(pl_module, self.loss_fn)
        checked_params(_trained(pl_module))
        source = {"data": (self.data, trainer.train_dataloader)}
        chosen = fixed_subsets(source, samples=self.samples, chunk_size=self.chunk_size, seed=self.seed)
        self._chunks = chosen["data"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_due(trainer, self.every_n_epochs):
            results = self.measure(trainer, pl_module)
            values = [result.percent for result in results] + [results[0].loss, results[0].gradient_norm]
            values = trainer.strategy.broadcast(values)  # BatchNorm buffers differ by process; all log rank zero's
            pl_module.log_dict(dict(zip(self.keys, values, strict=True)), sync_dist=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._chunks = []

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> list[Sharpness]:
        """Measure now, inside fit; one result for each epsilon, nothing logged. Where it is undefined, all is NaN."""
        mode = batch_statistics(pl_module) if self.batch_norm == "batch" else nullcontext()
        with undisturbed(trainer, pl_module), mode:
            return [self._measure_one(trainer, pl_module, epsilon) for epsilon in self.epsilon]

    def _measure_one(self, trainer: Trainer, module: LightningModule, epsilon: float) -> Sharpness:
        try:
            return sharpness(
                lambda: self._loss_parts(trainer, module),
                _trained(module),
                epsilon=epsilon,
                max_evaluations=self.max_evaluations,
            )
        except UndefinedSharpnessError as error:  # a diverged run is not ours to stop
            rank_zero_warn(f"sharpness is logged as NaN: {error}")
            nan = math.nan
            return Sharpness(nan, nan, nan, nan, epsilon, evaluations=1, random_start=False)

    def _loss_parts(self, trainer: Trainer, module: LightningModule) -> Iterator[Tensor]:
        """Each chunk's share of the mean loss over all samples."""
        for _, loss, share in chunk_losses(trainer, module, self._chunks, loss_fn=self.loss_fn, seed=self.seed):
            yield loss * share


def _trained(module: LightningModule) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
