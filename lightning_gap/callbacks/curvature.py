"""Log the curvature of the loss, and how near the learning rate is to the edge of stability."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, get_args

import torch
from lightning.pytorch import LightningModule, Trainer

from ..functional._validation import flag, one_of, real_number, seed_number, text, whole_number
from ..functional.curvature.spectrum import Eigenvalues, Trace, hessian_eigenvalues, hessian_trace
from ..functional.dataset_loss import BatchNormMode
from ..trainer.optimizers import largest_learning_rate, learning_rate_scale_in_use
from ..trainer.processes import process_group
from ._arguments import optional_function
from ._evaluations import LossFunction
from ._fixed_subset import Count
from ._module_loss import MeasuredLoss, trained_weights
from ._schedule import EveryNEpochs, Schedule, check_every_n_epochs, check_time_share
from ._scheduled_monitor import LossMonitor


class CurvatureMonitor(LossMonitor):
    """Log the extreme eigenvalues and the trace of the loss's Hessian, and the distance to the edge of stability.

    The loss comes from your own `training_step`, run silenced and isolated in evaluation mode on a fixed subset of
    the training data; ``loss_fn`` overrides it. The run is bit for bit the same with and without the monitor.

    Logs at the end of an epoch ``curvature/lambda_max`` and ``curvature/lambda_min``, the largest and the smallest
    eigenvalue, ``curvature/lambda_max_residual``, within which an eigenvalue lies, ``curvature/trace`` with its
    ``curvature/trace_standard_error``, and at the weights themselves ``curvature/loss`` and
    ``curvature/gradient_norm``. With the largest learning rate of the last step also ``curvature/two_over_lr``, the
    curvature at which plain gradient descent turns unstable, and ``curvature/edge`` = lambda_max * lr / 2, 1 there.

    Args:
        every_n_epochs: Measure at the end of every n-th epoch, or with "log" of epochs 1, 2, 4, 8, ...; and at the end
            of the run.
        at_start: Measure also before the first step.
        samples: Training samples to measure on; keep the number and ``seed`` equal in runs that you compare.
        chunk_size: Most samples in memory at a time; with ``batch_norm="batch"`` it is part of the definition.
        batch_norm: ``"running"``, ``"batch"`` or ``"recomputed"`` statistics, as in `SharpnessMonitor`.
        tolerance: Residual at which lambda_max has converged, relative to the largest eigenvalue by magnitude.
        max_products: Most products with the Hessian for the eigenvalues; each costs about three gradients, and one
            vector as large as the weights is kept for each.
        probes: Random vectors for the trace, a product each; 0 logs no trace.
        seed: Seed of the subset and of the random vectors.
        data: Batches to measure on instead of the subset, as `training_step` takes them.
        loss_fn: Mean loss of one batch, a function of (module, batch), instead of `training_step`.
        count: What the mean loss of a batch is taken over, as in `SharpnessMonitor`.
        max_time_share: Most time that measuring between the first and the last epoch may take, as a share of the
            training time; measurements wait until it allows them. Ten seconds are free. None for no limit.
        suffix: Appended to the keys, so that two monitors can stand side by side.

    Raises:
        ValueError: If an argument is out of range; before the first step, if no fixed subset can be drawn, the loss
            cannot be measured, the strategy shards the weights, or two monitors log the same key.

    Reference:
        Cohen, Kaur, Li, Kolter and Talwalkar (2021) on the edge of stability; see
        `lightning_gap.functional.hessian_eigenvalues` and `hessian_trace`.
    """

    _quantity = "curvature"

    def __init__(
        self,
        *,
        every_n_epochs: EveryNEpochs = 1,
        at_start: bool = False,
        samples: int = 500,
        chunk_size: int = 250,
        batch_norm: BatchNormMode = "running",
        tolerance: float = 1e-2,
        max_products: int = 20,
        probes: int = 5,
        seed: int = 0,
        data: Iterable[Any] | None = None,
        loss_fn: LossFunction | None = None,
        count: Count | None = None,
        max_time_share: float | None = 0.1,
        suffix: str = "",
    ) -> None:
        self.every_n_epochs = check_every_n_epochs(every_n_epochs)
        self.at_start = flag("at_start", at_start)
        self.samples = whole_number("samples", samples)
        self.chunk_size = whole_number("chunk_size", chunk_size)
        self.batch_norm: BatchNormMode = one_of("batch_norm", batch_norm, get_args(BatchNormMode))
        self.tolerance = real_number("tolerance", tolerance, above=0, below=1, hint="try 1e-2")
        self.max_products = whole_number("max_products", max_products)
        self.probes = whole_number("probes", probes, 0, hint="0 logs no trace")
        self.seed = seed_number("seed", seed)
        self.data = data
        self.loss_fn = optional_function("loss_fn", loss_fn)
        self.count = optional_function("count", count, "the batch")
        self.max_time_share = check_time_share(max_time_share)
        self.suffix = text("suffix", suffix)
        self._schedule = Schedule(self.every_n_epochs, self.max_time_share)
        self._loss = MeasuredLoss(
            data=data,
            loss_fn=self.loss_fn,
            samples=self.samples,
            chunk_size=self.chunk_size,
            batch_norm=batch_norm,
            seed=self.seed,
            count=self.count,
        )
        self._rate = 0.0  # the largest in the last step, scaled
        self._unscaled_rate = 0.0

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs."""
        trace = ("trace", "trace_standard_error") if self.probes else ()
        ends = ("lambda_max", "lambda_min", "lambda_max_residual")
        names = (*ends, *trace, "loss", "gradient_norm", "two_over_lr", "edge")
        return tuple(f"curvature/{name}{self.suffix}" for name in names)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._rate = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._unscaled_rate = largest_learning_rate(trainer)  # schedulers move on before an epoch ends
        if not trainer.global_step:
            self._rate = self._unscaled_rate
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._rate = self._unscaled_rate * learning_rate_scale_in_use(trainer)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"learning_rate": self._rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._rate = state_dict.get("learning_rate", 0.0)

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Eigenvalues, Trace | None]:
        """Measure now, inside fit; nothing is logged.

        Raises:
            UndefinedCurvatureError: If the loss at the weights, or a product with its Hessian, is not finite.
        """
        group, weights = process_group(trainer), trained_weights(trainer, pl_module)
        with self._loss.undisturbed(trainer, pl_module):
            loss = self._loss.on(trainer, pl_module)
            eigenvalues = hessian_eigenvalues(
                loss,
                weights,
                tolerance=self.tolerance,
                max_products=self.max_products,
                ends="largest",
                process_group=group,
                generator=torch.Generator().manual_seed(self.seed),
            )
            if not self.probes:
                return eigenvalues, None
            generator = torch.Generator().manual_seed(self.seed)
            return eigenvalues, hessian_trace(
                loss, weights, probes=self.probes, process_group=group, generator=generator
            )

    def _values(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        rate = self._rate
        ends, trace = self.measure(trainer, module)
        found = [ends.largest, ends.smallest, ends.largest_residual]
        found += [trace.trace, trace.standard_error] if trace else []
        found += [ends.loss, ends.gradient_norm, 2 / rate if rate else math.inf, ends.largest * rate / 2]
        return dict(zip(self.keys, found, strict=True))
