"""Which batch size a recipe's gradient noise asks for, measured while its small batch trains, and the rate there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import (
    DatasetLoss,
    FixedSubset,
    GradientNoise,
    RatioAverage,
    gradient_noise,
    learning_rate_gain,
    learning_rate_scale,
)

from .recipe import Batch, Recipe

# About as many samples as the scale to be told, in chunks that leave eighty gradients to compare.
SAMPLES, CHUNK, PROBES, TIMES = 4000, 50, 3, 6
ADAPTIVE = ("adam", "adamw", "adagrad", "lamb")  # scale every step by the size of the gradient


@dataclass(frozen=True)
class Measurement:
    """The gradient noise after a number of steps, and the loss of the batch there."""

    step: int
    loss: float
    noise: GradientNoise


@dataclass(frozen=True)
class Advice:
    """What the measurements come to.

    Attributes:
        scale: Simple noise scale, samples; averaged, the last measurement counting half, the one before a quarter,
            whatever the size of the gradient.
        critical: Critical batch, averaged alike; NaN where it cannot be told.
        lowest: Smallest scale of a single measurement.
        highest: Largest.
        batch_size: The power of two at or below the scale, at most the training set.
    """

    scale: float
    critical: float
    lowest: float
    highest: float
    batch_size: int

    def costs(self, batch_size: int) -> tuple[float, float]:
        """Steps over the fewest, and samples over the fewest, that training with this batch size takes."""
        return 1 + self.scale / batch_size, 1 + batch_size / self.scale


class NoiseAlongTheWay(Callback):
    """Measure the gradient noise while a recipe trains for some steps, the training itself left as it is.

    Args:
        train: What is trained on.
        steps: Optimizer steps of the run; six measurements are spread over them.
        loss_fn: Mean loss of a batch, a function of (module, batch); by default cross-entropy of the module's scores.

    Raises:
        ValueError: If there are too few steps to measure at.

    Attributes:
        found: The measurements so far.
    """

    def __init__(self, train: Any, steps: int, loss_fn: Callable[[nn.Module, Any], Tensor] | None = None) -> None:
        if steps < TIMES:
            raise ValueError(
                f"steps must be at least {TIMES}, one for each measurement, got {steps}; the default is 300"
            )
        self.steps = [round(steps * k / TIMES) for k in range(1, TIMES + 1)]
        self.loss_fn = loss_fn
        self.found: list[Measurement] = []
        self._step = 0  # that the optimizer took last
        self._losses: list[Tensor] = []  # of the micro-batches since the last step
        self._train = train

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"] * trainer.accumulate_grad_batches)  # Lightning gives a share of the loss
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        loss = float(torch.stack(self._losses).mean())
        self._losses.clear()
        if self._step in self.steps:
            noise = measured_noise(pl_module, self._train, self.loss_fn)
            self.found.append(Measurement(self._step, loss, noise))


def measured_noise(
    module: LightningModule, train: Any, loss_fn: Callable[[nn.Module, Any], Tensor] | None = None
) -> GradientNoise:
    """The gradient noise of a module where it stands, on a fixed subset of its training samples.

    Args:
        module: The module.
        train: What is trained on.
        loss_fn: As in `NoiseAlongTheWay`.
    """
    chosen = _cross_entropy if loss_fn is None else loss_fn
    batches = FixedSubset(train, samples=SAMPLES, chunk_size=CHUNK, seed=0)

    def mean_loss(network: nn.Module, batch: Any) -> Tensor:
        there = module.transfer_batch_to_device(batch, module.device, 0)
        return chosen(network, module.trainer.precision_plugin.convert_input(there))  # to float64, where that is asked

    return gradient_noise(
        DatasetLoss(module, mean_loss, batches),
        module.parameters(),
        sizes=batches.sizes,
        probes=PROBES,
        population=len(train),
        generator=torch.Generator().manual_seed(0),
    )


def _cross_entropy(network: nn.Module, batch: Batch) -> Tensor:
    inputs, targets = batch
    return cross_entropy(network(inputs), targets)


def advise(measurements: list[Measurement], training_samples: int) -> Advice:
    """The batch size that the measurements ask for.

    Raises:
        ValueError: If the gradient cannot be told from its noise.
    """
    simple, critical = RatioAverage(0.5), RatioAverage(0.5)
    for measured in measurements:
        noise = measured.noise
        if noise.measured_norm_squared > 0 and noise.variance > 0:  # else it shows no noise
            size = noise.measured_norm_squared  # not to let the large gradients of the first steps decide
            simple.update(noise.variance, noise.gradient_norm_squared, scale=size)
            critical.update(noise.curvature_variance, noise.gradient_curvature, scale=size)
    scale = simple.ratio
    if math.isnan(scale):
        raise ValueError(
            f"the gradient cannot be told from its noise around step {measurements[-1].step}: the noise scale is far "
            f"beyond the {SAMPLES} samples measured; pass fewer --steps"
        )
    single = [m.noise.simple_scale for m in measurements if math.isfinite(m.noise.simple_scale)]
    limit = min(scale, training_samples)
    return Advice(scale, critical.ratio, min(single), max(single), 2 ** max(0, math.floor(math.log2(limit))))


def rule_for(optimizer: str) -> Literal["sqrt", "linear"]:
    """How the learning rate of an optimizer follows the batch, where no noise scale is known."""
    return "sqrt" if optimizer in ADAPTIVE else "linear"


def learning_rate_at(recipe: Recipe, batch_size: int, noise_scale: float) -> float:
    """The recipe's learning rate carried over from its small batch to another.

    By the root of the ratio for optimizers that scale every step by the size of the gradient, else as far as the noise
    allows.
    """
    base = recipe.small_batch_size
    scale = learning_rate_scale(batch_size, base, rule="sqrt")
    gain = learning_rate_gain(batch_size, base, noise_scale=noise_scale)
    return float(recipe.learning_rate * (scale if recipe.optimizer in ADAPTIVE else gain))
