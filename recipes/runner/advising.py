"""The command `advise`: train the small batch for some steps, print a batch size and a rate, why, and what to run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from ..advice import Advice, Measurement, NoiseAlongTheWay, advise, learning_rate_at
from ..advice_report import report
from ..recipe import Recipe
from .plan import Plan
from .telling import saying
from .trainer import make_trainer
from .words import as_options


def advise_batch_size(plan: Plan, steps: int, changed: Mapping[str, Any]) -> int:
    """Measure, and print what it comes to and what to run next; the exit status.

    Args:
        plan: What was asked for.
        steps: In which the noise is measured.
        changed: Options that are not their defaults.

    Raises:
        ValueError: If there are too few steps to measure at, or several processes would train.
    """
    settings = plan.settings
    processes = plan.trainer.world_size
    if processes > 1:
        raise ValueError(
            f"advise measures on one process, got {processes} by trainer={settings.trainer}; use one device"
        )
    console = Console(highlight=False)
    recipe = plan.recipe("small", settings.seed)
    with saying(console, f"{settings.recipe} on {settings.data}: {steps} steps of {recipe.batch_size} samples"):
        measurements = measure_noise(plan, recipe, steps)
    advice = advise(measurements, len(plan.data(recipe, settings.seed).train))
    for part in report(recipe, measurements, advice):
        console.print(part)
    commands = (f"    {shlex.join(command)}" for command in next_commands(recipe, settings.recipe, changed, advice))
    console.print("\nNext:", *commands, sep="\n", soft_wrap=True, markup=False, emoji=False)
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


def next_commands(recipe: Recipe, name: str, changed: Mapping[str, Any], advice: Advice) -> Iterator[list[str]]:
    """The two batches against each other; then, where the advised one is another, that one with its own rate.

    Else with what was changed for the measurement.
    """
    small, large = sorted((advice.batch_size, recipe.small_batch_size))
    if small == large:
        large = recipe.large_batch_size
    sizes = {"small_batch_size": small, "large_batch_size": large}
    yield ["lightning-gap", "compare", name, "small", "large", *_typed({**changed, **sizes})]
    if advice.batch_size != recipe.small_batch_size:
        rate = f"{learning_rate_at(recipe, advice.batch_size, advice.scale):.2g}"
        alone = {"small_batch_size": advice.batch_size, "learning_rate": rate}
        yield ["lightning-gap", "run", name, "--regime", "small", *_typed({**changed, **alone})]


def _typed(options: Mapping[str, Any]) -> list[str]:
    return [word for option in as_options(options).items() for word in option if word is not None]
