"""The command `lightning-gap critical-batch`: what it costs, then the branches, then what they come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lightning_gap.functional import learning_rate_scale

from ..advice import rule_for
from ..runner.plan import Plan
from ..runner.results_folder import locked
from ..runner.telling import saying
from .search import Found, Search, search


def find_critical_batch(
    plan: Plan, *, at: Sequence[float], factors: Sequence[int], samples: int | None, tolerance: float
) -> int:
    """Branch the small batch's run, print what each fork comes to beside its noise scale; the exit status.

    Args:
        plan: What was asked for.
        at: As in `Search`.
        factors: As in `Search`.
        samples: As in `Search`.
        tolerance: As in `Search`.

    Raises:
        ValueError: If an option is out of range, several processes would train, or the folder holds something else.
    """
    if plan.trainer.world_size > 1:
        raise ValueError(
            f"critical-batch trains on one process, got {plan.trainer.world_size} by trainer={plan.settings.trainer}; "
            "use one device"
        )
    asked = Search.of(plan, at=at, factors=factors, samples=samples, tolerance=tolerance)
    console = Console(highlight=False)
    branches = len(asked.at) * len(asked.factors) * plan.settings.trials
    console.print(
        f"{branches} branches of {asked.samples:,} samples and the way there: "
        f"{100 * asked.cost(plan.settings.trials):.0f} % of the samples of one run. Kept in {plan.output}; the same "
        "command with this --output continues.",
        soft_wrap=True,
    )
    found = []
    with locked(plan.output), saying(console, "training the small batch") as say:
        for told in search(plan, asked, say):
            if isinstance(told, Found):
                found.append(told)
            else:
                console.print(told, soft_wrap=True)
    for one in found:
        console.print(_table(plan, one, asked))
    for line in _conclusion(plan, found, asked):
        console.print(line)
    return 0


def _table(plan: Plan, found: Found, asked: Search) -> Table:
    title = (
        f"After {100 * found.share:.0f} % of the run, {found.fork.step:,} steps: branches of {asked.samples:,} samples"
    )
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for heading in ("batch", "steps", "rate", "loss", "above the best smaller", ""):
        table.add_column(heading, justify="right")
    base, best = plan.settings.hyperparameters["small_batch_size"], math.inf
    rule = rule_for(plan.settings.hyperparameters["optimizer"])
    for factor, losses in found.losses.items():
        mean, batch = statistics.fmean(losses), base * factor
        rate = learning_rate_scale(batch, base, rule=rule)
        above = "-" if math.isinf(best) else f"{mean - best:+.4f}"
        mark = "critical" if factor == found.critical else ""
        table.add_row(f"{batch}", f"{asked.samples // batch}", f"x {rate:.3g}", f"{mean:.4f}", above, mark)
        best = min(best, mean)
    return table


def _conclusion(plan: Plan, found: Sequence[Found], asked: Search) -> list[str]:
    base = plan.settings.hyperparameters["small_batch_size"]
    lines = []
    for one in found:
        most = one.critical == asked.factors[-1]
        noise = one.fork.noise
        lines.append(
            f"After {100 * one.share:.0f} %: critical batch {'at least ' if most else ''}{base * one.critical:,}; "
            f"noise scale {_samples(noise.simple_scale)}, weighed by curvature {_samples(noise.critical_batch)}."
        )
    lines.append(
        f"The critical batch is the largest whose loss is within {asked.tolerance:g} of all smaller ones'. It was "
        "measured by training; the noise scale is an estimate from gradients at one point, for plain SGD with the best "
        "learning rate at each step, and was far too low for language models (Merrill et al. 2025): where the two "
        "disagree, trust the branches."
    )
    return lines


def _samples(value: float) -> str:
    """Two digits are more than is known."""
    return f"{float(f'{value:.2g}'):,.0f}" if math.isfinite(value) else "unknown"
