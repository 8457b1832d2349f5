"""Log the gradient noise scale: the batch size beyond which larger batches stop paying."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..functional._validation import real_number, whole_number
from ..functional.noise_scale.gradient_noise import gradient_noise
from ..functional.noise_scale.noise_scale import GradientNoise, RatioAverage
from ..trainer.processes import process_group
from ._fixed_subset import lazy_subset
from ._loss_monitor import LossMonitor
from ._module_loss import trained_weights

_Scale = Literal["simple_scale", "critical_batch"]
_SCALES: tuple[_Scale, ...] = get_args(_Scale)


@dataclass(kw_only=True, eq=False, repr=False)
class GradientNoiseScaleMonitor(LossMonitor):
    """Log the batch size at which half of the expected squared gradient norm is noise.

    Far below it, twice the batch halves the steps; far above it, it only doubles the cost of each. The loss comes
    from your own `training_step`, run silenced and isolated in evaluation mode on a fixed subset of the training data;
    ``loss_fn`` overrides it. The run is bit for bit the same with and without the monitor.

    Logs at the end of an epoch, in samples, ``tr(Sigma) / |G|^2`` and ``tr(H Sigma) / (G . H G)``, with G the gradient,
    Sigma the covariance of the gradient of one sample and H the Hessian. ``noise/simple_scale_now`` and
    ``noise/critical_batch_now`` are those of this measurement alone, ``noise/simple_scale`` and
    ``noise/critical_batch`` their running means: of numerators and denominators apart, each divided by the squared
    gradient norm of its measurement, and weighted by the epochs that it stands for, so that neither large early
    gradients nor left-out measurements decide them. ``noise/gradient_norm_squared`` and ``noise/variance`` are the
    parts of ``noise/simple_scale_now``. A scale whose numerator or denominator is not positive is NaN, and one warning
    says why.

    Args:
        samples: Training samples to measure on. To tell a noise scale, it takes about as many samples.
        chunk_size: Samples in each of the small gradients that are compared, and most in memory at a time.
        probes: Random vectors for the critical batch, each with a product with the Hessian; 0 logs none.
        decay: Weight of what was measured one epoch ago in the running means, from 0 (each measurement stands alone)
            to below 1.

    The other arguments are those of `Monitor`, `SubsetMonitor` and `LossMonitor`; ``seed`` also draws the random
    vectors, and the scales are in the unit of ``count``. With given ``data`` at least two batches.

    Raises:
        ValueError: If an argument is out of range; before the first step, if no fixed subset of at least two chunks
            can be drawn, the loss cannot be measured, the strategy shards the weights, or two monitors log the same
            key.

    Reference:
        McCandlish, Kaplan and Amodei (2018); see `lightning_gap.functional.gradient_noise`.
    """

    area = "noise"
    quantity = "gradient noise"

    samples: int = 2000
    chunk_size: int = 50
    probes: int = 3
    decay: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._population: int | None = None
        self._reset()

    def check_arguments(self) -> None:
        super().check_arguments()
        self.probes = whole_number("probes", self.probes, 0, most=10_000, hint="0 logs no critical batch")
        self.decay = real_number("decay", self.decay, at_least=0, below=1, hint="try 0.5")

    @property
    def names(self) -> tuple[str, ...]:
        """What is logged, without area and suffix."""
        critical = ("critical_batch", "critical_batch_now") if self.probes else ()
        return ("simple_scale", "simple_scale_now", *critical, "gradient_norm_squared", "variance")

    @property
    def plotted(self) -> tuple[str, ...]:
        """The running means, in samples."""
        return ("simple_scale", *(("critical_batch",) if self.probes else ()))

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        self._reset()

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        super().draw(trainer, module)
        sizes = self._batches["data"].sizes  # of all processes
        if len(sizes) < 2:
            raise ValueError(
                f"the gradient noise shows between batches, and the {sum(sizes)} samples are one; pass a smaller "
                f"chunk_size than {self.chunk_size}, or data=..., a list of at least two batches"
            )
        if self.data is None and self.count is None:
            # The noise is that around the gradient of the whole training set.
            served = lazy_subset(trainer.train_dataloader, "data", chunk_size=self.chunk_size, seed=self.seed)
            self._population = sum(served.sizes)

    def state_dict(self) -> dict[str, Any]:
        own = {"simple": self._simple.state_dict(), "critical": self._critical.state_dict(), "step": self._step}
        return super().state_dict() | own

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if "step" in state_dict:  # else from a version whose averages were of another kind: they begin anew
            self._simple.load_state_dict(state_dict["simple"])
            self._critical.load_state_dict(state_dict["critical"])
            self._step = state_dict["step"]

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> GradientNoise:
        """Measure now, inside fit; nothing is logged, and no average moved.

        Raises:
            UndefinedNoiseError: If the loss at the weights, or the gradient of a part of it, is not finite.
            UndefinedCurvatureError: If a product with the Hessian is not finite.
        """
        with self.undisturbed(trainer, pl_module) as evaluations:
            loss = self.loss(evaluations)
            return gradient_noise(
                loss,
                trained_weights(trainer, pl_module),
                sizes=loss.sizes,
                probes=self.probes,
                population=self._population,
                generator=torch.Generator().manual_seed(self.seed),
                process_group=process_group(trainer),
            )

    def named(self, trainer: Trainer, module: LightningModule, result: GradientNoise) -> dict[str, float]:
        noise = result
        self._take_in(noise, trainer)
        found = {
            "simple_scale": self._simple.ratio,
            "simple_scale_now": noise.simple_scale,
            "critical_batch": self._critical.ratio,
            "critical_batch_now": noise.critical_batch,
            "gradient_norm_squared": noise.gradient_norm_squared,
            "variance": noise.variance,
        }
        if not self.probes:
            del found["critical_batch"], found["critical_batch_now"]
        for name in _SCALES:
            if math.isnan(found.get(name, 0.0) + found.get(f"{name}_now", 0.0)):
                self._tell(name, noise)
        return found

    def _take_in(self, noise: GradientNoise, trainer: Trainer) -> None:
        """Move the averages on, by the epochs since the measurement before."""
        step, epochs = trainer.global_step, self.epochs_begun(trainer)
        terms = {"scale": noise.measured_norm_squared, "elapsed": (step - self._step) * epochs / step if step else 0.0}
        self._step = step
        if noise.measured_norm_squared > 0 and noise.variance > 0:
            self._simple.update(noise.variance, noise.gradient_norm_squared, **terms)
            if math.isfinite(noise.curvature_variance):  # NaN without probes
                self._critical.update(noise.curvature_variance, noise.gradient_curvature, **terms)

    def _tell(self, name: _Scale, noise: GradientNoise) -> None:
        """Say once why a scale is not known."""
        if name in self._told:
            return
        self._told.add(name)
        numerator, denominator = (self._simple if name == "simple_scale" else self._critical).averages
        reason = noise.reason(name) or f"the averages so far come to {numerator:.3g} / {denominator:.3g}"
        rank_zero_warn(
            f"noise/{name}{self.suffix} or noise/{name}_now{self.suffix} is NaN, which is said once: {reason}; measure "
            "more samples in ten chunks or more, or raise decay for the mean"
        )

    def _reset(self) -> None:
        self._simple, self._critical = RatioAverage(self.decay), RatioAverage(self.decay)
        self._step = 0  # of the last measurement
        self._told: set[str] = set()
