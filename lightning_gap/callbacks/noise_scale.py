"""Log the gradient noise scale: the batch size beyond which larger batches stop paying."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from .._lightning import process_group
from ..functional.dataset_loss import BatchNormMode
from ..functional.gradient_noise import gradient_noise
from ..functional.noise_scale import GradientNoise, RatioAverage
from ._arguments import check_counts
from ._evaluations import LossFunction
from ._fixed_subset import subset
from ._module_loss import MeasuredLoss, trained_weights
from ._schedule import EveryNEpochs, Schedule
from ._scheduled_monitor import LossMonitor


class GradientNoiseScaleMonitor(LossMonitor):
    """Log the noise scale of the gradient, the batch size at which half of it, squared, is noise.

    Far below it, twice the batch halves the steps; far above it, it only doubles the cost of each. The loss comes
    from your own `training_step`, run silenced and isolated in evaluation mode on a fixed subset of the training data;
    ``loss_fn`` overrides it. The run is bit for bit the same with and without the monitor.

    Logs at the end of an epoch ``noise/simple_scale`` = tr(Sigma) / |G|^2 and ``noise/critical_batch`` =
    tr(H Sigma) / (G . H G), both in samples, with G the gradient, Sigma the covariance of the gradient of one sample
    and H the Hessian; and the parts of the first, ``noise/gradient_norm_squared`` and ``noise/variance``. All are
    averages over the measurements, taken of numerators and denominators apart. A scale is left out, with one warning,
    while one of its averages is not positive.

    Args:
        every_n_epochs: Measure at the end of every n-th epoch, or with "log" of epochs 1, 2, 4, 8, ...; and at the end
            of the run.
        at_start: Measure also before the first step.
        samples: Training samples to measure on. To tell a noise scale, it takes about as many samples.
        chunk_size: Samples in each of the small gradients that are compared, and most in memory at a time.
        batch_norm: ``"running"``, ``"batch"`` or ``"recomputed"`` statistics, as in `SharpnessMonitor`.
        probes: Random vectors for the critical batch, each with a product with the Hessian; 0 logs none.
        decay: Weight of the earlier measurements in the averages, from 0 (each stands alone) to below 1.
        seed: Seed of the subset and of the random vectors.
        data: Batches to measure on instead of the subset, at least two, as `training_step` takes them.
        loss_fn: Mean loss of one batch, a function of (module, batch), instead of `training_step`.
        max_time_share: Most time that measuring between the first and the last epoch may take, as a share of the
            training time; measurements wait until it allows them. Ten seconds are free. None for no limit.
        suffix: Appended to the keys, so that two monitors can stand side by side.

    Raises:
        ValueError: If an argument is out of range; before the first step, if no fixed subset of at least two chunks
            can be drawn, the loss cannot be measured, the strategy shards the weights, or two monitors log the same
            key.

    Reference:
        McCandlish, Kaplan and Amodei (2018); see `lightning_gap.functional.gradient_noise`.
    """

    _quantity = "gradient noise"

    def __init__(
        self,
        *,
        every_n_epochs: EveryNEpochs = 1,
        at_start: bool = False,
        samples: int = 2000,
        chunk_size: int = 50,
        batch_norm: BatchNormMode = "running",
        probes: int = 3,
        decay: float = 0.5,
        seed: int = 0,
        data: Iterable[Any] | None = None,
        loss_fn: LossFunction | None = None,
        max_time_share: float | None = 0.1,
        suffix: str = "",
    ) -> None:
        if probes != 0:
            check_counts(probes=probes)
        self.every_n_epochs = every_n_epochs
        self.at_start = at_start
        self.samples = samples
        self.chunk_size = chunk_size
        self.batch_norm = batch_norm
        self.probes = probes
        self.decay = decay
        self.seed = seed
        self.data = data
        self.loss_fn = loss_fn
        self.max_time_share = max_time_share
        self.suffix = suffix
        self._schedule = Schedule(every_n_epochs, max_time_share)
        self._loss = MeasuredLoss(
            data=data, loss_fn=loss_fn, samples=samples, chunk_size=chunk_size, batch_norm=batch_norm, seed=seed
        )
        self._population: int | None = None
        self._begin()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs."""
        critical = ("critical_batch",) if self.probes else ()
        names = ("simple_scale", *critical, "gradient_norm_squared", "variance")
        return tuple(f"noise/{name}{self.suffix}" for name in names)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":  # runs before a checkpoint is loaded: what was measured in an earlier fit is over
            self._begin()

    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        super()._draw(trainer, module)
        self._check_parts()
        if self.data is None:  # the gradient to be told from its noise is that of the whole training set
            served = subset(trainer.train_dataloader, "data", None, self.chunk_size, self.seed)
            self._population = served.population

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"simple": self._simple.state_dict(), "critical": self._critical.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._simple.load_state_dict(state_dict["simple"])
        self._critical.load_state_dict(state_dict["critical"])

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> GradientNoise:
        """Measure now, inside fit; nothing is logged, and no average moved.

        Raises:
            UndefinedNoiseError: If the loss at the weights, or the gradient of a part of it, is not finite.
            UndefinedCurvatureError: If a product with the Hessian is not finite.
        """
        with self._loss.undisturbed(trainer, pl_module):
            loss = self._loss.on(trainer, pl_module)
            return gradient_noise(
                loss,
                trained_weights(trainer, pl_module),
                sizes=loss.sizes,
                probes=self.probes,
                population=self._population,
                generator=torch.Generator().manual_seed(self.seed),
                process_group=process_group(trainer),
            )

    def _values(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        noise = self.measure(trainer, module)
        self._simple.update(noise.variance, noise.gradient_norm_squared)
        variance, norm_squared = self._simple.averages
        found = {"simple_scale": self._simple.ratio, "gradient_norm_squared": norm_squared, "variance": variance}
        if self.probes:
            self._critical.update(noise.curvature_variance, noise.gradient_curvature)
            found["critical_batch"] = self._critical.ratio
        for name in [name for name, value in found.items() if math.isnan(value)]:
            del found[name]
            self._tell(name)
        return {f"noise/{name}{self.suffix}": value for name, value in found.items()}

    def _tell(self, name: str) -> None:
        """Say once what it means that a scale cannot be told."""
        if name in self._told:
            return
        self._told.add(name)
        averages = (self._simple if name == "simple_scale" else self._critical).averages
        reason = (
            f"samples={self.samples} do not tell the gradient from its noise"
            if name == "simple_scale"
            else f"the loss curves down along its gradient, or samples={self.samples} and probes={self.probes} do not "
            "tell the curvature there from its noise"
        )
        rank_zero_warn(
            f"noise/{name}{self.suffix} is left out while it is not positive, {averages[0]:.3g} / {averages[1]:.3g}: "
            f"{reason}; measure more samples, or raise decay to average longer"
        )

    def _begin(self) -> None:
        self._simple, self._critical = RatioAverage(self.decay), RatioAverage(self.decay)
        self._told: set[str] = set()

    def _check_parts(self) -> None:
        sizes = self._loss.sizes  # of all processes
        if len(sizes) < 2:
            raise ValueError(
                f"the gradient noise shows between batches, and the {sum(sizes)} samples are one; pass a smaller "
                f"chunk_size than {self.chunk_size}, or data=..., a list of at least two batches"
            )
