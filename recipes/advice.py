"""Which batch size a recipe's gradient noise asks for, measured while its small batch trains, and the rate there."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
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
from lightning_gap.recipes.classifier import Classifier
from lightning_gap.recipes.datasets import Batch, FolderImages, Samples
from lightning_gap.recipes.networks import zero_last_gammas
from lightning_gap.recipes.plan import Plan
from lightning_gap.recipes.trainer import make_trainer

# About as many samples as the scale to be told, in chunks that leave eighty gradients to compare.
SAMPLES, CHUNK, PROBES, TIMES = 4000, 50, 3, 6
ADAPTIVE = ("adam", "adagrad", "lamb")  # scale every step by the size of the gradient


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


def measure_noise(plan: Plan, steps: int) -> list[Measurement]:
    """Train the recipe's small batch for some steps from its seed and measure the noise along the way.

    Raises:
        ValueError: If there are too few steps to measure at, or several processes would train.
    """
    if steps < TIMES:
        raise ValueError(f"steps must be at least {TIMES}, one for each measurement, got {steps}; the default is 300")
    _refuse_processes(plan)
    seed = plan.settings.seed
    regime = plan.regime("small")
    data, network = plan.data(regime, seed), plan.new_network(seed)
    if regime.numbers.zero_last_gammas:
        zero_last_gammas(network)
    measuring = _MeasureNoise(data.train, [round(steps * k / TIMES) for k in range(1, TIMES + 1)])
    length = {"max_epochs": -1, "max_steps": steps, "limit_val_batches": 0, "enable_checkpointing": False}
    trainer = make_trainer({**plan.settings.trainer, **length}, {}, callbacks=[], logger=None)
    trainer.fit(Classifier(network, regime.numbers, [measuring]), data)
    return measuring.found


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


def show(console: Console, plan: Plan, measurements: list[Measurement], advice: Advice) -> None:
    """Print what was measured, what it advises, why, and what to run next."""
    numbers = plan.numbers
    seen = _table("step", "train loss", "noise scale", "critical batch")
    for m in measurements:
        seen.add_row(f"{m.step}", f"{m.loss:.3f}", _samples(m.noise.simple_scale), _samples(m.noise.critical_batch))
    console.print(seen)
    costs = _table("batch", "steps", "samples", f"{numbers.optimizer}'s rate")
    for size in sorted({numbers.small_batch_size, advice.batch_size, numbers.large_batch_size}):
        steps, samples = advice.costs(size)
        advised = " (advised)" * (size == advice.batch_size)
        costs.add_row(
            f"{size}{advised}",
            f"x {steps:.2f}",
            f"x {samples:.2f}",
            f"{_rate(plan, size, advice.scale):.2g}",
        )
    console.print(costs)
    for line in _reasons(plan, measurements, advice):
        console.print(line)
    commands = (f"    {line}" for line in _commands(plan, advice.batch_size, advice.scale))
    console.print("\nNext:", *commands, sep="\n", soft_wrap=True, markup=False, emoji=False)


def _reasons(plan: Plan, measurements: list[Measurement], advice: Advice) -> list[str]:
    base, batch = plan.numbers.small_batch_size, advice.batch_size
    steps, samples = advice.costs(batch)
    first, last = measurements[0], measurements[-1]
    return [
        f"[bold]Batch {batch}[/bold], the power of two at or below the noise scale of {_samples(advice.scale)} "
        "samples, averaged towards the end. An order of magnitude, no more: single measurements range from "
        f"{_samples(advice.lowest)} to {_samples(advice.highest)}, and the critical batch, which weighs directions by "
        f"curvature, comes to {_samples(advice.critical)}.",
        f"[bold]Cost[/bold]: {steps:.2f} times the fewest steps and {samples:.2f} times the fewest samples that any "
        "batch takes to the same loss, by (S / S_min - 1) (E / E_min - 1) = 1. Far below the scale, twice the batch "
        "halves the steps; far above it, it doubles the samples.",
        f"[bold]Rate {_rate(plan, batch, advice.scale):.2g}[/bold]: {_rule(plan, batch / base)}",
        "[bold]Later[/bold]: as a rule the scale grows as the loss falls, here from "
        f"{_samples(first.noise.simple_scale)} at step {first.step} to {_samples(last.noise.simple_scale)} at step "
        f"{last.step}; a longer run bears a larger batch, see --steps {10 * last.step}. Test accuracy is another "
        "matter: compare it.",
    ]


class _MeasureNoise(Callback):
    """Measure after given steps, the training itself left as it is."""

    def __init__(self, train: Samples | FolderImages, steps: list[int]) -> None:
        self.steps = steps
        self._step = 0  # that the optimizer took last
        self.found: list[Measurement] = []
        self._losses: list[Tensor] = []  # of the micro-batches since the last step
        self._population = len(train)
        self._batches = FixedSubset(train, samples=SAMPLES, chunk_size=CHUNK, seed=0)

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
            self.found.append(Measurement(self._step, loss, self._measure(pl_module)))

    def _measure(self, module: LightningModule) -> GradientNoise:
        def mean_loss(network: nn.Module, batch: Batch) -> Tensor:
            inputs, targets = (tensor.to(module.device) for tensor in batch)
            return cross_entropy(network(inputs), targets)

        return gradient_noise(
            DatasetLoss(module, mean_loss, self._batches),
            module.parameters(),
            sizes=self._batches.sizes,
            probes=PROBES,
            population=self._population,
            generator=torch.Generator().manual_seed(0),
        )


def _rate(plan: Plan, batch_size: int, noise_scale: float) -> float:
    numbers, base = plan.numbers, plan.numbers.small_batch_size
    adaptive = numbers.optimizer in ADAPTIVE
    scale = learning_rate_scale(batch_size, base, rule="sqrt")
    gain = learning_rate_gain(batch_size, base, noise_scale=noise_scale)
    return float(numbers.learning_rate * (scale if adaptive else gain))


def _rule(plan: Plan, ratio: float) -> str:
    name, rate = plan.numbers.optimizer, plan.numbers.learning_rate
    if name in ADAPTIVE:
        return (
            f"the steps of {name} do not grow with the gradient, and the usual rule is the square root of the ratio of "
            f"the batches: {rate:g} x sqrt({ratio:g})."
        )
    return (
        f"for {name} the rule is linear while the batch is small against the noise scale, {rate:g} x {ratio:g}, and "
        "this batch is taken as far as its own noise allows."
    )


def _commands(plan: Plan, batch: int, noise_scale: float) -> list[str]:
    """The two batches against each other; then, where the advised one is another, that one with its own rate."""
    recipe, small = plan.settings.recipe, plan.numbers.small_batch_size
    compare, run = ["compare", recipe, "small", "large"], ["run", recipe, "--regime", "small"]
    if batch == small:
        return [_command(plan, compare, {"small_batch_size": small})]
    rate = float(f"{_rate(plan, batch, noise_scale):.2g}")
    return [
        _command(plan, compare, {"small_batch_size": min(batch, small), "large_batch_size": max(batch, small)}),
        _command(plan, run, {"small_batch_size": batch, "learning_rate": rate}),
    ]


def _command(plan: Plan, start: list[str], numbers: dict[str, Any]) -> str:
    """One for a shell, with these numbers and else with all that was chosen for the measurement."""
    settings, own = plan.settings, asdict(plan.recipe.numbers[plan.data_name])
    options = numbers | {k: v for k, v in asdict(plan.numbers).items() if v != own[k] and k not in numbers}
    options |= {f"network.{name}": value for name, value in settings.network.items()}
    options |= {f"trainer.{name}": value for name, value in settings.trainer.items()}
    options |= {"seed": settings.seed} if settings.seed else {}
    options |= {} if settings.num_workers is None else {"num_workers": settings.num_workers}
    told = {"data": plan.data_name, "data_dir": str(settings.data_dir)}  # a path is not read as YAML
    told |= {name: _as_yaml(value) for name, value in options.items()}
    words = [[f"--{n}={text}"] if text.startswith("-") else [f"--{n}", text] for n, text in told.items()]
    return shlex.join(["lightning-gap", *start, *chain.from_iterable(words)])


def _as_yaml(value: Any) -> str:
    """In one line, as jsonargparse reads it."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _refuse_processes(plan: Plan) -> None:
    if plan.processes > 1:
        names = [name for name in ("devices", "num_nodes", "strategy") if name in plan.settings.trainer]
        told = ", ".join(f"{name} {plan.settings.trainer[name]!r}" for name in names)
        fix = " and ".join(f"trainer.{name}" for name in names)
        raise ValueError(f"advise measures on one process, got {plan.processes} of them, {told}; leave out {fix}")


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _samples(value: float) -> str:
    """Two digits are more than is known."""
    return "unknown" if math.isnan(value) else f"{float(f'{value:.2g}'):,.0f}"
