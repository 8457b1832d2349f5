"""What an advice is printed as: the measurements, what the batches cost, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from .advice import ADAPTIVE, Advice, Measurement, learning_rate_at
from .recipe import Recipe


def report(recipe: Recipe, measurements: list[Measurement], advice: Advice) -> Iterator[RenderableType]:
    """Two tables, then a paragraph for each of batch, cost, learning rate, a longer run and what is surer."""
    seen = _table("step", "train loss", "noise scale", "critical batch")
    for m in measurements:
        seen.add_row(f"{m.step}", f"{m.loss:.3f}", _samples(m.noise.simple_scale), _samples(m.noise.critical_batch))
    yield seen
    costs = _table("batch", "steps", "samples", f"{recipe.optimizer}'s rate")
    for size in sorted({recipe.small_batch_size, advice.batch_size, recipe.large_batch_size}):
        steps, samples = advice.costs(size)
        rate = learning_rate_at(recipe, size, advice.scale)
        advised = " (advised)" * (size == advice.batch_size)
        costs.add_row(f"{size}{advised}", f"x {steps:.2f}", f"x {samples:.2f}", f"{rate:.2g}")
    yield costs
    steps, samples = advice.costs(advice.batch_size)
    yield (
        f"[bold]Batch {advice.batch_size}[/bold], the power of two at or below the noise scale, "
        f"{_samples(advice.scale)} samples averaged towards the end. An order of magnitude, no more: single "
        f"measurements range from {_samples(advice.lowest)} to {_samples(advice.highest)}, and the critical batch, "
        f"which weighs directions by curvature, comes to {_samples(advice.critical)}."
    )
    yield (
        f"[bold]Cost[/bold]: {steps:.2f} times the fewest steps and {samples:.2f} times the fewest samples that any "
        "batch takes to the same loss, by (S / S_min - 1) (E / E_min - 1) = 1."
    )
    yield f"[bold]Learning rate {learning_rate_at(recipe, advice.batch_size, advice.scale):.2g}[/bold]: {_rule(recipe)}"
    yield (
        "[bold]Later[/bold]: as a rule the scale grows as the loss falls, and a longer run bears a larger batch; see "
        f"--steps {10 * measurements[-1].step}. Test accuracy is another matter: compare it."
    )
    yield (
        "[bold]Surer[/bold]: the scale is read from gradients at single points, for plain SGD with the best learning "
        "rate at each step. `lightning-gap critical-batch` trains branches with larger batches instead; where the two "
        "disagree, trust the branches."
    )


def _rule(recipe: Recipe) -> str:
    if recipe.optimizer in ADAPTIVE:
        return f"the steps of {recipe.optimizer} do not grow with the gradient, and the rule is the root of the ratio."
    return f"for {recipe.optimizer} the rule is linear while the batch is small against the noise scale, less above it."


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _samples(value: float) -> str:
    """Two digits are more than is known."""
    return "unknown" if math.isnan(value) else f"{float(f'{value:.2g}'):,.0f}"
