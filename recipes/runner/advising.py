"""The command `advise`: train the small batch for some steps, print a batch size and a rate, why, and what to run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from rich.console import Console

from ..advice import Advice, Measurement, NoiseAlongTheWay, advise, learning_rate_at
from ..advice_report import report
from ..recipe import Recipe
from .plan import Plan, make_plan
from .quiet import spoken_plainly
from .settings import Settings
from .trainer import make_trainer


def advise_batch_size(settings: Settings, steps: int, options: Sequence[str], made: list[Plan]) -> int:
    """Measure, and print what it comes to and what to run next; the exit status.

    Args:
        settings: What was asked for.
        steps: In which the noise is measured.
        options: As they were typed.
        made: Gets the plan as soon as there is one, for who is told to stop.

    Raises:
        ValueError: If there are too few steps to measure at, or several processes would train.
    """
    with spoken_plainly():
        plan = make_plan(settings)
        made.append(plan)
        if plan.trainer.world_size > 1:
            given = [name for name in ("devices", "num_nodes", "strategy") if name in settings.trainer]
            told = ", ".join(f"{name} {settings.trainer[name]!r}" for name in given)
            fix = " and ".join(f"trainer.{name}" for name in given)
            raise ValueError(
                f"advise measures on one process, got {plan.trainer.world_size} of them, {told}; leave out {fix}"
            )
        console = Console(highlight=False)
        recipe = plan.recipe("small", settings.seed)
        with console.status(f"{settings.recipe} on {settings.data}: {steps} steps of {recipe.batch_size} samples"):
            measurements = measure_noise(plan, recipe, steps)
        advice = advise(measurements, len(plan.data(recipe, settings.seed).train))
        for part in report(recipe, measurements, advice):
            console.print(part)
        commands = (f"    {shlex.join(command)}" for command in next_commands(recipe, settings.recipe, options, advice))
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


def next_commands(recipe: Recipe, name: str, options: Sequence[str], advice: Advice) -> Iterator[list[str]]:
    """The two batches against each other; then, where the advised one is another, that one with its own rate.

    Else with all options that were typed for the measurement.
    """
    small, large, batch = recipe.small_batch_size, recipe.large_batch_size, advice.batch_size
    if batch != small:
        small, large = min(batch, small), max(batch, small)
    kept = list(_without(options, "--small_batch_size", "--large_batch_size"))
    sizes = ["--small_batch_size", f"{small}", "--large_batch_size", f"{large}"]
    yield ["lightning-gap", "compare", name, "small", "large", *kept, *sizes]
    if batch != recipe.small_batch_size:
        rate = f"{learning_rate_at(recipe, batch, advice.scale):.2g}"
        kept = list(_without(options, "--small_batch_size", "--learning_rate"))
        changed = ["--small_batch_size", f"{batch}", "--learning_rate", rate]
        yield ["lightning-gap", "run", name, "--regime", "small", *kept, *changed]


def _without(options: Sequence[str], *names: str) -> Iterator[str]:
    """The options but some, and but the number of steps, which is that of the measurement."""
    before = ""
    for word in options:
        if not {before, word.partition("=")[0]} & {"--steps", *names}:
            yield word
        before = word
