"""What a comparison ends with: its table, its figure, and how to open its logs."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column as ShownColumn
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from lightning_gap.functional import along_line, batch_statistics, epsilon_name
from lightning_gap.logging import Column, parametric_figure, write_csv, write_markdown
from lightning_gap.logging.tables import Row, cells

from ..evaluation import evaluate, ready_to_measure
from ..gap import gaps, recovered, what_to_look_at
from .notes import table_notes
from .plan import Plan
from .run_result import WEIGHTS, RunResult

Results = Mapping[str, Sequence[RunResult]]


def show_results(console: Console, plan: Plan, results: Results) -> None:
    """Write the table and, of two regimes or more, the figure; print the table and where all of it is."""
    shown, table, notes = columns(plan), rows(plan, results), table_notes(plan)
    title = f"{plan.settings.recipe} on {plan.settings.data}: {', '.join(plan.settings.regimes)}"
    write_csv(plan.output / "table.csv", shown, table)
    write_markdown(plan.output / "table.md", shown, table, title=title, terms=notes)
    written = ["table.csv", "table.md"]
    if len(results) > 1:
        written.append(write_figure(plan).name)
    _print_on_its_side(console, shown, table)
    console.print(notes)
    sentence = what_to_look_at(gaps(_test_accuracy(results)))
    if sentence:
        console.print(f"\n[bold]{sentence}[/bold]")
    console.print(f"\nWritten to {plan.output}: {', '.join(written)}, config.yaml\nOpen the logs with:", soft_wrap=True)
    console.print(f"    {tensorboard_command(plan)}", soft_wrap=True)


def columns(plan: Plan) -> list[Column]:
    """The columns of the comparison's table."""
    names = [epsilon_name(e) for e in plan.settings.epsilon]
    compared = "small" in plan.settings.regimes and len(plan.settings.regimes) > 1
    return [
        Column("regime", "regime"),
        Column("batch_size", "batch"),
        Column("last_batch_size", "batch at the end"),
        Column("epochs", "epochs"),
        Column("steps", "steps"),
        Column("learning_rate", "learning rate at the end"),
        Column("train_accuracy", "train accuracy %", 2),
        Column("test_accuracy", "test accuracy %", 2),
        *([Column("gap_to_small", "gap to small, points", 2)] * compared),
        *([Column("gap_interval", "its 95 % interval")] * compared),
        *([Column("recovered", "of large's gap back, %")] * compared),
        *(Column(f"sharpness_{name}", f"sharpness {name}", 1) for name in names),
        *(Column(f"sharpness_batch_{name}", f"sharpness {name}, batch BN", 1) for name in names),
        Column("distance", "distance from init", 2),
        Column("seconds", "seconds"),
    ]


def rows(plan: Plan, results: Results) -> list[Row]:
    """One row for each regime, one number for each trial; the gap is taken trial by trial."""
    found = gaps(_test_accuracy(results))
    table: list[Row] = []
    for regime, trials in results.items():
        row: dict[str, str | list[float]] = {"regime": regime}
        for name in ("batch_size", "last_batch_size", "epochs", "steps", "learning_rate"):
            seen = dict.fromkeys(f"{getattr(result, name):.6g}" for result in trials)
            row[name] = ", ".join(seen)  # one where all trials saw the same
        for name in ("distance", "seconds"):
            row[name] = [getattr(result, name) for result in trials]
        for name in ("train_accuracy", "test_accuracy"):
            row[name] = [100 * getattr(result, name) for result in trials]
        if regime in found:
            row["gap_to_small"] = list(found[regime].points)
            row["gap_interval"] = "-" if regime == "small" else found[regime].interval
            row["recovered"] = recovered(found, regime)
        for name in map(epsilon_name, plan.settings.epsilon):
            row[f"sharpness_{name}"] = [result.sharpness[name] for result in trials]
            row[f"sharpness_batch_{name}"] = [result.sharpness_batch[name] for result in trials]
        table.append(row)
    return table


def write_figure(plan: Plan) -> Path:
    """Draw loss and accuracy on the line through the first trial's first two solutions, as PNG and for TensorBoard."""
    first, second = plan.runs()[:2]
    start, end = (
        torch.load(run.folder / WEIGHTS, weights_only=True, map_location=plan.device) for run in (first, second)
    )
    recipe = plan.recipe(first.regime, first.seed)
    ready_to_measure(recipe, plan.device)
    data, chunk, most = plan.data(recipe, first.seed), recipe.evaluation_chunk, recipe.sharpness_samples

    def both_splits() -> dict[str, tuple[float, float]]:
        return {split: evaluate(recipe, data.evaluation(split, chunk, most)) for split in ("train", "test")}

    alphas = torch.linspace(-1, 2, 25).tolist()
    with batch_statistics(recipe):
        points = along_line(recipe.network, start, end, alphas, both_splits)
    figure = parametric_figure(
        alphas,
        {split: [point[split][0] for point in points] for split in points[0]},
        {split: [point[split][1] for point in points] for split in points[0]},
        ends=(first.regime, second.regime),
        title=f"{plan.settings.recipe} on {plan.settings.data}, seed {first.seed}; BatchNorm by statistics of chunks "
        f"of up to {chunk:,}",
    )
    path = plan.output / "parametric.png"
    figure.savefig(path, dpi=150)
    with SummaryWriter(str(plan.output / "tensorboard" / "comparison")) as writer:
        writer.add_figure("comparison/parametric", figure)
        writer.add_text("comparison/table", (plan.output / "table.md").read_text(encoding="utf-8"))
    return path


def tensorboard_command(plan: Plan) -> str:
    """The exact command that opens the logs, for a shell in the current folder."""
    beside = Path(sys.executable).parent / "tensorboard"
    program = "tensorboard" if shutil.which("tensorboard") == str(beside) else str(beside)
    return shlex.join([program, "--logdir", str(plan.output / "tensorboard")])


def _test_accuracy(results: Results) -> dict[str, list[float]]:
    return {name: [result.test_accuracy for result in trials] for name, trials in results.items()}


def _print_on_its_side(console: Console, shown: Sequence[Column], table: Sequence[Row]) -> None:
    """A column for each regime, as many beside each other as the terminal has room for whole names."""
    by_regime = [cells(shown, row) for row in table]
    titles = max(len(column.title) for column in shown)
    while by_regime:
        fitting, width = 0, titles + 2
        for regime in by_regime:
            width += max(map(len, regime)) + 1
            if width > console.width and fitting:
                break
            fitting += 1
        part, by_regime = by_regime[:fitting], by_regime[fitting:]
        heads = (ShownColumn(regime[0], justify="right", no_wrap=True) for regime in part)
        printed = Table(ShownColumn("", no_wrap=True), *heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for index, column in enumerate(shown[1:], start=1):
            printed.add_row(column.title, *(regime[index] for regime in part))
        console.print(printed)
