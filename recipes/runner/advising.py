"""The command `advise`: train the small batch for some steps, print a batch size and a rate, why, and what to run."""

from __future__ import annotations

import math
import shlex
from itertools import chain
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..advice import ADAPTIVE, Advice, Measurement, NoiseAlongTheWay, advise, learning_rate_at
from ..recipe import Recipe
from .plan import Plan, make_plan
from .quiet import spoken_plainly
from .settings import Settings
from .trainer import make_trainer


def advise_batch_size(settings: Settings, steps: int, made: list[Plan]) -> int:
    """Measure, and print what it comes to; the exit status.

    Raises:
        ValueError: If there are too few steps to measure at, or several processes would train.
    """
    with spoken_plainly():
        plan = make_plan(settings)
        made.append(plan)
        _refuse_processes(plan)
        console = Console(highlight=False)
        recipe = plan.recipe("small", settings.seed)
        with console.status(f"{settings.recipe} on {settings.data}: {steps} steps of {recipe.batch_size} samples"):
            measurements = measure_noise(plan, recipe, steps)
        training = len(plan.data(recipe, settings.seed).train)
        show(console, plan, recipe, measurements, advise(measurements, training))
        return 0


def measure_noise(plan: Plan, recipe: Recipe, steps: int) -> list[Measurement]:
    """Train a recipe for some steps and measure the noise along the way.

    Raises:
        ValueError: If there are too few steps to measure at.
    """
    data = plan.data(recipe, plan.settings.seed)
    measuring = NoiseAlongTheWay(data.train, steps)
    length = {"max_steps": steps, "limit_val_batches": 0, "enable_checkpointing": False}
    trainer = make_trainer({**plan.settings.trainer, **length}, epochs=-1, callbacks=[measuring], logger=None)
    trainer.fit(recipe, data)
    return measuring.found


def show(console: Console, plan: Plan, recipe: Recipe, measurements: list[Measurement], advice: Advice) -> None:
    """Print what was measured, what it advises, why, and what to run next."""
    seen = _table("step", "train loss", "noise scale", "critical batch")
    for m in measurements:
        seen.add_row(f"{m.step}", f"{m.loss:.3f}", _samples(m.noise.simple_scale), _samples(m.noise.critical_batch))
    console.print(seen)
    costs = _table("batch", "steps", "samples", f"{recipe.optimizer}'s rate")
    for size in sorted({recipe.small_batch_size, advice.batch_size, recipe.large_batch_size}):
        steps, samples = advice.costs(size)
        advised = " (advised)" * (size == advice.batch_size)
        costs.add_row(
            f"{size}{advised}",
            f"x {steps:.2f}",
            f"x {samples:.2f}",
            f"{learning_rate_at(recipe, size, advice.scale):.2g}",
        )
    console.print(costs)
    for line in _reasons(recipe, measurements, advice):
        console.print(line)
    commands = (f"    {line}" for line in _commands(plan, recipe, advice))
    console.print("\nNext:", *commands, sep="\n", soft_wrap=True, markup=False, emoji=False)


def _reasons(recipe: Recipe, measurements: list[Measurement], advice: Advice) -> list[str]:
    base, batch = recipe.small_batch_size, advice.batch_size
    steps, samples = advice.costs(batch)
    rate = f"{learning_rate_at(recipe, batch, advice.scale):.2g}"
    first, last = measurements[0], measurements[-1]
    return [
        f"[bold]Batch {batch}[/bold], the power of two at or below the noise scale of {_samples(advice.scale)} "
        "samples, averaged towards the end. An order of magnitude, no more: single measurements range from "
        f"{_samples(advice.lowest)} to {_samples(advice.highest)}, and the critical batch, which weighs directions by "
        f"curvature, comes to {_samples(advice.critical)}.",
        f"[bold]Cost[/bold]: {steps:.2f} times the fewest steps and {samples:.2f} times the fewest samples that any "
        "batch takes to the same loss, by (S / S_min - 1) (E / E_min - 1) = 1. Far below the scale, twice the batch "
        "halves the steps; far above it, it doubles the samples.",
        f"[bold]Learning rate {rate}[/bold]: {_rule(recipe, batch / base)}",
        "[bold]Later[/bold]: as a rule the scale grows as the loss falls, here from "
        f"{_samples(first.noise.simple_scale)} at step {first.step} to {_samples(last.noise.simple_scale)} at step "
        f"{last.step}; a longer run bears a larger batch, see --steps {10 * last.step}. Test accuracy is another "
        "matter: compare it.",
    ]


def _rule(recipe: Recipe, ratio: float) -> str:
    name, rate = recipe.optimizer, recipe.learning_rate
    if name in ADAPTIVE:
        return (
            f"the steps of {name} do not grow with the gradient, and the usual rule is the square root of the ratio of "
            f"the batches: {rate:g} x sqrt({ratio:g})."
        )
    return (
        f"for {name} the rule is linear while the batch is small against the noise scale, {rate:g} x {ratio:g}, and "
        "this batch is taken as far as its own noise allows."
    )


def _commands(plan: Plan, recipe: Recipe, advice: Advice) -> list[str]:
    """The two batches against each other; then, where the advised one is another, that one with its own rate."""
    name, small, batch = plan.settings.recipe, recipe.small_batch_size, advice.batch_size
    compare, run = ["compare", name, "small", "large"], ["run", name, "--regime", "small"]
    if batch == small:
        return [_command(plan, compare, {"small_batch_size": small})]
    rate = float(f"{learning_rate_at(recipe, batch, advice.scale):.2g}")
    return [
        _command(plan, compare, {"small_batch_size": min(batch, small), "large_batch_size": max(batch, small)}),
        _command(plan, run, {"small_batch_size": batch, "learning_rate": rate}),
    ]


def _command(plan: Plan, start: list[str], changed: dict[str, Any]) -> str:
    """One for a shell, with these hyperparameters and else with all that was chosen for the measurement."""
    settings = plan.settings
    own = plan.recipe_class.on(settings.data).hparams
    chosen = {k: v for k, v in settings.hyperparameters.items() if v != own[k] and k not in changed}
    options = {**changed, **chosen} | {f"trainer.{name}": value for name, value in settings.trainer.items()}
    options |= {"seed": settings.seed} if settings.seed else {}
    options |= {} if settings.num_workers is None else {"num_workers": settings.num_workers}
    told = {"data": settings.data, "data_dir": str(settings.data_dir)}  # a path is not read as YAML
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
