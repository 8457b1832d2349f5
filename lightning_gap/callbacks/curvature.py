"""Log the curvature of the loss, and how near the learning rate is to the edge of stability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from ..functional._validation import real_number, whole_number
from ..functional.curvature.spectrum import Eigenvalues, Trace, hessian_eigenvalues, hessian_trace
from ..trainer.optimizers import largest_learning_rate
from ..trainer.processes import process_group
from ._loss_monitor import LossMonitor
from ._module_loss import trained_weights
from ._run import run_of

Measured = tuple[Eigenvalues, Trace | None]
_BESIDE = ("loss", "gradient_norm", "two_over_lr", "edge")


@dataclass(kw_only=True, eq=False, repr=False)
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
        tolerance: Residual at which lambda_max has converged, relative to the largest eigenvalue by magnitude.
        max_products: Most products with the Hessian for the eigenvalues; each costs about three gradients, and one
            vector as large as the weights is kept for each.
        probes: Random vectors for the trace, a product each; 0 logs no trace.

    The other arguments are those of `Monitor`, `SubsetMonitor` and `LossMonitor`; ``seed`` also draws the random
    vectors.

    Raises:
        ValueError: If an argument is out of range; before the first step, if no fixed subset can be drawn, the loss
            cannot be measured, the strategy shards the weights, or two monitors log the same key.

    Reference:
        Cohen, Kaur, Li, Kolter and Talwalkar (2021) on the edge of stability; see
        `lightning_gap.functional.hessian_eigenvalues` and `hessian_trace`.
    """

    area = "curvature"
    quantity = "curvature"

    samples: int = 500
    tolerance: float = 1e-2
    max_products: int = 20
    probes: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rate = 0.0  # the largest in the last step, scaled
        self._unscaled_rate = 0.0

    def check_arguments(self) -> None:
        super().check_arguments()
        self.tolerance = real_number("tolerance", self.tolerance, above=0, below=1, hint="try 1e-2")
        self.max_products = whole_number("max_products", self.max_products)
        self.probes = whole_number("probes", self.probes, 0, hint="0 logs no trace")

    @property
    def names(self) -> tuple[str, ...]:
        """What is logged, without area and suffix."""
        trace = ("trace", "trace_standard_error") if self.probes else ()
        return (*("lambda_max", "lambda_min", "lambda_max_residual"), *trace, *_BESIDE)

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        self._rate = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._unscaled_rate = largest_learning_rate(trainer)  # schedulers move on before an epoch ends
        if not trainer.global_step:
            self._rate = self._unscaled_rate
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._rate = self._unscaled_rate * run_of(trainer).learning_rate_scale

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"learning_rate": self._rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._rate = state_dict.get("learning_rate", 0.0)

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> Measured:
        """Measure now, inside fit; nothing is logged.

        Raises:
            UndefinedCurvatureError: If the loss at the weights, or a product with its Hessian, is not finite.
        """
        group, weights = process_group(trainer), trained_weights(trainer, pl_module)
        with self.undisturbed(trainer, pl_module) as evaluations:
            loss = self.loss(evaluations)
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

    def named(
        self, trainer: Trainer, module: LightningModule, result: tuple[Eigenvalues, Trace | None]
    ) -> dict[str, float]:
        (ends, trace), rate = result, self._rate
        found = [ends.largest, ends.smallest, ends.largest_residual]
        found += [trace.trace, trace.standard_error] if trace else []
        found += [ends.loss, ends.gradient_norm, 2 / rate if rate else math.inf, ends.largest * rate / 2]
        return dict(zip(self.names, found, strict=True))
