"""Log the curvature of the loss, and how near the learning rate is to the edge of stability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional._validation import flag, real_number, whole_number
from ..functional.curvature.optimizer_edge import optimizer_edge
from ..functional.curvature.spectrum import Eigenvalues, Trace, hessian_eigenvalues, hessian_trace
from ..functional.dataset_loss import DatasetLoss
from ..functional.errors import UndefinedCurvatureError
from ..trainer.optimizers import groups_of, largest_learning_rate
from ..trainer.processes import process_group
from ._loss_monitor import LossMonitor
from ._module_loss import trained_weights
from ._run import run_of

Measured = tuple[Eigenvalues, Trace | None] | tuple[Eigenvalues, Trace | None, dict[str, float]]
_BESIDE = ("loss", "gradient_norm", "two_over_lr", "edge")
_PRECONDITIONED = tuple(f"preconditioned_{name}" for name in ("lambda_max", "lambda_max_residual", "threshold", "edge"))


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

    With ``preconditioned`` also the edge of the run's own optimizer: ``curvature/preconditioned_lambda_max``, the
    largest eigenvalue of ``P^-1/2 H P^-1/2`` with P from the optimizer's state, its ``_residual``,
    ``curvature/preconditioned_threshold``, at which the optimizer turns unstable (38 / lr for Adam at beta1 0.9), and
    ``curvature/preconditioned_edge``, the one over the other. They are not logged before the first step.

    Args:
        tolerance: Residual at which lambda_max has converged, relative to the largest eigenvalue by magnitude.
        max_products: Most products with the Hessian for the eigenvalues; each costs about three gradients, and one
            vector as large as the weights is kept for each.
        probes: Random vectors for the trace, a product each; 0 logs no trace.
        preconditioned: Measure the edge of the run's own optimizer too, which is one of SGD, Adam, AdamW and RMSprop;
            costs as many products again as ``lambda_max``, but for SGD with one learning rate none.

    The other arguments are those of `Monitor`, `SubsetMonitor` and `LossMonitor`; ``seed`` also draws the random
    vectors.

    Raises:
        ValueError: If an argument is out of range; before the first step, if no fixed subset can be drawn, the loss
            cannot be measured, the strategy shards the weights, two monitors log the same key, or with
            ``preconditioned`` the optimizer is another one, or there are several.

    Reference:
        Cohen, Kaur, Li, Kolter and Talwalkar (2021) on the edge of stability, Cohen et al. (2022) for adaptive
        optimizers; see `lightning_gap.functional.hessian_eigenvalues`, `hessian_trace` and `optimizer_edge`.
    """

    area = "curvature"
    quantity = "curvature"

    samples: int = 500
    tolerance: float = 1e-2
    max_products: int = 20
    probes: int = 5
    preconditioned: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rate = 0.0  # the largest in the last step, scaled
        self._unscaled_rate = 0.0
        self._rates: list[float] = []  # in the last step by parameter group, scaled
        self._unscaled_rates: list[float] = []

    def check_arguments(self) -> None:
        super().check_arguments()
        self.tolerance = real_number("tolerance", self.tolerance, above=0, below=1, hint="try 1e-2")
        self.max_products = whole_number("max_products", self.max_products)
        self.probes = whole_number("probes", self.probes, 0, hint="0 logs no trace")
        self.preconditioned = flag("preconditioned", self.preconditioned)

    @property
    def names(self) -> tuple[str, ...]:
        """What is logged, without area and suffix."""
        trace = ("trace", "trace_standard_error") if self.probes else ()
        return (*("lambda_max", "lambda_min", "lambda_max_residual"), *trace, *_BESIDE, *self.optional_names)

    @property
    def optional_names(self) -> tuple[str, ...]:
        """Those of `names` that have no value before the first step."""
        return _PRECONDITIONED if self.preconditioned else ()

    @property
    def plotted(self) -> tuple[str, ...]:
        """The largest eigenvalue, and where gradient descent turns unstable."""
        return ("lambda_max", "two_over_lr")

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        self._rate, self._rates = 0.0, []

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        super().draw(trainer, module)
        if self.preconditioned:
            _check_optimizer(trainer, trained_weights(trainer, module))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._unscaled_rate = largest_learning_rate(trainer)  # schedulers move on before an epoch ends
        self._unscaled_rates = _rates_of(trainer) if self.preconditioned else []
        if not trainer.global_step:
            self._rate, self._rates = self._unscaled_rate, self._unscaled_rates
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        scale = run_of(trainer).learning_rate_scale
        self._rate = self._unscaled_rate * scale
        self._rates = [rate * scale for rate in self._unscaled_rates]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"learning_rate": self._rate, "learning_rates": self._rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._rate = state_dict.get("learning_rate", 0.0)
        self._rates = list(state_dict.get("learning_rates", []))

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> Measured:
        """Measure now, inside fit; nothing is logged.

        Returns:
            The eigenvalues and the trace; with ``preconditioned`` also what is logged of the optimizer's own edge.

        Raises:
            UndefinedCurvatureError: If the loss at the weights, or a product with its Hessian, is not finite.
        """
        group, weights = process_group(trainer), trained_weights(trainer, pl_module)
        with self.undisturbed(trainer, pl_module) as evaluations:
            loss = self.loss(evaluations)
            eigenvalues, trace = self._eigenvalues(trainer, loss, weights), None
            if self.probes:
                generator = torch.Generator().manual_seed(self.seed)
                trace = hessian_trace(loss, weights, probes=self.probes, process_group=group, generator=generator)
            if not self.preconditioned:
                return eigenvalues, trace
            return eigenvalues, trace, self._at_own_edge(trainer, loss, weights, eigenvalues)

    def _eigenvalues(
        self, trainer: Trainer, loss: DatasetLoss, weights: Mapping[str, Tensor], p: tuple[Tensor, ...] | None = None
    ) -> Eigenvalues:
        return hessian_eigenvalues(
            loss,
            weights,
            tolerance=self.tolerance,
            max_products=self.max_products,
            ends="largest",
            preconditioner=p,
            process_group=process_group(trainer),
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _at_own_edge(
        self, trainer: Trainer, loss: DatasetLoss, weights: Mapping[str, Tensor], plain: Eigenvalues
    ) -> dict[str, float]:
        """By name what the optimizer's own edge is measured by; nothing before the first step."""
        if not any(self._rates):
            return {}
        optimizer, factors = trainer.optimizers[0], run_of(trainer).factors
        others = None if factors is None else factors.record.used_values(optimizer)  # betas that follow the batch
        try:
            own = optimizer_edge(optimizer, weights, learning_rates=self._rates, hyperparameters=others)
        except UndefinedCurvatureError:
            return {}
        same = all(bool((p == 1).all()) for p in own.preconditioner)
        ends = plain if same else self._eigenvalues(trainer, loss, weights, own.preconditioner)
        found = (ends.largest, ends.largest_residual, own.threshold, ends.largest / own.threshold)
        return dict(zip(_PRECONDITIONED, found, strict=True))

    def named(self, trainer: Trainer, module: LightningModule, result: Measured) -> dict[str, float]:
        (ends, trace, *own), rate = result, self._rate
        found = [ends.largest, ends.smallest, ends.largest_residual]
        found += [trace.trace, trace.standard_error] if trace else []
        found += [ends.loss, ends.gradient_norm, 2 / rate if rate else math.inf, ends.largest * rate / 2]
        values = dict(zip(self.names, found, strict=False))
        return values | own[0] if own else values


def _rates_of(trainer: Trainer) -> list[float]:
    """The learning rates of the one optimizer, by parameter group."""
    return [float(group["lr"]) for group in groups_of(trainer.optimizers[0])]


def _check_optimizer(trainer: Trainer, weights: Mapping[str, Tensor]) -> None:
    """Raise if the edge of the run's optimizer is not known."""
    if len(trainer.optimizers) != 1:
        raise ValueError(
            f"preconditioned=True measures the edge of one optimizer, and there are {len(trainer.optimizers)}; leave "
            "preconditioned out"
        )
    optimizer = trainer.optimizers[0]
    try:
        with suppress(UndefinedCurvatureError):  # no step yet
            optimizer_edge(optimizer, weights, learning_rates=[1.0] * len(groups_of(optimizer)))
    except ValueError as error:
        raise ValueError(f"preconditioned=True cannot be measured: {error}; leave preconditioned out") from error
