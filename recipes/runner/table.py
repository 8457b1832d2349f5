"""What a comparison ends with: its table, its figure, and how to open its logs."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column as ShownColumn
from rich.table import Table

from lightning_gap.functional import epsilon_name, line_points
from lightning_gap.logging import Column, parametric_figure, write_csv, write_markdown
from lightning_gap.logging.tables import Row

from ..evaluation import at_points, ready_to_measure
from ..gap import Gap, gaps, recovered, what_to_look_at
from .comparison_logs import log_comparison, parts_that_fit
from .notes import table_notes
from .plan import Plan, Run
from .run_result import WEIGHTS, RunResult
from .telling import saying
from .whole_files import load_whole

Results = Mapping[str, Mapping[int, RunResult]]  # by regime and seed


def show_results(console: Console, plan: Plan, results: Results) -> None:
    """Write the table and, of two regimes or more, the figure; print the table and where all of it is."""
    notes = f"{table_notes(plan)} {fewer_trials(results)}".strip()
    found = gaps(
        {name: {seed: result.test_accuracy for seed, result in seeds.items()} for name, seeds in results.items()}
    )
    shown, table = comparison(results, found, [epsilon_name(e) for e in plan.settings.epsilon])
    title = f"{plan.settings.recipe} on {plan.settings.data}: {', '.join(plan.settings.regimes)}"
    write_csv(plan.output / "table.csv", shown, table)
    write_markdown(plan.output / "table.md", shown, table, title=title, terms=notes)
    written = ["table.csv", "table.md"]
    two = _first_two(plan, results)
    figure = None
    if two:
        with saying(console, f"measuring between the solutions of {two[0].regime} and {two[1].regime}"):
            figure = parametric(plan, *two)
        figure.savefig(plan.output / "parametric.png", dpi=150)
        written.append("parametric.png")
    sentence = what_to_look_at(found)
    log_comparison(plan, shown, table, sentence=sentence, terms=notes, figure=figure)
    _print_on_its_side(console, shown, table)
    console.print(notes)
    if sentence:
        console.print(f"\n[bold]{sentence}[/bold]")
    console.print(f"\nWritten to {plan.output}: {', '.join(written)}, config.yaml", soft_wrap=True)
    if len(results) > 1:
        doctor = shlex.join(["lightning-gap", "doctor", str(plan.output)])
        console.print(f"Which known causes of a gap apply:\n    {doctor}", soft_wrap=True)
    if (plan.output / "tensorboard").exists():
        console.print(f"Open the logs with:\n    {tensorboard_command(plan)}", soft_wrap=True)


def comparison(results: Results, found: Mapping[str, Gap], epsilons: Sequence[str]) -> tuple[list[Column], list[Row]]:
    """The columns, and a row for each regime with a number for each trial.

    Args:
        results: By regime and seed.
        found: The gaps of the regimes to ``small``, if that is one of them.
        epsilons: Names of the half-widths of the sharpness box.
    """
    shown = [
        Column("regime", "regime"),
        Column("trials", "trials"),
        *(Column(key, title) for key, title in _SEEN.items()),
        Column("train_accuracy", "train accuracy %", 2),
        Column("test_accuracy", "test accuracy %", 2),
        *(_OF_GAP if len(found) > 1 else ()),
        *(Column(f"sharpness_{name}", f"sharpness {name}", 1) for name in epsilons),
        *(Column(f"sharpness_batch_{name}", f"sharpness {name}, batch BN", 1) for name in epsilons),
        Column("distance", "distance from init", 2),
        Column("seconds", "seconds"),
    ]
    table: list[Row] = []
    for regime, trials in results.items():
        each = [_numbers(result) for result in trials.values()]
        row: dict[str, Any] = {key: [numbers[key] for numbers in each] for key in each[0]}
        row["trials"] = f"{len(each)}"
        row |= {key: ", ".join(dict.fromkeys(f"{number:.6g}" for number in row[key])) for key in _SEEN}
        if regime in found:
            row["gap_to_small"] = list(found[regime].points)
            row["gap_interval"] = "-" if regime == "small" else found[regime].interval
            row["recovered"] = recovered(found, regime)
        table.append({"regime": regime, **row})
    return shown, table


_SEEN = {  # one number where all trials saw the same
    "batch_size": "batch",
    "last_batch_size": "batch at the end",
    "epochs": "epochs",
    "steps": "steps",
    "learning_rate": "learning rate at the end",
}
_OF_GAP = (
    Column("gap_to_small", "gap to small, points", 2),
    Column("gap_interval", "its 95 % interval"),
    Column("recovered", "of large's gap back, %"),
)


def _numbers(result: RunResult) -> dict[str, float]:
    """Of one trial, by the columns."""
    sharpness = {f"sharpness_{name}": percent for name, percent in result.sharpness.items()}
    sharpness |= {f"sharpness_batch_{name}": percent for name, percent in result.sharpness_batch.items()}
    percent = {name: 100 * getattr(result, name) for name in ("train_accuracy", "test_accuracy")}
    return {**vars(result), **percent, **sharpness}


def fewer_trials(results: Results) -> str:
    """A sentence on regimes with fewer trials than others; an empty one where all have as many."""
    most = max(map(len, results.values()))
    fewer = [f"{name} {len(seeds)}" for name, seeds in results.items() if len(seeds) < most]
    return f"Of {most} trials some regimes have fewer: {', '.join(fewer)}." * bool(fewer)


def _first_two(plan: Plan, results: Results) -> list[Run]:
    """The runs of the first trial that the first two regimes have both; none where there is no such trial."""
    names = list(results)[:2]
    both = [run for run in plan.runs() if run.regime in names and all(run.seed in results[name] for name in names)]
    return both[:2] if len(names) > 1 else []


def parametric(plan: Plan, first: Run, second: Run) -> Any:
    """Loss and accuracy on the line through the solutions of two runs, as a figure."""
    start, end = (load_whole(run.folder / WEIGHTS, map_location=plan.device) for run in (first, second))
    recipe = plan.recipe(first.regime, first.seed)
    ready_to_measure(recipe, plan.device)
    alphas = torch.linspace(-1, 2, 25).tolist()
    points = at_points(recipe, plan.data(recipe, first.seed), line_points(start, end, alphas))
    return parametric_figure(
        alphas,
        {split: found["loss"] for split, found in points.items()},
        {split: found["accuracy"] for split, found in points.items()},
        ends=(first.regime, second.regime),
        title=f"{plan.settings.recipe} on {plan.settings.data}, seed {first.seed}; BatchNorm by statistics of chunks "
        f"of up to {recipe.evaluation_chunk:,}",
    )


def tensorboard_command(plan: Plan) -> str:
    """The exact command that opens the logs, for a shell in the current folder."""
    beside = Path(sys.executable).parent / "tensorboard"
    program = "tensorboard" if shutil.which("tensorboard") == str(beside) else str(beside)
    return shlex.join([program, "--logdir", str(plan.output / "tensorboard")])


def _print_on_its_side(console: Console, shown: Sequence[Column], table: Sequence[Row]) -> None:
    """A column for each regime, as many beside each other as the terminal has room for whole names."""
    for part in parts_that_fit(shown, table, console.width - 2):  # the margins of the titles
        heads = (ShownColumn(regime[0], justify="right", overflow="fold") for regime in part)
        printed = Table(ShownColumn("", no_wrap=True), *heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for index, column in enumerate(shown[1:], start=1):
            printed.add_row(column.title, *(regime[index] for regime in part))
        console.print(printed)
